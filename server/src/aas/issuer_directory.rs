//! `GET /.well-known/private-token-issuer-directory` (RFC 9578 §4): answers with the issuer's public keys.

use postern_protocol::{aas::IssuerDirectory, encoding::Encoding, token::DIRECTORY_MEDIA_TYPE};

use super::Aas;
use crate::http::{Answer, Outcome, Request};

pub async fn issuer_directory(aas: Aas, _: Request) -> Outcome {
    Ok(Answer::bytes(DIRECTORY_MEDIA_TYPE, Encoding::Json.encode(&aas.directory())).public())
}

impl Aas {
    /// The issuer's public keys, and where it issues.
    pub fn directory(&self) -> IssuerDirectory {
        IssuerDirectory {
            issuer_request_uri: "/aas/token-request".to_owned(),
            token_keys: self.issuer.ring().directory(),
        }
    }
}
