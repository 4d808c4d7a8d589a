//! The client's own evolving identity (EID, AS-3): an MLS group whose members are the user's devices.
//! Creates it, joins it, changes it by commits, and keeps up with what the user's other devices do.
//! Owns the tables `grants`, `identity_commits` and `made_commits`.

mod change;
mod grants;
mod outstanding;

use openmls::prelude::{
    Capabilities, CredentialType, GroupId as MlsGroupId, KeyPackage, LeafNodeIndex, Lifetime,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsMessageBodyIn, MlsMessageOut, ProtocolVersion,
    RatchetTreeIn, StagedWelcome,
};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    GroupInfo, PublicKey, RatchetTree, Transcript, Welcome,
    account::IdentityEnded,
    eid::{EidState, Founding, SignedState},
    key::SigningKey,
    name::UserName,
};
use serde::{Deserialize, Serialize};
use tls_codec::{Deserialize as _, Serialize as _};

pub(crate) use self::change::{add, confirm, remove, rename};
pub(super) use self::{
    change::take_name,
    outstanding::{follow, make_again, settle},
};
#[cfg(test)]
pub(super) use self::{
    change::{Change, is_pending, stage},
    grants::granted,
    outstanding::{accepted, outstanding},
};
use super::{
    known::{self, Kept, Which},
    public_eid::PublicEid,
};
use crate::{
    account::Account,
    error::{Error, Result},
    mls::{self, CIPHERSUITE, LeafSigner},
    store::Tx,
};

/// Seconds for which a leaf is good: 20 years. It is in the identity until its device makes a commit, and OpenMLS refuses a
/// leaf or KeyPackage outside of its lifetime (AS-3).
const LEAF_LIFETIME: u64 = 20 * 365 * 24 * 60 * 60;

/// Seconds by which a reader's clock may be behind when a leaf is new: 180 days.
const LEAF_LIFETIME_BEGUN: u64 = 180 * 24 * 60 * 60;

/// A device to be added, as it describes itself.
pub(crate) struct NewDevice {
    pub client_key: PublicKey,
    pub key_package: KeyPackage,
}

/// A new identity, to be registered.
pub(crate) struct NewIdentity {
    pub group_id: Vec<u8>,
    pub group_info: GroupInfo,
    pub ratchet_tree: RatchetTree,
    pub state: SignedState,
}

/// The entry of a new device into its user's identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EidWelcome {
    pub welcome: Welcome,
    /// The tree of the epoch that the device is added in.
    pub ratchet_tree: RatchetTree,
    /// The key of the client that began the identity (Ed25519).
    pub founder: PublicKey,
    /// The transcript of its epoch 0.
    pub founding: Transcript,
    /// The state that the device is added in.
    pub eid: EidState,
}

/// Starts an identity of a user: the first one, or the next after one that ended.
pub(crate) fn create(
    tx: &Tx<'_>,
    name: &UserName,
    client: &SigningKey,
    previous: Option<&IdentityEnded>,
) -> Result<NewIdentity> {
    let signer = LeafSigner(client);
    let group = MlsGroup::builder()
        .ciphersuite(CIPHERSUITE)
        .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .with_capabilities(capabilities())
        .lifetime(lifetime())
        .build(tx, &signer, mls::credential(name.to_string().into_bytes(), client.public_key()))
        .map_err(Error::mls("cannot create the identity"))?;
    let (group_info, ratchet_tree) = describe(tx, &group, client)?;
    let previous_end = previous.map(|ended| &ended.transcript);
    let transcript = Transcript::founded(previous_end, &group_info, &ratchet_tree);
    let founding = Founding { founder: client.public_key(), transcript };
    let incarnation = previous.map_or(0, |ended| ended.incarnation.saturating_add(1));
    let eid = EidState::founded(incarnation, transcript);
    let state = SignedState::sign(name, &founding, eid, &group_info, client);
    known::replace(tx, name, Which::Accepted, &kept(&founding, eid, &group_info, &ratchet_tree)?)?;
    tx.sql().execute("DELETE FROM made_commits", [])?;
    Ok(NewIdentity { group_id: group.group_id().as_slice().to_vec(), group_info, ratchet_tree, state })
}

/// Forgets an account that was never registered: its name is somebody else's.
pub(crate) fn delete(tx: &Tx<'_>) -> Result<()> {
    if let Some(account) = Account::find(tx)? {
        load(tx, &account)?.delete(tx.storage())?;
        known::forget(tx, &account.user, Which::Accepted)?;
    }
    Account::delete(tx)
}

/// The KeyPackage by which a new device asks to be added: an `MLSMessage`.
pub(crate) fn key_package(tx: &Tx<'_>, name: &UserName, client: &SigningKey) -> Result<Vec<u8>> {
    let bundle = KeyPackage::builder()
        .key_package_lifetime(lifetime())
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
    let identity = mls::identity(leaf.credential())?;
    (identity == name.to_string().as_bytes()).then_some(NewDevice { client_key, key_package })
}

/// Joins the identity with the Welcome that another device made for this one. The device is pending until
/// [`confirm`].
pub(crate) fn join(
    tx: &Tx<'_>,
    name: &UserName,
    client: &SigningKey,
    welcome: &EidWelcome,
) -> Result<Vec<u8>> {
    let damaged = || Error::BadBlob("grant");
    let Some(MlsMessageBodyIn::Welcome(message)) = mls::parse(welcome.welcome.as_bytes()) else {
        return Err(damaged());
    };
    let tree =
        RatchetTreeIn::tls_deserialize_exact(welcome.ratchet_tree.as_bytes()).map_err(|_| damaged())?;
    // Nothing is said there.
    let group = StagedWelcome::build_from_welcome(tx, &mls::join_config(0), message)
        .map_err(|_| damaged())?
        .with_ratchet_tree(tree)
        .skip_lifetime_validation()
        .build()
        .and_then(|staged| staged.into_group(tx))
        .map_err(|_| damaged())?;
    let (group_info, ratchet_tree) = describe(tx, &group, client)?;
    let founding = Founding { founder: welcome.founder, transcript: welcome.founding };
    let kept = kept(&founding, welcome.eid, &group_info, &ratchet_tree)?;
    let public_eid = kept.public_eid()?;
    if public_eid.epoch() != welcome.eid.epoch || public_eid.leaves(name).is_err() {
        return Err(damaged());
    }
    known::replace(tx, name, Which::Accepted, &kept)?;
    Ok(group.group_id().as_slice().to_vec())
}

pub(super) fn load(tx: &Tx<'_>, account: &Account) -> Result<MlsGroup> {
    let id = account.eid_group_id.as_deref().ok_or(Error::NotReady)?;
    MlsGroup::load(tx.storage(), &MlsGroupId::from_slice(id))?.ok_or(Error::Damaged("the identity"))
}

fn index_of(group: &MlsGroup, device: &PublicKey) -> Option<LeafNodeIndex> {
    let mut members = group.members();
    members.find(|member| member.signature_key == device.as_bytes().as_slice()).map(|member| member.index)
}

fn key_of(group: &MlsGroup, index: LeafNodeIndex) -> Option<PublicKey> {
    let member = group.members().find(|member| member.index == index)?;
    mls::public_key(&member.signature_key)
}

/// The public description of a group's epoch, signed by this device.
pub(super) fn describe(
    tx: &Tx<'_>,
    group: &MlsGroup,
    client: &SigningKey,
) -> Result<(GroupInfo, RatchetTree)> {
    let group_info = group
        .export_group_info(tx.crypto(), &LeafSigner(client), false)
        .map_err(Error::mls("cannot describe the identity"))?;
    let group_info = GroupInfo::new(mls::message_bytes(&group_info)?);
    Ok((group_info, tree_bytes(&group.export_ratchet_tree())?))
}

fn tree_bytes(tree: &openmls::treesync::RatchetTree) -> Result<RatchetTree> {
    let bytes = tree.tls_serialize_detached().map_err(Error::mls("cannot encode the identity's tree"))?;
    Ok(RatchetTree::new(bytes))
}

/// This user's own identity, in a state that no server has shown.
fn kept(
    founding: &Founding,
    eid: EidState,
    group_info: &GroupInfo,
    ratchet_tree: &RatchetTree,
) -> Result<Kept> {
    let public_group = PublicEid::open(group_info, ratchet_tree)?.encode();
    let (former, called) = (Vec::new(), None);
    Ok(Kept { founding: *founding, eid, public_group, former, called, seen: 0, verified: true })
}

fn lifetime() -> Lifetime {
    let from_now = Lifetime::new(LEAF_LIFETIME);
    Lifetime::init(from_now.not_before().saturating_sub(LEAF_LIFETIME_BEGUN), from_now.not_after())
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
