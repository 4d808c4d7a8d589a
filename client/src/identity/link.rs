//! A member's statement of which client it is.

use postern_protocol::{
    IssuedCredential, PublicKey, Signature, credential::ClientCredential, ds::GroupId, key::SigningKey,
    label::Label,
};
use serde::{Deserialize, Serialize};

/// A member's word that it is a certain client: the credential the AS issued, and a
/// signature of the client's key over the leaf key it uses in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityLink {
    /// The client's credential, as the AS issued it.
    pub credential: IssuedCredential,
    /// By the client's key (Ed25519, 64 bytes), over [`IdentityLink::to_be_signed`].
    pub signature: Signature,
}

impl IdentityLink {
    /// `group` is absent for the key of a KeyPackage that is in no group yet.
    pub fn sign(
        client: &SigningKey,
        credential: IssuedCredential,
        group: Option<&GroupId>,
        leaf_key: &PublicKey,
    ) -> Self {
        let signature = client.sign(&Self::to_be_signed(group, leaf_key));
        Self { credential, signature }
    }

    /// `"Postern identity link" || 0 || group id, if any || leaf key`
    pub fn to_be_signed(group: Option<&GroupId>, leaf_key: &PublicKey) -> Vec<u8> {
        let group = group.map(GroupId::to_mls).unwrap_or_default();
        Label::IDENTITY_LINK.followed_by(&[&group, leaf_key.as_bytes()])
    }

    /// The client that the link names, if that client signed it for this leaf. Whether the AS
    /// vouches for the client is another question.
    pub fn claim(&self, group: &GroupId, leaf_key: &PublicKey) -> Option<ClientCredential> {
        let credential = ClientCredential::parse(&self.credential).ok()?;
        let signed_for = |group| {
            credential.client_key.verify(&Self::to_be_signed(group, leaf_key), &self.signature).is_ok()
        };
        (signed_for(Some(group)) || signed_for(None)).then_some(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::name::UserName;

    #[test]
    fn a_link_belongs_to_one_leaf() {
        let (issuer, client) = (SigningKey::generate(), SigningKey::generate());
        let user: UserName = "alice@example.org".parse().unwrap();
        let credential = ClientCredential {
            user: user.clone(),
            client_key: client.public_key(),
            not_before: 0,
            not_after: 2_000,
            issuer_key: issuer.public_key(),
        };
        let credential = || credential.issue(&issuer);
        let group = GroupId::new([3; 16], user.domain().clone());
        let (leaf, other) = (PublicKey::new([4; 32]), PublicKey::new([5; 32]));
        for scope in [Some(&group), None] {
            let link = IdentityLink::sign(&client, credential(), scope, &leaf);
            assert_eq!(link.claim(&group, &leaf).unwrap().user, user);
            assert!(link.claim(&group, &other).is_none());
        }
        let elsewhere = GroupId::new([6; 16], user.domain().clone());
        let link = IdentityLink::sign(&client, credential(), Some(&elsewhere), &leaf);
        assert!(link.claim(&group, &leaf).is_none());
    }
}
