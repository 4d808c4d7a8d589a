//! The keys that tokens are issued under, as the own homeserver shows them.

use postern_api::Http;
use postern_protocol::aas::IssuerDirectory;

use super::pins;
use crate::{
    error::Result,
    missed,
    store::Store,
    strangers::{self, Published as _},
};

/// Asks for the issuer directory. One with keys that are not known is compared with what strangers see, and so is any
/// once a day (AAS-7). If that fails for long while the homeserver is there, the user is told.
///
/// # Errors
/// [`Error::Issuer`](crate::Error::Issuer) when strangers see other keys, or there are too many.
pub(super) async fn trusted(store: &Store, http: &Http) -> Result<IssuerDirectory> {
    let compared = compared(store, http).await;
    missed::note(store, http, IssuerDirectory::NAME, compared.as_ref().err()).await?;
    compared
}

async fn compared(store: &Store, http: &Http) -> Result<IssuerDirectory> {
    let shown = http.issuer_directory().await?;
    pins::check_number(&shown)?;
    if store.read(|tx| pins::is_known(tx, &shown))? {
        return Ok(shown);
    }
    let shown = strangers::compare(store, http, shown).await?;
    pins::check_number(&shown)?;
    store.write(|tx| pins::keep(tx, &shown))?;
    Ok(shown)
}
