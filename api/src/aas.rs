//! Calls to the Anonymous Authentication Service: where tokens come from. Nothing pays for them.

use postern_protocol::{
    aas::IssuerDirectory,
    key::SigningKey,
    name::Domain,
    token::{DIRECTORY_MEDIA_TYPE, DIRECTORY_PATH},
};

use crate::{
    error::{Error, Result},
    http::Http,
    request::Request,
};

impl Http {
    /// `GET /.well-known/private-token-issuer-directory` (RFC 9578 §4): the keys that tokens are
    /// issued under.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn issuer_directory(&self) -> Result<IssuerDirectory> {
        let answer = self.send(&Request::get(DIRECTORY_PATH).accepting(DIRECTORY_MEDIA_TYPE)).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|_| Error::UnexpectedAnswer("no issuer directory".to_owned()))
    }

    /// `POST /aas/token-request`: blinded tokens for a registered client. `directory` says where
    /// to ask, and `origin` is the server's home domain. Request and response are in one of the
    /// formats of RFC 9578 and the batched-tokens draft, which the two media types name
    /// ([`postern_protocol::token`]).
    ///
    /// # Errors
    /// `allowance-used-up`, `unknown-token-key`, `invalid-token-request`, `not-allowed`; and as
    /// [`Http::send`].
    pub async fn issue_tokens(
        &self,
        directory: &IssuerDirectory,
        media_types: (&'static str, &'static str),
        request: Vec<u8>,
        client: &SigningKey,
        origin: &Domain,
    ) -> Result<Vec<u8>> {
        let request = Request::post(directory.issuer_request_uri.clone())
            .body(media_types.0, request)
            .accepting(media_types.1)
            .signed_by(client, origin);
        let answer = self.send(&request).await?;
        // Whatever else comes is from somebody between: the tokens may still be had.
        if answer.content_type != media_types.1 {
            return Err(Error::UnexpectedAnswer("tokens of another media type".to_owned()));
        }
        Ok(answer.body)
    }
}
