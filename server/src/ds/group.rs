//! A group as the DS sees it during a request: its public MLS state, the GroupInfo for external joiners, the pending
//! proposals. [`super::handshake`] changes it, [`super::stored`] stores it.

use std::collections::BTreeMap;

use openmls::prelude::{Extensions, ExternalSender, GroupContext, LeafNodeIndex, ProposalType};
use postern_protocol::{
    Attributes, GroupInfo, MlsMessage, RatchetTree,
    ds::{LeafAttributes, MAX_ATTRIBUTES, WelcomeTree},
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, GroupPolicy, Pseudonym, UserKey},
    name::Domain,
    problem::{Problem, ProblemType},
};
use serde::{Deserialize, Serialize};

use super::{
    external_sender_keys::ExternalSenderKeys,
    policy::Violation,
    roster::{LeafRecord, Member, Roster},
};
use crate::mls::{CorruptGroup, InvalidMls, TrackedGroup};

/// The facts about this delivery service on which the validity of a group depends.
#[derive(Clone, Copy)]
pub struct DeliveryService<'a> {
    pub home: &'a Domain,
    /// The DS as external sender: each group carries one of its keys.
    pub external_sender_keys: &'a ExternalSenderKeys,
    /// Days since 1970.
    pub today: u32,
}

pub struct Group {
    pub mls: TrackedGroup,
    /// The GroupInfo of the current epoch, without the ratchet tree (DS-8).
    pub group_info: GroupInfo,
    /// The proposals that wait for a commit, as bytes in order of arrival.
    pub proposals: Vec<MlsMessage>,
    pub roster: Roster,
    pub policy: GroupPolicy,
    /// Attributes by leaf index; only leaves that have some are in it (DS-12).
    pub attributes: BTreeMap<u32, Attributes>,
}

/// The part of the stored bytes that precedes the MLS state.
#[derive(Serialize, Deserialize)]
struct Kept {
    group_info: GroupInfo,
    proposals: Vec<MlsMessage>,
    /// One record for each leaf, in the tree's order.
    records: Vec<LeafRecord>,
    /// One entry for each leaf, in the tree's order; empty where a leaf has none.
    attributes: Vec<Attributes>,
    /// As the roster has them.
    gone_keys: Vec<(Pseudonym, u32)>,
}

impl Group {
    /// Makes a group in its first epoch from the creator's GroupInfo and tree.
    ///
    /// # Errors
    /// [`InvalidMls`], also if the group lacks something that every group must have here.
    pub fn create(
        group_info: &GroupInfo,
        ratchet_tree: &RatchetTree,
        ds: DeliveryService<'_>,
    ) -> Result<Self, InvalidMls> {
        let mls = TrackedGroup::create(group_info, ratchet_tree)?;
        let roster = Roster::of(mls.leaves(), ds.home, |_, _| LeafRecord::new(None, ds.today, 0))?;
        let creator = roster.members().first().ok_or(InvalidMls::Refused("a group must have a member"))?;
        mls.check_group_info(group_info, LeafNodeIndex::new(creator.leaf))?;
        let user_key =
            creator.user_key.ok_or(InvalidMls::Refused("the creator's leaf lacks a user key (0xf0a3)"))?;
        if user_key.generation > UserKey::latest_generation(mls.epoch()) {
            return Err(InvalidMls::Refused("the generation of the creator's user key is too late"));
        }
        let keys = ds.external_sender_keys.now();
        let policy = policy(mls.extensions(), |sender| keys.accept(sender))?;
        Ok(Self {
            mls,
            group_info: group_info.clone(),
            proposals: Vec::new(),
            roster,
            policy,
            attributes: BTreeMap::new(),
        })
    }

    /// Reads the content of a sealed tree.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn decode(content: &[u8], ds: DeliveryService<'_>) -> Result<Self, CorruptGroup> {
        let (kept, mls): (Kept, _) = postcard::take_from_bytes(content).map_err(|_| CorruptGroup)?;
        let Kept { group_info, proposals, records, attributes, gone_keys } = kept;
        let mls = TrackedGroup::decode(mls)?;
        let records: Vec<_> = mls.leaves().map(|(leaf, _)| leaf.u32()).zip(records).collect();
        let record = |leaf, _| {
            let found = records.binary_search_by_key(&leaf, |(leaf, _)| *leaf);
            found.map_or(LeafRecord::new(None, 0, 0), |place| records[place].1)
        };
        let roster = Roster::of(mls.leaves(), ds.home, record).map_err(|_| CorruptGroup)?;
        let roster = roster.with_gone_keys(gone_keys);
        // The external sender was right when it was taken, whatever became of its key since.
        let policy = policy(mls.extensions(), |_| true).map_err(|_| CorruptGroup)?;
        let leaves = roster.members().iter().map(|member| member.leaf);
        let attributes =
            leaves.zip(attributes).filter(|(_, attributes)| !attributes.as_bytes().is_empty()).collect();
        Ok(Self { mls, group_info, proposals, roster, policy, attributes })
    }

    pub fn encode(&self) -> Vec<u8> {
        let members = self.roster.members();
        let of_leaf = |member: &Member| self.attributes.get(&member.leaf).cloned().unwrap_or_default();
        let kept = Kept {
            group_info: self.group_info.clone(),
            proposals: self.proposals.clone(),
            records: members.iter().map(|member| member.record).collect(),
            attributes: members.iter().map(of_leaf).collect(),
            gone_keys: self.roster.gone_keys().to_vec(),
        };
        let mut bytes = postcard::to_stdvec(&kept).expect("it serialises into memory");
        bytes.extend_from_slice(&self.mls.encode());
        bytes
    }

    /// Sets the attributes of leaves (DS-12); empty ones are removed.
    ///
    /// # Errors
    /// A problem if the sender may not describe one of the leaves, or attributes are too large.
    pub fn attach(
        &mut self,
        told: &[LeafAttributes],
        may_describe: impl Fn(&Member) -> bool,
    ) -> Result<(), Problem> {
        for LeafAttributes { leaf_key, attributes } in told {
            let member = self.roster.by_key(*leaf_key).filter(|member| may_describe(member));
            let leaf = member.ok_or(Violation::AttributesOfAnother)?.leaf;
            match attributes.as_bytes().len() {
                0 => drop(self.attributes.remove(&leaf)),
                1..=MAX_ATTRIBUTES => drop(self.attributes.insert(leaf, attributes.clone())),
                _ => {
                    let detail =
                        format_args!("the attributes of a leaf can have at most {MAX_ATTRIBUTES} bytes");
                    return Err(Problem::with_detail(ProblemType::MessageTooLarge, detail));
                }
            }
        }
        Ok(())
    }

    /// The attributes of all leaves that have some, by signature key.
    pub fn leaf_attributes(&self) -> Vec<LeafAttributes> {
        let of_leaf = |(leaf, attributes): (&u32, &Attributes)| {
            let leaf_key = self.roster.member(*leaf)?.signature_key;
            Some(LeafAttributes { leaf_key, attributes: attributes.clone() })
        };
        self.attributes.iter().filter_map(of_leaf).collect()
    }

    /// The tree and attributes for members that join in this epoch by Welcome.
    pub fn encode_welcome_tree(&self) -> Vec<u8> {
        let content = (self.mls.ratchet_tree(), self.leaf_attributes());
        postcard::to_stdvec(&content).expect("it serialises into memory")
    }
}

/// Decodes the bytes of [`Group::encode_welcome_tree`].
///
/// # Errors
/// [`CorruptGroup`].
pub fn decode_welcome_tree(content: &[u8]) -> Result<WelcomeTree, CorruptGroup> {
    let (ratchet_tree, attributes) = postcard::from_bytes(content).map_err(|_| CorruptGroup)?;
    Ok(WelcomeTree { ratchet_tree, attributes })
}

/// A group has another external sender than this server, or one of a key that is not in use.
pub const OTHER_SENDER: InvalidMls =
    InvalidMls::Refused("the group must have this server as its only external sender");

/// Whether a message was refused because of [`OTHER_SENDER`].
pub fn is_other_sender(problem: &Problem) -> bool {
    problem.detail == Some(OTHER_SENDER.to_string())
}

/// The group's policy, from a context that must be as every group's is here: `accept` says which external sender is
/// this server.
///
/// # Errors
/// [`InvalidMls`] if the context lacks the policy, the required capabilities or this server as external sender.
pub fn policy(
    context: &Extensions<GroupContext>,
    accept: impl Fn(&ExternalSender) -> bool,
) -> Result<GroupPolicy, InvalidMls> {
    const NO_POLICY: InvalidMls = InvalidMls::Refused("the group context lacks a valid policy (0xf0a1)");
    const NOT_REQUIRED: InvalidMls =
        InvalidMls::Refused("the group must require extensions 0xf0a1, 0xf0a2 and proposal self_remove");
    let policy = context.unknown(GROUP_POLICY).ok_or(NO_POLICY)?;
    let policy = GroupPolicy::from_bytes(&policy.0).map_err(|_| NO_POLICY)?;
    let required = context.required_capabilities().ok_or(NOT_REQUIRED)?;
    // Required so that every leaf can be delivered to, and every client can leave.
    let extensions = [GROUP_POLICY, DELIVERY_ADDRESS];
    let complete =
        extensions.iter().all(|extension| required.extension_types().contains(&(*extension).into()))
            && required.proposal_types().contains(&ProposalType::SelfRemove);
    if !complete {
        return Err(NOT_REQUIRED);
    }
    match context.external_senders().map(Vec::as_slice) {
        Some([sender]) if accept(sender) => Ok(policy),
        _ => Err(OTHER_SENDER),
    }
}
