//! `PUT /as/contact` (AS-5): publishes the address at which a client takes first contact. The
//! address leads to a queue, so the AS keeps it sealed under the master key: a dump of the database
//! joins no name to any queue (PRIV-1).

use http::StatusCode;
use postern_protocol::{
    PublicKey,
    auth::{PublishContact, SignedContact},
    encoding::Encoding,
    problem::ProblemType,
};

use super::As;
use crate::{
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
    keys::MasterKeys,
};

const PURPOSE: &str = "AS contact";

outcome! {
    pub PublishContactOutcome: "auth.publish_contact_outcome", paid {
        Published = "published",
        UnknownClient = "unknown_client",
    }
}

pub async fn publish_contact(auth: As, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<PublishContact>()?;
    auth.home.expect_local(&body.contact.domain)?;
    body.contact.verify(signer).map_err(|_| ProblemType::NotAllowed)?;
    let (outcome, _) = payment
        .call(
            &auth.home.database,
            "SELECT outcome FROM auth.publish_contact($1, $2, $3, $4)",
            &[&signer.as_bytes().as_slice(), &seal(&auth.home.master_key, signer, &body.contact)],
        )
        .await?;
    match outcome {
        PublishContactOutcome::Published => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        PublishContactOutcome::UnknownClient => Err(ProblemType::NotAllowed.into()),
    }
}

fn seal(master_key: &MasterKeys, client: PublicKey, contact: &SignedContact) -> Vec<u8> {
    master_key.seal(PURPOSE, client.as_bytes(), &Encoding::Cbor.encode(contact))
}

/// Opens a contact that was sealed here for `client`.
///
/// # Errors
/// A fault: the master key is another one, or the row was changed.
pub fn open(master_key: &MasterKeys, client: PublicKey, sealed: &[u8]) -> Result<SignedContact, Failure> {
    let contact = master_key.open(PURPOSE, client.as_bytes(), sealed).map_err(Failure::fault)?;
    Encoding::Cbor.decode(&contact).map_err(Failure::fault)
}
