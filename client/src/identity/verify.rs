//! Verifying a user's record (AS-3): the whole history of the user's devices, every credential
//! and every contact.

use openmls::prelude::{
    BasicCredential, MlsMessageBodyIn, ProcessedMessageContent, ProposalStore, PublicGroup, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    IssuedCredential, PublicKey,
    auth::{SignedContact, UserRecord},
    credential::ClientCredential,
    key::PublishedKey,
    name::UserName,
};
use tls_codec::Deserialize as _;

use crate::{error::IdentityError, mls};

/// A user whose devices were verified (AS-3).
#[derive(Debug, Clone)]
pub struct VerifiedUser {
    pub name: UserName,
    /// The devices that are in the user's EID now.
    pub clients: Vec<VerifiedClient>,
}

/// One device of a user.
#[derive(Debug, Clone)]
pub struct VerifiedClient {
    /// The device's key at the AS (Ed25519).
    pub client_key: PublicKey,
    /// Where to reach it for the first time; absent until it finished its registration.
    pub contact: Option<SignedContact>,
}

/// The EID that a record ends in.
pub(super) struct Eid {
    pub group_id: Vec<u8>,
    pub epoch: u64,
}

/// Verifies a user's record, as of `now` (seconds since 1970), with the published keys of the AS.
pub(super) fn verify(
    record: &UserRecord,
    name: &UserName,
    keys: &[PublishedKey],
    now: u64,
) -> Result<(VerifiedUser, Eid), IdentityError> {
    if record.name != *name {
        return Err(IdentityError::OtherUser);
    }
    let (eid, devices) = replay(record)?;
    let clients = record
        .clients
        .iter()
        // The credential of a device that was off for long may be over: the device gets another when it is back, and is unknown
        // until then.
        .filter(|client| !has_run_out(&client.credential, now))
        .map(|client| {
            let credential = verify_credential(&client.credential, keys, now)?;
            if credential.user != *name {
                return Err(IdentityError::OtherUser);
            }
            if !devices.contains(&credential.client_key) {
                return Err(IdentityError::NotADevice);
            }
            if let Some(contact) = &client.contact {
                contact.verify(credential.client_key).map_err(|_| IdentityError::Contact)?;
            }
            Ok(VerifiedClient { client_key: credential.client_key, contact: client.contact.clone() })
        })
        .collect::<Result<_, _>>()?;
    Ok((VerifiedUser { name: name.clone(), clients }, eid))
}

fn has_run_out(credential: &IssuedCredential, now: u64) -> bool {
    ClientCredential::parse(credential).is_ok_and(|credential| credential.not_after < now)
}

/// Verifies that a published key of the AS signed a credential, and that both are valid at `now`.
pub(super) fn verify_credential(
    credential: &IssuedCredential,
    keys: &[PublishedKey],
    now: u64,
) -> Result<ClientCredential, IdentityError> {
    let issuer = ClientCredential::parse(credential).map_err(|_| IdentityError::Credential)?.issuer_key;
    keys.iter()
        .find(|key| key.public_key == issuer && key.is_valid_at(now))
        .ok_or(IdentityError::Credential)?;
    ClientCredential::verify(credential, issuer, now).map_err(|_| IdentityError::Credential)
}

/// Follows the EID from epoch 0 through every commit, as a member would, to the keys of the
/// user's devices.
fn replay(record: &UserRecord) -> Result<(Eid, Vec<PublicKey>), IdentityError> {
    let provider = OpenMlsRustCrypto::default();
    let Some(MlsMessageBodyIn::GroupInfo(group_info)) = mls::parse(record.group_info.as_bytes()) else {
        return Err(IdentityError::History("no GroupInfo"));
    };
    let tree = RatchetTreeIn::tls_deserialize_exact(record.ratchet_tree.as_bytes())
        .map_err(|_| IdentityError::History("no ratchet tree"))?;
    let (mut group, _) = PublicGroup::from_external(
        provider.crypto(),
        provider.storage(),
        tree,
        group_info,
        ProposalStore::new(),
    )
    .map_err(|_| IdentityError::History("its beginning does not verify"))?;
    if group.group_context().epoch().as_u64() != 0 || group.members().count() != 1 {
        return Err(IdentityError::History("it does not begin with one device in epoch 0"));
    }
    devices(&group, &record.name)?;
    for commit in &record.commits {
        let Some(MlsMessageBodyIn::PublicMessage(commit)) = mls::parse(commit.as_bytes()) else {
            return Err(IdentityError::History("a commit is no public message"));
        };
        let staged = match group.process_message(provider.crypto(), commit) {
            Ok(message) => match message.into_content() {
                ProcessedMessageContent::StagedCommitMessage(staged) => staged,
                _ => return Err(IdentityError::History("a message is no commit")),
            },
            Err(_) => return Err(IdentityError::History("a commit does not verify")),
        };
        group
            .merge_commit(provider.storage(), *staged)
            .map_err(|_| IdentityError::History("a commit does not apply"))?;
        devices(&group, &record.name)?;
    }
    let eid =
        Eid { group_id: group.group_id().as_slice().to_vec(), epoch: group.group_context().epoch().as_u64() };
    Ok((eid, devices(&group, &record.name)?))
}

/// Every leaf must be a device of this one user.
fn devices(group: &PublicGroup, name: &UserName) -> Result<Vec<PublicKey>, IdentityError> {
    group
        .members()
        .map(|member| {
            let credential = BasicCredential::try_from(member.credential)
                .map_err(|_| IdentityError::History("a device has another kind of credential"))?;
            if credential.identity() != name.to_string().as_bytes() {
                return Err(IdentityError::History("a device is somebody else's"));
            }
            mls::public_key(&member.signature_key)
                .ok_or(IdentityError::History("a device has another kind of key"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::eid, options::Options, store::Store};
    use postern_protocol::{Address, HpkePublicKey, auth::ClientRecord, key::SigningKey};

    struct World {
        store: Store,
        _directory: tempfile::TempDir,
        issuer: SigningKey,
        client: SigningKey,
        name: UserName,
    }

    const NOW: u64 = 1_000;

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self {
                store: Store::create(directory.path(), &Options::default()).unwrap(),
                _directory: directory,
                issuer: SigningKey::generate(),
                client: SigningKey::generate(),
                name: "alice@example.org".parse().unwrap(),
            }
        }

        fn credential(&self, client_key: PublicKey) -> IssuedCredential {
            let credential = ClientCredential {
                user: self.name.clone(),
                client_key,
                not_before: 0,
                not_after: 2 * NOW,
                issuer_key: self.issuer.public_key(),
            };
            credential.issue(&self.issuer)
        }

        fn record(&self) -> UserRecord {
            let (_, user) = self.store.write(|tx| eid::create(tx, &self.name, &self.client)).unwrap();
            let contact = SignedContact::sign(
                self.name.domain().clone(),
                Address::new([1; 32]),
                HpkePublicKey::new([2; 32]),
                &self.client,
            );
            UserRecord {
                name: user.name,
                group_info: user.group_info,
                ratchet_tree: user.ratchet_tree,
                commits: Vec::new(),
                more: false,
                clients: vec![ClientRecord {
                    credential: self.credential(self.client.public_key()),
                    contact: Some(contact),
                }],
            }
        }

        fn verify(&self, record: &UserRecord) -> Result<VerifiedUser, IdentityError> {
            let key =
                PublishedKey { public_key: self.issuer.public_key(), not_before: 0, not_after: 2 * NOW };
            verify(record, &self.name, &[key], NOW).map(|(user, _)| user)
        }
    }

    #[test]
    fn an_honest_record_verifies() {
        let world = World::new();
        let user = world.verify(&world.record()).unwrap();
        assert_eq!(user.clients[0].client_key, world.client.public_key());
    }

    #[test]
    fn a_device_whose_credential_ran_out_is_not_in_the_way_of_the_users_others() {
        let world = World::new();
        let mut record = world.record();
        let old = ClientCredential {
            user: world.name.clone(),
            client_key: SigningKey::generate().public_key(),
            not_before: 0,
            not_after: NOW - 1,
            issuer_key: world.issuer.public_key(),
        };
        record.clients.push(ClientRecord { credential: old.issue(&world.issuer), contact: None });
        let user = world.verify(&record).unwrap();
        assert_eq!(user.clients.len(), 1);
        assert_eq!(user.clients[0].client_key, world.client.public_key());
    }

    #[test]
    fn a_device_outside_the_eid_is_refused() {
        let world = World::new();
        let mut record = world.record();
        let ghost = SigningKey::generate();
        record.clients[0] = ClientRecord { credential: world.credential(ghost.public_key()), contact: None };
        assert_eq!(world.verify(&record).unwrap_err(), IdentityError::NotADevice);
    }

    #[test]
    fn a_substituted_contact_or_issuer_is_refused() {
        let world = World::new();
        let mut record = world.record();
        let other = SigningKey::generate();
        let contact = SignedContact::sign(
            world.name.domain().clone(),
            Address::new([9; 32]),
            HpkePublicKey::new([9; 32]),
            &other,
        );
        record.clients[0].contact = Some(contact);
        assert_eq!(world.verify(&record).unwrap_err(), IdentityError::Contact);
        let record = world.record();
        let stranger = World { issuer: other, ..world };
        assert_eq!(stranger.verify(&record).unwrap_err(), IdentityError::Credential);
    }
}
