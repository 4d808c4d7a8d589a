//! Who is behind a key (AS-2, AS-3, AS-5): verifies a user's record from the AS, and the
//! links by which members of a group show their names to each other and to nobody else.
//! The client's own evolving identity, as its member, is in [`crate::eid`].

use openmls::prelude::{
    BasicCredential, MlsMessageBodyIn, ProcessedMessageContent, ProposalStore, PublicGroup, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    IssuedCredential, PublicKey, Signature,
    auth::{SignedContact, UserRecord},
    credential::ClientCredential,
    ds::GroupId,
    key::{PublishedKey, SigningKey},
    name::UserName,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use tls_codec::Deserialize as _;

use crate::{
    error::{Error, IdentityError, Result},
    mls,
    server::Api,
    store::{Store, Tx, integer},
    wallet::now,
};

/// A user whose devices were verified.
#[derive(Debug, Clone)]
pub struct VerifiedUser {
    pub name: UserName,
    pub clients: Vec<VerifiedClient>,
}

#[derive(Debug, Clone)]
pub struct VerifiedClient {
    pub client_key: PublicKey,
    pub contact: Option<SignedContact>,
}

/// A member's word that it is a certain client: the credential the AS issued, and a
/// signature of the client's key over the leaf key it uses in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityLink {
    pub credential: IssuedCredential,
    /// By the client's key, over [`IdentityLink::to_be_signed`].
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

    /// `"Postern identity link" || group id, if any || leaf key`
    pub fn to_be_signed(group: Option<&GroupId>, leaf_key: &PublicKey) -> Vec<u8> {
        let group = group.map(GroupId::to_mls).unwrap_or_default();
        [b"Postern identity link", group.as_slice(), leaf_key.as_bytes()].concat()
    }

    /// What the link claims, if the client it names signed it for this leaf. That the AS
    /// vouches for the client is a question of its own.
    pub fn claim(&self, group: &GroupId, leaf_key: &PublicKey) -> Option<ClientCredential> {
        let credential = ClientCredential::parse(&self.credential).ok()?;
        let signed_for = |group| {
            credential.client_key.verify(&Self::to_be_signed(group, leaf_key), &self.signature).is_ok()
        };
        (signed_for(Some(group)) || signed_for(None)).then_some(credential)
    }
}

/// Asks the AS for a user and verifies the answer: the whole history of the user's
/// devices, every credential, every contact, and that nothing went back.
pub(crate) async fn look_up(api: &Api, store: &Store, name: &UserName) -> Result<VerifiedUser> {
    let record = api.look_up_user(name).await?;
    let keys = api.http.authentication_keys().await?.keys;
    let (user, eid) = verify(&record, name, &keys, now())?;
    store.write(|tx| {
        pin(tx, name, &eid)?;
        for client in &user.clients {
            tx.sql()
                .prepare_cached("INSERT OR REPLACE INTO identities (client_key, user) VALUES (?1, ?2)")?
                .execute(params![client.client_key.as_bytes(), name.to_string()])?;
        }
        Ok(())
    })?;
    Ok(user)
}

/// The user whose client this is, if a lookup confirmed it.
pub(crate) fn confirmed(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<UserName>> {
    let name: Option<String> = tx
        .sql()
        .prepare_cached("SELECT user FROM identities WHERE client_key = ?1")?
        .query_row([client_key.as_bytes()], |row| row.get(0))
        .optional()?;
    name.map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).transpose()
}

/// The EID a record ends in.
struct Eid {
    group_id: Vec<u8>,
    epoch: u64,
}

fn verify(
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

/// Verifies that a published key of the AS signed a credential and that it is valid now.
pub(crate) fn verify_credential(
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

/// Follows the EID from epoch 0 through every commit, as a member would (AS-3), to the
/// keys of the user's devices.
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

/// Refuses an EID that went back or was replaced, and remembers this one.
fn pin(tx: &Tx<'_>, name: &UserName, eid: &Eid) -> Result<()> {
    let known: Option<(Vec<u8>, u64)> = tx
        .sql()
        .prepare_cached("SELECT group_id, epoch FROM eids WHERE user = ?1")?
        .query_row([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((group_id, epoch)) = known {
        if group_id != eid.group_id {
            return Err(IdentityError::Reset.into());
        }
        if eid.epoch < epoch {
            return Err(IdentityError::RolledBack.into());
        }
    }
    tx.sql()
        .prepare_cached("INSERT OR REPLACE INTO eids (user, group_id, epoch) VALUES (?1, ?2, ?3)")?
        .execute(params![name.to_string(), eid.group_id, integer(eid.epoch)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eid, store::Options};
    use postern_protocol::{Address, HpkePublicKey, auth::ClientRecord};

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

    #[test]
    fn a_link_belongs_to_one_leaf() {
        let world = World::new();
        let group = GroupId::new([3; 16], world.name.domain().clone());
        let (leaf, other) = (PublicKey::new([4; 32]), PublicKey::new([5; 32]));
        for scope in [Some(&group), None] {
            let credential = world.credential(world.client.public_key());
            let link = IdentityLink::sign(&world.client, credential, scope, &leaf);
            assert_eq!(link.claim(&group, &leaf).unwrap().user, world.name);
            assert!(link.claim(&group, &other).is_none());
        }
        let elsewhere = GroupId::new([6; 16], world.name.domain().clone());
        let credential = world.credential(world.client.public_key());
        let link = IdentityLink::sign(&world.client, credential, Some(&elsewhere), &leaf);
        assert!(link.claim(&group, &leaf).is_none());
    }
}
