//! Groups of the DS, with members who have mailboxes.

use openmls::prelude::{
    Extension, ExtensionType, Extensions, GroupContext, LeafNode, RequiredCapabilitiesExtension,
    UnknownExtension,
};
use postern_protocol::{
    Address, MlsMessage, StateKey, Welcome,
    ds::{CreateGroup, GroupId, GroupIdReserved, MessageAccepted, SubmitMessage},
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym},
    name::Domain,
    qs::{QueueKind, QueuePayload},
};

use super::{Call, Commit, Made, Mailbox, Party, World, home};

pub struct Group {
    pub id: GroupId,
    pub policy: GroupPolicy,
    /// The first is the admin.
    pub members: Vec<Member>,
}

/// A member, and where its messages go.
pub struct Member {
    pub party: Party,
    pub mailbox: Mailbox,
    pub address: Address,
}

pub fn leaf_extensions(domain: &Domain, address: Address) -> Extensions<LeafNode> {
    let delivery = DeliveryAddress { domain: domain.clone(), address };
    Extensions::single(Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes())))
        .expect("a leaf's")
}

pub fn policy_extensions(policy: &GroupPolicy) -> Extensions<GroupContext> {
    let types = [ExtensionType::Unknown(GROUP_POLICY), ExtensionType::Unknown(DELIVERY_ADDRESS)];
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&types, &[], &[])),
        Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
    ])
    .expect("a context's")
}

/// The request that creates a group.
pub fn creation(id: &GroupId, state_key: StateKey, founder: &Party) -> Call {
    let body = CreateGroup {
        group_id: id.clone(),
        state_key,
        group_info: founder.group_info(),
        ratchet_tree: founder.ratchet_tree(),
    };
    Call::post("/ds/groups").with(&body).signed_by(&founder.key)
}

impl Group {
    pub fn path(&self) -> String {
        format!("/ds/groups/{}/messages", self.id.to_base64url())
    }

    /// A message to this group, signed by its member of that number.
    pub fn submit(&self, by: usize, message: &MlsMessage, welcome: Option<&Welcome>) -> Call {
        let body = SubmitMessage {
            state_key: self.policy.state_key(),
            message: message.clone(),
            welcome: welcome.cloned(),
        };
        Call::post(self.path()).with(&body).signed_by(&self.members[by].party.key)
    }

    /// What a member commits; not sent, and to be merged or forgotten.
    pub fn make(&mut self, by: usize, commit: Commit) -> (Made, Call) {
        let made = self.members[by].party.commit(commit);
        let call = self.submit(by, &made.commit, made.welcome.as_ref());
        (made, call)
    }

    pub fn party(&mut self, number: usize) -> &mut Party {
        &mut self.members[number].party
    }

    pub fn key(&self, number: usize) -> postern_protocol::PublicKey {
        self.members[number].party.public_key()
    }

    /// The group's policy with other admins.
    pub fn policy_with(&self, admins: Vec<Pseudonym>) -> GroupPolicy {
        GroupPolicy { state_secret: self.policy.state_secret, admins }
    }

    pub fn pseudonym(&self, number: usize) -> Pseudonym {
        Pseudonym(self.members[number].party.identity.as_slice().try_into().expect("it is a pseudonym"))
    }
}

impl World {
    pub async fn reserve(&self) -> GroupId {
        self.pay(&Call::post("/ds/group-ids")).await.decode::<GroupIdReserved>().group_id
    }

    /// Somebody with a mailbox who is in no group.
    pub async fn candidate(&self) -> Member {
        let mailbox = self.mailbox(QueueKind::Group).await;
        let address = self.address(&mailbox).await;
        let mut party = Party::new(Pseudonym::random().0);
        party.leaf = leaf_extensions(&home(), address);
        Member { party, mailbox, address }
    }

    /// A group with so many members, who all joined by Welcome but the first.
    pub async fn group(&self, members: usize) -> Group {
        let mut founder = self.candidate().await;
        let policy =
            GroupPolicy::new(Pseudonym(founder.party.identity.as_slice().try_into().expect("it is one")));
        let id = self.reserve().await;
        founder.party.found(&id.to_mls(), policy_extensions(&policy));
        self.pay(&creation(&id, policy.state_key(), &founder.party)).await.assert_ok("creating a group");
        let mut group = Group { id, policy, members: vec![founder] };
        if members > 1 {
            let mut joiners = Vec::new();
            for _ in 1..members {
                joiners.push(self.candidate().await);
            }
            self.add(&mut group, joiners).await;
        }
        group
    }

    /// The admin adds members, and they join by the Welcome in their queues.
    pub async fn add(&self, group: &mut Group, joiners: Vec<Member>) -> MessageAccepted {
        let add = joiners.iter().map(|joiner| joiner.party.key_package()).collect();
        let (_, call) = group.make(0, Commit { add, ..Default::default() });
        let accepted: MessageAccepted = self.pay(&call).await.decode();
        assert_eq!(accepted.undelivered, 0);
        group.party(0).merge();
        for mut joiner in joiners {
            let received = self.read(&mut joiner.mailbox).await;
            let [QueuePayload::Welcome(welcome)] = received.as_slice() else { panic!("{received:?}") };
            joiner.party.join(welcome);
            group.members.push(joiner);
        }
        accepted
    }

    /// Reads a member's queue into its group; returns what application messages say.
    pub async fn receive(&self, member: &mut Member) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        for payload in self.read(&mut member.mailbox).await {
            let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
            texts.extend(member.party.receive(&message));
        }
        texts
    }
}
