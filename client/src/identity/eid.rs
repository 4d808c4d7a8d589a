//! The client's own evolving identity (EID, AS-3): an MLS group whose members are the user's
//! devices. Creates it, joins it, adds a device to it, and keeps up with its log at the AS. Owns
//! the tables `grants` and `identity_commits`.

use openmls::prelude::{
    Capabilities, Credential, CredentialType, GroupId as MlsGroupId, KeyPackage, Lifetime,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsMessageBodyIn, MlsMessageOut, ProcessedMessageContent,
    ProtocolVersion, StagedWelcome,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, RatchetTree, Welcome,
    admission::Admission,
    auth::{CommitIdentity, RegisterUser},
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
};
use rusqlite::{OptionalExtension as _, params};
use tls_codec::Serialize as _;

use crate::{
    account::Account,
    error::{Error, Result},
    mls::{self, CIPHERSUITE, LeafSigner},
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// How often a commit is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

/// Every device's leaf stays in the history, which readers replay for as long as the user exists, and
/// openmls refuses a leaf, or the KeyPackage that brought it, past its lifetime (AS-3). Seconds: 20 years.
const LEAF_LIFETIME: u64 = 20 * 365 * 24 * 60 * 60;

/// A device to be added, as it describes itself.
pub(crate) struct NewDevice {
    pub client_key: PublicKey,
    pub key_package: KeyPackage,
}

/// Starts the identity of a new user. Returns the group's id and what to register.
pub(crate) fn create(tx: &Tx<'_>, name: &UserName, client: &SigningKey) -> Result<(Vec<u8>, RegisterUser)> {
    let signer = LeafSigner(client);
    let group = MlsGroup::builder()
        .ciphersuite(CIPHERSUITE)
        .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .with_capabilities(capabilities())
        .lifetime(Lifetime::new(LEAF_LIFETIME))
        .build(tx, &signer, mls::credential(name.to_string().into_bytes(), client.public_key()))
        .map_err(Error::mls("cannot create the identity"))?;
    let group_info = group
        .export_group_info(tx.crypto(), &signer, false)
        .map_err(Error::mls("cannot describe the identity"))?;
    let ratchet_tree = group
        .export_ratchet_tree()
        .tls_serialize_detached()
        .map_err(Error::mls("cannot encode the identity's tree"))?;
    let user = RegisterUser {
        name: name.clone(),
        group_info: GroupInfo::new(mls::message_bytes(&group_info)?),
        ratchet_tree: RatchetTree::new(ratchet_tree),
        admission: Admission::Open,
    };
    Ok((group.group_id().as_slice().to_vec(), user))
}

/// Forgets an account that was never registered: its name is somebody else's.
pub(crate) fn delete(tx: &Tx<'_>) -> Result<()> {
    if let Some(account) = Account::find(tx)? {
        load(tx, &account)?.delete(tx.storage())?;
    }
    Account::delete(tx)
}

/// The KeyPackage by which a new device asks to be added: an `MLSMessage`.
pub(crate) fn key_package(tx: &Tx<'_>, name: &UserName, client: &SigningKey) -> Result<Vec<u8>> {
    let bundle = KeyPackage::builder()
        .key_package_lifetime(Lifetime::new(LEAF_LIFETIME))
        .leaf_node_capabilities(capabilities())
        .build(
            CIPHERSUITE,
            tx,
            &LeafSigner(client),
            mls::credential(name.to_string().into_bytes(), client.public_key()),
        )
        .map_err(Error::mls("cannot make a KeyPackage"))?;
    mls::message_bytes(&MlsMessageOut::from(bundle.key_package().clone()))
}

/// A new device's KeyPackage, if it is one of `name`'s.
pub(crate) fn parse_device(tx: &Tx<'_>, name: &UserName, bytes: &[u8]) -> Option<NewDevice> {
    let key_package = mls::parse_key_package(bytes, tx.crypto())?;
    let leaf = key_package.leaf_node();
    let client_key = mls::public_key(leaf.signature_key().as_slice())?;
    is_of(leaf.credential(), name).then_some(NewDevice { client_key, key_package })
}

/// Joins the identity with the Welcome that another device made for this one.
pub(crate) fn join(tx: &Tx<'_>, name: &UserName, welcome: &Welcome) -> Result<Vec<u8>> {
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome.as_bytes()) else {
        return Err(Error::BadBlob("grant"));
    };
    let staged = StagedWelcome::new_from_welcome(tx, &mls::join_config(), welcome, None)
        .map_err(|_| Error::BadBlob("grant"))?;
    if !staged.members().all(|member| is_of(&member.credential, name)) {
        return Err(Error::BadBlob("grant"));
    }
    let group = staged.into_group(tx).map_err(|_| Error::BadBlob("grant"))?;
    Ok(group.group_id().as_slice().to_vec())
}

/// Adds a device and returns the Welcome for it. Asked again for the same device, returns
/// the same Welcome: the answer of the first time may have been lost.
pub(crate) async fn add(api: &Api, store: &Store, account: &Account, device: &NewDevice) -> Result<Welcome> {
    for _ in 0..ATTEMPTS {
        settle(api, store, account).await?;
        follow(api, store, account).await?;
        if let Some(welcome) = store.read(|tx| granted(tx, account, &device.client_key))? {
            return Ok(welcome);
        }
        store.write(|tx| stage_add(tx, account, device))?;
        settle(api, store, account).await?;
        if let Some(welcome) = store.read(|tx| granted(tx, account, &device.client_key))? {
            return Ok(welcome);
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// Sends the outstanding commit, the same bytes each time, until its fate is known.
async fn settle(api: &Api, store: &Store, account: &Account) -> Result<()> {
    let sql = "SELECT body FROM identity_commits";
    let body: Option<Vec<u8>> =
        store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get(0)).optional()?))?;
    let Some(body) = body else { return Ok(()) };
    let commit: CommitIdentity = decode(&body, "a commit")?;
    let answer = api.commit_identity(&commit, &account.client_key()).await;
    let error = match answer {
        Ok(_) => {
            return store.write(|tx| {
                let mut group = load(tx, account)?;
                group.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
                forget_commit(tx)
            });
        }
        Err(error) if error.refusal().is_none() => return Err(error),
        Err(error) => error,
    };
    // It may have been accepted, with the answer lost: then it is in the log.
    follow(api, store, account).await?;
    store.write(|tx| {
        let mut group = load(tx, account)?;
        withdraw_grants(tx, &group)?;
        group.clear_pending_commit(tx.storage()).map_err(Error::mls("cannot drop our own commit"))?;
        forget_commit(tx)
    })?;
    if error.problem() == Some(ProblemType::WrongEpoch) { Ok(()) } else { Err(error) }
}

fn forget_commit(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("DELETE FROM identity_commits", [])?;
    Ok(())
}

/// Keeps up with the log at the AS. A commit of this device whose answer was lost is in it.
pub(crate) async fn follow(api: &Api, store: &Store, account: &Account) -> Result<()> {
    let record = api.look_up_user(&account.user).await?;
    store.write(|tx| {
        let mut group = load(tx, account)?;
        let epoch = usize::try_from(group.epoch().as_u64()).unwrap_or(usize::MAX);
        for commit in record.commits.iter().skip(epoch) {
            let Some(MlsMessageBodyIn::PublicMessage(commit)) = mls::parse(commit.as_bytes()) else {
                return Err(Error::unexpected("an identity log with no commit in it"));
            };
            let content = group
                .process_message(tx, commit)
                .map_err(Error::mls("the log of our own identity does not verify"))?
                .into_content();
            match content {
                ProcessedMessageContent::StagedCommitMessage(staged) => {
                    withdraw_grants(tx, &group)?;
                    forget_commit(tx)?;
                    group
                        .merge_staged_commit(tx, *staged)
                        .map_err(Error::mls("cannot apply a commit of another device"))?;
                }
                ProcessedMessageContent::OwnPendingCommit => {
                    group.merge_pending_commit(tx).map_err(Error::mls("cannot apply our own commit"))?;
                    forget_commit(tx)?;
                }
                _ => return Err(Error::unexpected("an identity log with no commit in it")),
            }
        }
        Ok(())
    })
}

/// Makes the commit that adds a device, and keeps it until its answer is known.
fn stage_add(tx: &Tx<'_>, account: &Account, device: &NewDevice) -> Result<()> {
    let mut group = load(tx, account)?;
    let (commit, welcome, _) = group
        .add_members(tx, &LeafSigner(&account.client_key()), std::slice::from_ref(&device.key_package))
        .map_err(Error::mls("the device cannot be added"))?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO grants (client_key, welcome) VALUES (?1, ?2)",
        params![device.client_key.as_bytes(), mls::message_bytes(&welcome)?],
    )?;
    let commit = CommitIdentity { commit: MlsMessage::new(mls::message_bytes(&commit)?) };
    tx.sql().execute("INSERT INTO identity_commits (one, body) VALUES (1, ?1)", [encode(&commit)])?;
    Ok(())
}

/// Forgets the Welcomes of a commit of this device that came too late: they lead nowhere.
fn withdraw_grants(tx: &Tx<'_>, group: &MlsGroup) -> Result<()> {
    for add in group.pending_commit().into_iter().flat_map(openmls::group::StagedCommit::add_proposals) {
        let leaf = add.add_proposal().key_package().leaf_node();
        tx.sql().execute("DELETE FROM grants WHERE client_key = ?1", [leaf.signature_key().as_slice()])?;
    }
    Ok(())
}

/// The Welcome for a device that is in the identity by now.
fn granted(tx: &Tx<'_>, account: &Account, client_key: &PublicKey) -> Result<Option<Welcome>> {
    let is_member =
        load(tx, account)?.members().any(|member| member.signature_key == client_key.as_bytes().as_slice());
    if !is_member {
        return Ok(None);
    }
    let welcome: Option<Vec<u8>> = tx
        .sql()
        .query_row("SELECT welcome FROM grants WHERE client_key = ?1", [client_key.as_bytes()], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(welcome.map(Welcome::new))
}

fn load(tx: &Tx<'_>, account: &Account) -> Result<MlsGroup> {
    let id = account.eid_group_id.as_deref().ok_or(Error::NotReady)?;
    MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(id))?.ok_or(Error::Damaged("the identity"))
}

fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        None,
        None,
        Some(&[CredentialType::Basic]),
    )
}

fn is_of(credential: &Credential, name: &UserName) -> bool {
    mls::identity(credential).is_some_and(|identity| identity == name.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn the_key_package_of_a_new_device_outlives_its_readers_patience() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let name = "alice@example.org".parse().unwrap();
        let client = SigningKey::generate();
        let device = store
            .write(|tx| {
                let request = key_package(tx, &name, &client)?;
                Ok(parse_device(tx, &name, &request))
            })
            .unwrap()
            .expect("another device can add it");
        let left = device.key_package.life_time().not_after() - store.now();
        assert!(left > 19 * 365 * 24 * 60 * 60, "{left} s");
    }
}
