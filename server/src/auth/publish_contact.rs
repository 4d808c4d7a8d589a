//! `PUT /as/contact` (AS-5): where a client takes first contact. The address leads to a
//! queue, so the AS keeps it sealed under the master key: a dump of the database joins no
//! name to any queue (PRIV-1).

use http::StatusCode;
use postern_protocol::{
    PublicKey,
    auth::{PublishContact, SignedContact},
    encoding::Encoding,
    problem::ProblemType,
};

use crate::{
    app::App,
    master_key::MasterKey,
    road::{Answer, Failure, Outcome, Payment, Request},
};

const PURPOSE: &str = "AS contact";

pub async fn publish_contact(app: App, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<PublishContact>()?;
    if body.contact.domain != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    body.contact.verify(signer).map_err(|_| ProblemType::NotAllowed)?;
    let row = payment
        .call(
            &app.database,
            "SELECT outcome FROM auth.publish_contact($1, $2, $3, $4)",
            &[&signer.as_bytes().as_slice(), &seal(&app.master_key, signer, &body.contact)],
        )
        .await?;
    match row.get("outcome") {
        "published" => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        "unknown_client" => Err(ProblemType::NotAllowed.into()),
        other => Err(Failure::unexpected(other)),
    }
}

fn seal(master_key: &MasterKey, client: PublicKey, contact: &SignedContact) -> Vec<u8> {
    master_key.seal(PURPOSE, client.as_bytes(), &Encoding::Cbor.encode(contact))
}

/// Opens what was sealed here for `client`.
///
/// # Errors
/// A fault: the master key is another one, or the row was changed.
pub fn open(master_key: &MasterKey, client: PublicKey, sealed: &[u8]) -> Result<SignedContact, Failure> {
    let contact = master_key.open(PURPOSE, client.as_bytes(), sealed).map_err(Failure::fault)?;
    Encoding::Cbor.decode(&contact).map_err(Failure::fault)
}
