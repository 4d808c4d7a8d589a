//! Groups of the DS, whose members have mailboxes.

use std::time::Instant;

use openmls::prelude::{
    BasicCredential, Ciphersuite, Extension, ExtensionType, Extensions, ExternalSender, GroupContext,
    LeafNode, ProposalType, RequiredCapabilitiesExtension, UnknownExtension,
};
use postern_protocol::{
    Address, MlsMessage, PublicKey, RatchetTree, StateKey, Welcome,
    ds::{
        CreateGroup, CurrentGroup, DeleteGroup, FetchGroupInfo, FetchWelcomeTree, GroupId, GroupIdReserved,
        MessageAccepted, SubmitMessage, WelcomeTree,
    },
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, DeliveryAddress, GROUP_POLICY, GroupPolicy, Pseudonym, USER_KEY, UserKey},
    name::Domain,
    push::Urgency,
    qs::{Dequeued, QueueKind, QueuePayload},
};

use super::{Call, Commit, Made, Mailbox, Party, SUITE, fresh_address};
use crate::{PATIENCE, World, home};

pub struct Group {
    pub id: GroupId,
    /// The domain of its DS.
    pub domain: Domain,
    pub policy: GroupPolicy,
    pub server_key: PublicKey,
    /// The first is the admin.
    pub members: Vec<Member>,
}

/// A member, and where its messages go.
pub struct Member {
    pub party: Party,
    /// It is in the database of the server under test, also where its leaf names another domain.
    pub mailbox: Mailbox,
    pub address: Address,
    /// The domain that its leaf names.
    pub domain: Domain,
}

/// The extensions of a leaf that receives there.
pub fn leaf_extensions(domain: &Domain, address: Address, user_key: Option<UserKey>) -> Extensions<LeafNode> {
    let delivery = DeliveryAddress { domain: domain.clone(), address };
    let mut extensions = vec![Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(delivery.to_bytes()))];
    extensions.extend(user_key.map(|key| Extension::Unknown(USER_KEY, UnknownExtension(key.to_bytes()))));
    Extensions::from_vec(extensions).expect("a leaf's")
}

impl Party {
    /// The extensions of its leaf, if it receives there.
    pub fn leaf_at(&self, domain: &Domain, address: Address) -> Extensions<LeafNode> {
        leaf_extensions(domain, address, Some(self.user_key()))
    }

    /// The same in a group, in which nobody else is it.
    pub fn newcomer() -> Self {
        let mut party = Self::new(Pseudonym::random().0);
        party.leaf = party.leaf_at(&home(), fresh_address());
        party
    }
}

/// The extensions of the context of a domain's group; the server's key is its external sender.
pub fn policy_extensions(
    domain: &Domain,
    policy: &GroupPolicy,
    server_key: &PublicKey,
) -> Extensions<GroupContext> {
    let domain = BasicCredential::new(domain.as_str().as_bytes().to_vec());
    let sender = ExternalSender::new(server_key.as_bytes().as_slice().into(), domain.into());
    let types = [GROUP_POLICY, DELIVERY_ADDRESS].map(ExtensionType::Unknown);
    let proposals = [ProposalType::SelfRemove];
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&types, &proposals, &[])),
        Extension::Unknown(GROUP_POLICY, UnknownExtension(policy.to_bytes())),
        Extension::ExternalSenders(vec![sender]),
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
        attributes: Vec::new(),
    };
    Call::post("/ds/groups").with(&body).signed_by(&founder.key)
}

impl Group {
    pub fn path(&self, of: &str) -> String {
        format!("/ds/groups/{}/{of}", self.id.to_base64url())
    }

    /// A message to this group, signed by its member of that number.
    pub fn submit(&self, by: usize, message: &MlsMessage, welcome: Option<&Welcome>) -> Call {
        let (commit, welcome) = (message.clone(), welcome.cloned());
        self.submit_commit(&self.members[by].party.key, &Made { commit, group_info: None, welcome })
    }

    /// A message to this group, signed by whoever has this leaf key.
    pub fn submission(&self, leaf: &SigningKey, message: &MlsMessage) -> Call {
        self.submit_commit(leaf, &Made { commit: message.clone(), group_info: None, welcome: None })
    }

    /// A message with its sender's word for how soon others want to know.
    pub fn submit_urgent(&self, by: usize, message: &MlsMessage, urgency: Urgency) -> Call {
        let body = SubmitMessage {
            state_key: self.policy.state_key(),
            message: message.clone(),
            group_info: None,
            welcome: None,
            urgency: Some(urgency),
            attributes: Vec::new(),
        };
        Call::post(self.path("messages")).with(&body).signed_by(&self.members[by].party.key)
    }

    /// A commit with all that comes with it.
    pub fn submit_commit(&self, signer: &SigningKey, made: &Made) -> Call {
        let body = SubmitMessage {
            state_key: self.policy.state_key(),
            message: made.commit.clone(),
            group_info: made.group_info.clone(),
            welcome: made.welcome.clone(),
            urgency: None,
            attributes: Vec::new(),
        };
        Call::post(self.path("messages")).with(&body).signed_by(signer)
    }

    /// The group's end, by its member of that number.
    pub fn deletion(&self, by: usize) -> Call {
        let path = format!("/ds/groups/{}", self.id.to_base64url());
        let body = DeleteGroup { state_key: self.policy.state_key() };
        Call::new(reqwest::Method::DELETE, path).with(&body).signed_by(&self.members[by].party.key)
    }

    pub fn ask_for_info(&self, signer: &SigningKey) -> Call {
        let body = FetchGroupInfo { state_key: self.policy.state_key() };
        Call::post(self.path("group-info")).with(&body).signed_by(signer)
    }

    /// The tree for a member that was added in an epoch.
    pub fn ask_for_tree(&self, epoch: u64, signer: &SigningKey) -> Call {
        let body = FetchWelcomeTree { state_key: self.policy.state_key(), epoch };
        Call::post(self.path("welcome-tree")).with(&body).signed_by(signer)
    }

    /// A member's commit, not sent, and to be merged or forgotten.
    pub fn make(&mut self, by: usize, commit: Commit) -> (Made, Call) {
        let made = self.members[by].party.commit(commit);
        let call = self.submit_commit(&self.members[by].party.key, &made);
        (made, call)
    }

    pub fn party(&mut self, number: usize) -> &mut Party {
        &mut self.members[number].party
    }

    /// The extensions of this group's context with another policy.
    pub fn context(&self, policy: &GroupPolicy) -> Extensions<GroupContext> {
        policy_extensions(&self.domain, policy, &self.server_key)
    }

    pub fn key(&self, number: usize) -> PublicKey {
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
        self.candidate_at(self.domain()).await
    }

    /// The same of a domain's homeserver.
    pub async fn candidate_at(&self, domain: &Domain) -> Member {
        let mailbox = self.mailbox(QueueKind::Group).await;
        let address = self.address(&mailbox).await;
        let mut party = Party::newcomer();
        party.leaf = party.leaf_at(domain, address);
        Member { party, mailbox, address, domain: domain.clone() }
    }

    /// Another client of a member's user, in no group yet.
    pub async fn further_client(&self, of: &Member) -> Member {
        let mut client = self.candidate_at(&of.domain).await;
        client.party.identity.clone_from(&of.party.identity);
        client.party.user = of.party.user.clone();
        client.party.generation = of.party.generation;
        client.party.leaf = client.party.leaf_at(&client.domain, client.address);
        client
    }

    pub async fn group_info(&self, group: &Group, signer: &SigningKey) -> CurrentGroup {
        self.pay(&group.ask_for_info(signer)).await.decode()
    }

    pub async fn welcome_tree(&self, group: &Group, epoch: u64, joiner: &Party) -> RatchetTree {
        self.pay(&group.ask_for_tree(epoch, &joiner.key)).await.decode::<WelcomeTree>().ratchet_tree
    }

    /// A group with so many members, who all joined by Welcome but the first.
    pub async fn group(&self, members: usize) -> Group {
        self.group_of(SUITE, members).await
    }

    /// The same with another ciphersuite.
    pub async fn group_of(&self, suite: Ciphersuite, members: usize) -> Group {
        let mut founder = self.candidate().await;
        founder.party.suite = suite;
        let mut group = self.group_by(founder).await;
        if members > 1 {
            let mut joiners = Vec::new();
            for _ in 1..members {
                let mut joiner = self.candidate().await;
                joiner.party.suite = suite;
                joiners.push(joiner);
            }
            self.add(&mut group, joiners).await;
        }
        group
    }

    /// A group of which somebody is the only member.
    pub async fn group_by(&self, mut founder: Member) -> Group {
        let policy =
            GroupPolicy::new(Pseudonym(founder.party.identity.as_slice().try_into().expect("it is one")));
        let id = self.reserve().await;
        let context = policy_extensions(self.domain(), &policy, &self.server_key());
        founder.party.found(&id.to_mls(), context);
        self.pay(&creation(&id, policy.state_key(), &founder.party)).await.assert_ok("creating a group");
        let (domain, server_key) = (self.domain().clone(), self.server_key());
        Group { id, domain, policy, server_key, members: vec![founder] }
    }

    /// The admin adds members, and they join by the Welcome in their queues.
    pub async fn add(&self, group: &mut Group, joiners: Vec<Member>) -> MessageAccepted {
        self.add_by(group, 0, joiners).await
    }

    pub async fn add_by(&self, group: &mut Group, by: usize, joiners: Vec<Member>) -> MessageAccepted {
        let add = joiners.iter().map(|joiner| joiner.party.key_package()).collect();
        let (_, call) = group.make(by, Commit { add, ..Default::default() });
        let accepted: MessageAccepted = self.pay(&call).await.decode();
        assert_eq!(accepted.undelivered, 0);
        group.party(by).merge();
        for mut joiner in joiners {
            self.join(group, accepted.epoch, &mut joiner).await;
            group.members.push(joiner);
        }
        accepted
    }

    /// Somebody who was added joins by the Welcome in its queue, and the tree that the DS has for it.
    pub async fn join(&self, group: &Group, epoch: u64, joiner: &mut Member) {
        let mut received = self.read(&mut joiner.mailbox).await.into_iter();
        let Some(QueuePayload::Welcome(welcome)) = received.next() else { panic!("no Welcome") };
        let tree = self.welcome_tree(group, epoch, &joiner.party).await;
        joiner.party.join(&welcome, &tree);
        // Where the group has gone meanwhile.
        for payload in received {
            let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
            joiner.party.receive(&message);
        }
    }

    /// As [`World::receive`], once something is there. A look costs a token, so it waits there.
    pub async fn await_message(&self, member: &mut Member) {
        let deadline = Instant::now() + PATIENCE;
        let received = loop {
            let dequeued: Dequeued = self.pay(&member.mailbox.waiting(30)).await.decode();
            let received = member.mailbox.open(&dequeued);
            if !received.is_empty() {
                break received;
            }
            assert!(Instant::now() < deadline, "nothing came");
        };
        for payload in received {
            let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
            member.party.receive(&message);
        }
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
