//! Labels: each says what a hash, a MAC, a signature, a sealed text or a derived key is for, so that bytes made for one
//! use are worthless for another. All labels of the system are here, each ended by a zero byte: none is the beginning
//! of another, whatever follows it.

/// A label, written in front of what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(&'static str);

macro_rules! labels {
    ($($name:ident $text:literal $use:literal;)*) => {
        impl Label {
            $(#[doc = $use] pub const $name: Self = Self(concat!($text, "\0"));)*

            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

labels! {
    ADDRESS_LOOKUP "Postern address lookup" "Hash by which an address is found.";
    ADDRESS_SEAL "Postern address seal" "Key that an address's queue id is sealed under.";
    ADDRESS_BINDING "Postern address binding" "Value that ties an address to its first (domain, group).";
    ADDRESS_PUSH "Postern address push" "Key that an address's push is sealed under.";
    CARD_STATE "Postern card state" "Signature of a client over the state of its user's identity in the card of its leaf.";
    CHAIN_HEADER "Postern chain header" "HPKE info of a chain's header.";
    CHAIN_KEY "Postern chain key" "Next key of a chain.";
    CHAIN_MESSAGE "Postern chain message" "Key of a chain's message.";
    CLIENT_CREDENTIAL "Postern client credential" "Signature of the AS over a client credential.";
    CONTACT "Postern contact" "Signature of a client over its contact.";
    CONTACT_LETTER "Postern contact letter" "Signature of a client over a letter.";
    CONTACT_SEAL "Postern contact seal" "HPKE info of a letter.";
    EID_COMMIT "Postern EID commit" "Hash by which a commit extends an identity's transcript.";
    EID_FOUNDING "Postern EID founding" "Hash that an identity's transcript begins with.";
    EID_STATE "Postern EID state" "Signature of a client over the state of its user's identity.";
    FRESHNESS_TICKET "Postern freshness ticket" "Signature of the AS over the current state of an identity.";
    FRIENDSHIP_LOOKUP "Postern friendship lookup" "Hash by which a friendship is found.";
    FRIENDSHIP_SEAL "Postern friendship seal" "Key that a friendship's stock keys are sealed under.";
    GROUP_STATE "Postern group state" "Key that a group's state is sealed under.";
    GROUP_BLOB "Postern group blob" "Associated data of a group's sealed state.";
    HANDOVER_ROSTER "Postern handover roster" "Hash of a device or an admin in a group that is handed over.";
    IDENTITY_LINK "Postern identity link" "Signature of a client over the key of its leaf in a group.";
    ISSUER_CERTIFICATE "Postern issuer certificate" "Signature of a domain's root over a key that signs its client credentials.";
    INVITE "Postern invite" "Hash by which an invite is found.";
    JOIN "Postern join" "Signature of a user's key over a leaf that enters by external commit.";
    JOINER "Postern joiner" "Tag by which the tree kept for a joiner is found.";
    KEY_PACKAGE_BATCH "Postern key package batch" "Signature of the QS over a batch of KeyPackages.";
    LEAF_LINK "Postern leaf link" "Signature of a leaf in a group over the key of its client.";
    LINK_SEAL "Postern link seal" "HPKE info of the secrets for a user's new device.";
    PUSH_SUBSCRIPTION "Postern push subscription" "Associated data of a sealed push subscription.";
    QUEUE_OWNER "Postern queue owner" "Signature of a queue's new owner.";
    QUEUE_SHARES "Postern queue shares" "Key that the counts of a queue's addresses are sealed under.";
    LOOKUP_DIGEST "Postern lookup digest" "Hash by which the AS knows a lookup secret.";
    LOOKUP_SECRET "Postern lookup secret" "Secret that a profile key gives for lookups.";
    PROFILE "Postern profile" "Signature of a client over its user's profile.";
    REGISTRATION_NONCE "Postern registration nonce" "Nonce that ties an ID token to a client that registers.";
    RECOVERY_KEY "Postern recovery key" "Seed of the key that signs for a recovery key.";
    SECOND_PROOF "Postern second proof" "Signature of a recovery key over what cannot be undone.";
    SECOND_PROOF_NONCE "Postern second proof nonce" "Nonce that ties an ID token to what it proves for an account's owner.";
    RENDEZVOUS_CONFIRMATION "Postern rendezvous confirmation" "Proof of one side of a rendezvous that it has the secret.";
    RENDEZVOUS_PAYLOAD "Postern rendezvous payload" "Key that the payloads of one side of a rendezvous are sealed under.";
    RENDEZVOUS_SIDE "Postern rendezvous side" "Identity of one side of a rendezvous in the agreement of a secret.";
    SAFETY_NUMBER "Postern safety number" "Hash of a user's identity that people compare.";
    SERVER_DESCRIPTION "Postern server description" "Signature of a homeserver over its description.";
    SERVER_KEY "Postern server key" "Signature of a homeserver's key over the key that follows it.";
    TOKEN_KEY "Postern token key" "Digest of an issuer's token key that friends compare.";
    USED_ID_TOKEN "Postern used ID token" "Hash by which an ID token is remembered that was an owner's proof.";
    USED_SIGNATURE "Postern used signature" "Hash by which a request's signature is remembered.";
    WAKE_SEAL "Postern wake seal" "Key that notifications of the database are sealed under.";
}

impl Label {
    /// The text and the zero byte.
    pub const fn as_bytes(self) -> &'static [u8] {
        self.0.as_bytes()
    }

    /// The label, and the parts that follow it.
    pub fn followed_by(self, parts: &[&[u8]]) -> Vec<u8> {
        [&[self.as_bytes()], parts].concat().concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_is_the_beginning_of_another() {
        for (place, label) in Label::ALL.iter().enumerate() {
            let text = label.0.strip_suffix('\0').expect("a zero byte ends it");
            assert!(text.starts_with("Postern ") && text.is_ascii() && !text.contains('\0'), "{text}");
            for (other_place, other) in Label::ALL.iter().enumerate() {
                assert!(place == other_place || !other.as_bytes().starts_with(label.as_bytes()), "{text}");
            }
        }
    }
}
