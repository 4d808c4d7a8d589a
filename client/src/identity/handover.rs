//! Knowledge that this device has of others' identities, for a new device of this user (AS-7): it need not believe the
//! AS anew.

use std::collections::BTreeSet;

use postern_protocol::{
    Payload,
    eid::{EidState, Founding},
    name::UserName,
};
use serde::{Deserialize, Serialize};

use super::known::{self, Kept, Which};
use crate::{
    error::{Error, Result},
    store::Tx,
};

/// A user's identity as it is handed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pin {
    user: UserName,
    founding: Founding,
    eid: EidState,
    public_group: Payload,
    former: Vec<UserName>,
    seen: u64,
    verified: bool,
}

/// The identities of some users, and of those that a person verified.
pub(crate) fn pins(tx: &Tx<'_>, users: Vec<UserName>) -> Result<Vec<Pin>> {
    let mut statement = tx.sql().prepare("SELECT user FROM eids WHERE pending = 0 AND verified = 1")?;
    let verified = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut users: BTreeSet<UserName> = users.into_iter().collect();
    for user in verified {
        users.insert(user.parse().map_err(|_| Error::Damaged("a user name"))?);
    }
    let mut pins = Vec::new();
    for user in users {
        if let Some(Kept { founding, eid, public_group, former, called: _, seen, verified }) =
            known::find(tx, &user, Which::Accepted)?
        {
            let public_group = Payload::new(public_group);
            pins.push(Pin { user, founding, eid, public_group, former, seen, verified });
        }
    }
    Ok(pins)
}

/// Takes over what another device of this user knows, of users that this one does not know yet.
pub(crate) fn take_over_pins(tx: &Tx<'_>, pins: Vec<Pin>) -> Result<()> {
    for Pin { user, founding, eid, public_group, former, seen, verified } in pins {
        if known::find(tx, &user, Which::Accepted)?.is_none() {
            let public_group = public_group.into_bytes();
            let kept = Kept { founding, eid, public_group, former, called: None, seen, verified };
            known::replace(tx, &user, Which::Accepted, &kept)?;
        }
    }
    Ok(())
}
