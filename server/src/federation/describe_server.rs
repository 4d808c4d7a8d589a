//! `GET /.well-known/postern` (FED-1): answers with the description of this homeserver, signed by each of its keys that
//! can sign, so that others know it by any of them.

use http::StatusCode;
use postern_protocol::{
    Payload,
    federation::{Description, KeySignature, ServerKey, VERSION},
    key::PublishedKey,
};

use super::Federation;
use crate::{
    clock::{DAY, now},
    http::{Failure, Outcome, Request},
};

/// Seconds to which the time of a description is rounded down.
const STEP: u64 = 60;
/// Time for which a description holds, in seconds.
const LIFETIME: u64 = DAY;

pub async fn describe_server(federation: Federation, request: Request) -> Outcome {
    let sql = "SELECT federation.relays_for_others(), g.generation FROM operator.current_generation() g";
    let row = federation.home.database.query_one(sql, &[]).await?;
    let generation = u64::try_from(row.get::<_, i64>(1)).map_err(Failure::fault)?;
    let description = federation.description(row.get(0), generation).map_err(Failure::fault)?;
    Ok(request.answer(StatusCode::OK, &description)?.public())
}

impl Federation {
    /// The description as of now, signed.
    ///
    /// # Errors
    /// There is no key that can sign.
    fn description(&self, relays_for_others: bool, generation: u64) -> anyhow::Result<Description> {
        let keys = self.server_keys.now();
        keys.signer(|_| true)?;
        let issued = now() / STEP * STEP;
        let key = |(key, endorsement): &(PublishedKey, Option<KeySignature>)| ServerKey {
            public_key: key.public_key,
            not_before: key.not_before,
            not_after: key.not_after,
            endorsement: endorsement.clone(),
        };
        let mut description = Description {
            domain: self.home.domain.clone(),
            versions: vec![VERSION],
            base_url: self.base_url.to_string(),
            keys: keys.chain().iter().map(key).collect(),
            revoked: keys.revoked().to_vec(),
            gateway_keys: Payload::new(self.gateway_keys.published()),
            issuer: self.aas.directory(),
            relays_for_others,
            generation,
            issued,
            expires: issued + LIFETIME,
            signatures: Vec::new(),
        };
        for signer in keys.signers() {
            description.sign(&signer.key);
        }
        Ok(description)
    }
}
