//! Asking the AS for a user.

use postern_protocol::name::UserName;

use super::{
    known,
    verify::{self, VerifiedUser},
};
use crate::{error::Result, server::Api, store::Store};

/// Asks the AS for a user and verifies the answer: the whole history of the user's
/// devices, every credential, every contact, and that nothing went back.
pub(crate) async fn look_up(api: &Api, store: &Store, name: &UserName) -> Result<VerifiedUser> {
    let record = api.look_up_user(name).await?;
    let keys = api.http.authentication_keys().await?.keys;
    let (user, eid) = verify::verify(&record, name, &keys, store.now())?;
    store.write(|tx| known::keep(tx, &user, &eid))?;
    Ok(user)
}
