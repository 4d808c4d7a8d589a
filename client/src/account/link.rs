//! The two blobs by which a device is added (AS-3). They travel between the new device and one the user
//! has, by any way the user trusts. Neither holds a secret in clear: the content of
//! the grant is sealed to the keys that the request came with.
//!
//! A blob is one line of text: its label, a dot, and CBOR in unpadded base64url.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use postern_protocol::{HpkePublicKey, MlsMessage, Payload, encoding::Encoding, name::UserName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// From the new device: "add me to this user". As text, `postern-link-request.` and base64url.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkRequest {
    pub user: UserName,
    /// An `MLSMessage` holding a KeyPackage for the EID; its leaf key is the client key.
    pub key_package: MlsMessage,
    /// The key that the handover is sealed to.
    pub hpke_key: HpkePublicKey,
}

/// From a device of the user: "you are added". As text, `postern-link-grant.` and base64url.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkGrant {
    pub user: UserName,
    /// Everything that the user's devices share, sealed to the new device.
    pub handover: Payload,
}

impl LinkRequest {
    const LABEL: &str = "postern-link-request";

    /// One line of text.
    pub fn to_text(&self) -> String {
        to_text(Self::LABEL, self)
    }

    /// Reads the line back; white space around it is ignored.
    ///
    /// # Errors
    /// [`Error::BadBlob`].
    pub fn from_text(text: &str) -> Result<Self> {
        from_text(Self::LABEL, text).ok_or(Error::BadBlob("link request"))
    }
}

impl LinkGrant {
    const LABEL: &str = "postern-link-grant";

    /// One line of text.
    pub fn to_text(&self) -> String {
        to_text(Self::LABEL, self)
    }

    /// Reads the line back; white space around it is ignored.
    ///
    /// # Errors
    /// [`Error::BadBlob`].
    pub fn from_text(text: &str) -> Result<Self> {
        from_text(Self::LABEL, text).ok_or(Error::BadBlob("link grant"))
    }
}

fn to_text<T: Serialize>(label: &str, value: &T) -> String {
    format!("{label}.{}", URL_SAFE_NO_PAD.encode(Encoding::Cbor.encode(value)))
}

fn from_text<T: DeserializeOwned>(label: &str, text: &str) -> Option<T> {
    let bytes = text.trim().strip_prefix(label)?.strip_prefix('.')?;
    Encoding::Cbor.decode(&URL_SAFE_NO_PAD.decode(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_one_line_and_survives_it() {
        let request = LinkRequest {
            user: "alice@example.org".parse().unwrap(),
            key_package: MlsMessage::new(vec![1, 2, 3]),
            hpke_key: HpkePublicKey::new([4; 32]),
        };
        let text = request.to_text();
        assert_eq!(text.lines().count(), 1);
        let read = LinkRequest::from_text(&format!("{text}\n")).unwrap();
        assert_eq!(read.key_package, request.key_package);
        assert!(LinkGrant::from_text(&text).is_err(), "one is not the other");
        assert!(LinkRequest::from_text(&text[..text.len() - 2]).is_err());
    }
}
