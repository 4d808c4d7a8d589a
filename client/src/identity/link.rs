//! A member's statement of which client it is.

use postern_protocol::{
    IssuedCredential, PublicKey, Signature, credential::ClientCredential, ds::GroupId, key::SigningKey,
    label::Label,
};
use serde::{Deserialize, Serialize};

/// The statement that a leaf is a certain client's, which both make: the client's key signs the leaf
/// key, and the leaf's key signs the client key. Neither can claim the other alone. It is bound to one
/// group, or to the leaf key of one KeyPackage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityLink {
    /// The client's credential, as the AS issued it.
    pub credential: IssuedCredential,
    /// By the client's key (Ed25519, 64 bytes), over [`IdentityLink::client_signs`].
    pub signature: Signature,
    /// By the leaf's key (Ed25519, 64 bytes), over [`IdentityLink::leaf_signs`].
    pub leaf_signature: Signature,
}

impl IdentityLink {
    /// `group` is absent for the key of a KeyPackage that is in no group yet.
    pub fn sign(
        client: &SigningKey,
        credential: IssuedCredential,
        group: Option<&GroupId>,
        leaf: &SigningKey,
    ) -> Self {
        Self {
            credential,
            signature: client.sign(&Self::client_signs(group, &leaf.public_key())),
            leaf_signature: leaf.sign(&Self::leaf_signs(group, &client.public_key())),
        }
    }

    /// `"Postern identity link" || 0 || group id, if any || leaf key`
    pub fn client_signs(group: Option<&GroupId>, leaf_key: &PublicKey) -> Vec<u8> {
        let group = group.map(GroupId::to_mls).unwrap_or_default();
        Label::IDENTITY_LINK.followed_by(&[&group, leaf_key.as_bytes()])
    }

    /// `"Postern leaf link" || 0 || group id, if any || client key`
    pub fn leaf_signs(group: Option<&GroupId>, client_key: &PublicKey) -> Vec<u8> {
        let group = group.map(GroupId::to_mls).unwrap_or_default();
        Label::LEAF_LINK.followed_by(&[&group, client_key.as_bytes()])
    }

    /// The client that the link names, if both keys signed it for each other, in this group or for a
    /// KeyPackage. Whether the AS vouches for the client is another question.
    pub fn claim(&self, group: &GroupId, leaf_key: &PublicKey) -> Option<ClientCredential> {
        self.claim_for(Some(group), leaf_key).or_else(|| self.claim_for(None, leaf_key))
    }

    /// The client that the link names, if both keys signed it for each other, in this group, or for a
    /// KeyPackage if none is named.
    pub fn claim_for(&self, group: Option<&GroupId>, leaf_key: &PublicKey) -> Option<ClientCredential> {
        let credential = ClientCredential::parse(&self.credential).ok()?;
        let client_key = credential.client_key;
        client_key.verify(&Self::client_signs(group, leaf_key), &self.signature).ok()?;
        leaf_key.verify(&Self::leaf_signs(group, &client_key), &self.leaf_signature).ok()?;
        Some(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::name::UserName;

    #[test]
    fn a_link_belongs_to_one_leaf_and_one_client_that_both_signed_it() {
        let (issuer, client) = (SigningKey::generate(), SigningKey::generate());
        let user: UserName = "alice@example.org".parse().unwrap();
        let credential = |client: &SigningKey| {
            let credential = ClientCredential {
                user: user.clone(),
                client_key: client.public_key(),
                not_before: 0,
                not_after: 2_000,
                issuer_key: issuer.public_key(),
            };
            credential.issue(&issuer)
        };
        let group = GroupId::new([3; 16], user.domain().clone());
        let (leaf, other) = (SigningKey::generate(), SigningKey::generate());
        for scope in [Some(&group), None] {
            let link = IdentityLink::sign(&client, credential(&client), scope, &leaf);
            assert_eq!(link.claim(&group, &leaf.public_key()).unwrap().user, user);
            assert!(link.claim(&group, &other.public_key()).is_none());

            // The client alone takes no leaf, and the leaf alone takes no client.
            let by_other = IdentityLink::sign(&client, credential(&client), scope, &other);
            let taken = IdentityLink {
                signature: client.sign(&IdentityLink::client_signs(scope, &leaf.public_key())),
                ..by_other
            };
            assert!(taken.claim(&group, &leaf.public_key()).is_none());
            let thief = SigningKey::generate();
            let by_thief = IdentityLink::sign(&thief, credential(&thief), scope, &leaf);
            let taken = IdentityLink { credential: credential(&client), ..by_thief };
            assert!(taken.claim(&group, &leaf.public_key()).is_none());
        }
        let elsewhere = GroupId::new([6; 16], user.domain().clone());
        let link = IdentityLink::sign(&client, credential(&client), Some(&elsewhere), &leaf);
        assert!(link.claim(&group, &leaf.public_key()).is_none());
    }
}
