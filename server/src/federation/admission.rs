//! Admission of what other homeservers send (FED-6), by the verified head of a request: nothing of its body is read for a
//! signer that is none of a homeserver that this one deals with. The API function that the request is for decides once more,
//! in its transaction (FED-2): what is remembered here holds for a moment only.

use std::time::Instant;

use postern_protocol::{PublicKey, name::Domain, problem::ProblemType};

use super::pace::Pace;
use crate::{
    database::{SqlOutcome, outcome},
    home::Home,
    http::Failure,
};

outcome! {
    pub FindSenderOutcome: "federation.find_sender_outcome" {
        Known = "known",
        UnknownSigner = "unknown_signer",
        Blocked = "blocked",
    }
}

/// Lets the signer of a request send its body if it is a homeserver that this one deals with. A stranger has to introduce
/// itself first.
///
/// # Errors
/// `not-allowed`, `homeserver-blocked`; a database that does not answer.
pub async fn admit(home: &Home, pace: &Pace, signer: PublicKey) -> Result<(), Failure> {
    if pace.is_known(&signer, Instant::now()) {
        return Ok(());
    }
    let sql = "SELECT outcome, domain FROM federation.find_sender($1)";
    let row = home.database.query_one(sql, &[&signer.as_bytes().as_slice()]).await?;
    match FindSenderOutcome::of(&row)? {
        FindSenderOutcome::Known => {
            let domain: Domain = row.get::<_, &str>("domain").parse().map_err(Failure::fault)?;
            pace.admitted(signer, &domain, Instant::now());
            Ok(())
        }
        FindSenderOutcome::UnknownSigner => Err(ProblemType::NotAllowed.into()),
        FindSenderOutcome::Blocked => Err(ProblemType::HomeserverBlocked.into()),
    }
}
