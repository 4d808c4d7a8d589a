//! `POST /ds/groups/{group_id}/messages` (DS-2 to DS-5, DS-7)

use ciborium::Value;
use openmls::prelude::{Extensions, Lifetime};
use postern_protocol::{
    MlsMessage, StateKey,
    ds::{GroupId, MessageAccepted},
    mls::{GroupPolicy, Pseudonym},
    name::Domain,
    problem::ProblemType,
    qs::QueuePayload,
};
use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{
        Call, Commit, Group, Party, World, fresh_address, home, leaf_extensions, policy_extensions,
        public_application, random_id,
    },
};

/// An application message, a commit that adds a member, and a proposal.
pub async fn valid(world: &World) -> Vec<Valid> {
    let (mut speaking, mut growing, mut proposing) =
        (world.group(2).await, world.group(2).await, world.group(2).await);
    let spoken = speaking.party(1).say(b"hello");
    let newcomer = world.candidate().await;
    let (_, commit) = growing.make(0, adding(&[&newcomer.party]));
    let proposed = proposing.party(1).propose_update();
    vec![
        entry(&speaking, speaking.submit(1, &spoken, None)),
        entry(&growing, commit),
        entry(&proposing, proposing.submit(1, &proposed, None)),
    ]
}

fn entry(group: &Group, call: Call) -> Valid {
    let unknown = GroupId::new(random_id(), home());
    let foreign = GroupId::new(*group.id.id(), "elsewhere.example".parse().unwrap());
    let id = group.id.to_base64url();
    let target = |id: &str| format!("/ds/groups/{id}/messages");
    let mut cut = vec![("state_key", ProblemType::MalformedBody), ("message", ProblemType::InvalidMls)];
    if call.fields().iter().any(|(name, _)| name == "welcome") {
        cut.push(("welcome", ProblemType::InvalidMls));
    }
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut,
        optional: &["welcome"],
        targets: vec![
            // The message is of the group it was made for.
            (target(&unknown.to_base64url()), ProblemType::InvalidMls),
            (target(&foreign.to_base64url()), ProblemType::ForeignDomain),
            (target(&id[..20]), ProblemType::MalformedRequest),
            (target(&id[..22]), ProblemType::MalformedRequest),
            (target(&format!("{id}=")), ProblemType::MalformedRequest),
            (target("*"), ProblemType::MalformedRequest),
            (target("%ff"), ProblemType::MalformedRequest),
        ],
        ..Valid::new(call, StatusCode::OK)
    }
}

fn adding(parties: &[&Party]) -> Commit {
    Commit { add: parties.iter().map(|party| party.key_package()).collect(), ..Default::default() }
}

fn removing(group: &Group, member: usize) -> Commit {
    Commit { remove: vec![group.key(member)], ..Default::default() }
}

fn update() -> Commit {
    Commit { update: true, ..Default::default() }
}

impl World {
    async fn assert_commit_refused(
        &self,
        what: &str,
        group: &mut Group,
        by: usize,
        commit: Commit,
        as_: ProblemType,
    ) {
        let (_, call) = group.make(by, commit);
        self.assert_refuses(what, &call, as_).await;
        group.party(by).forget();
    }

    async fn submit(&self, call: &Call) -> MessageAccepted {
        self.pay(call).await.decode()
    }
}

#[tokio::test]
async fn each_accepted_message_is_in_every_other_members_queue_once_and_in_order() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let one = group.party(0).say(b"one");
    let accepted = world.submit(&group.submit(0, &one, None)).await;
    assert_eq!((accepted.epoch, accepted.undelivered), (1, 0));
    let two = group.party(1).say(b"two");
    world.submit(&group.submit(1, &two, None)).await;
    let read = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    assert_eq!(world.receive(&mut group.members[2]).await, read(&[b"one", b"two"]));
    // A member renews its keys, and everybody goes on in the next epoch.
    let (_, commit) = group.make(2, update());
    assert_eq!(world.submit(&commit).await.epoch, 2);
    group.party(2).merge();
    let three = group.party(2).say(b"three");
    world.submit(&group.submit(2, &three, None)).await;
    assert_eq!(world.receive(&mut group.members[1]).await, read(&[b"one", b"three"]));
    // A proposal changes nothing until somebody commits it.
    let proposal = group.party(1).propose_update();
    assert_eq!(world.submit(&group.submit(1, &proposal, None)).await.epoch, 2);

    assert_eq!(world.receive(&mut group.members[0]).await, read(&[b"two", b"three"]));
    assert!(world.receive(&mut group.members[2]).await.is_empty());
    let (made, commit) = group.make(0, update());
    assert_eq!(made.welcome, None);
    assert_eq!(world.submit(&commit).await.epoch, 3);
    group.party(0).merge();
    let four = group.party(0).say(b"four");
    world.submit(&group.submit(0, &four, None)).await;
    for member in [1, 2] {
        assert_eq!(world.receive(&mut group.members[member]).await, read(&[b"four"]));
        assert_eq!(group.party(member).epoch(), 3);
    }
    world.close();
}

#[tokio::test]
async fn a_welcomed_member_speaks_and_a_removed_one_hears_of_it_and_nothing_after() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    let newcomer = world.candidate().await;
    assert_eq!(world.add(&mut group, vec![newcomer]).await.epoch, 2);
    let hello = group.party(2).say(b"hello");
    world.submit(&group.submit(2, &hello, None)).await;
    assert_eq!(world.receive(&mut group.members[1]).await, [b"hello".to_vec()]);
    assert_eq!(world.receive(&mut group.members[0]).await, [b"hello".to_vec()]);

    let last_words = group.party(2).say(b"wait");
    let removal = removing(&group, 2);
    let (_, commit) = group.make(0, removal);
    world.submit(&commit).await;
    group.party(0).merge();
    let after = group.party(0).say(b"among ourselves");
    world.submit(&group.submit(0, &after, None)).await;
    assert!(
        world.receive(&mut group.members[2]).await.is_empty(),
        "the commit, and nothing that it could read"
    );
    assert!(!group.party(2).is_active());
    assert!(world.read(&mut group.members[2].mailbox).await.is_empty());
    let call = group.submit(2, &last_words, None);
    world.assert_refuses("the removed member", &call, ProblemType::NotAllowed).await;
    assert_eq!(world.receive(&mut group.members[1]).await, [b"among ourselves".to_vec()]);
    world.close();
}

#[tokio::test]
async fn a_member_leaves_by_a_proposal_that_another_commits() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let own = group.key(2);
    let leaving = group.party(2).propose_removal(own);
    assert_eq!(world.submit(&group.submit(2, &leaving, None)).await.epoch, 1);
    world.receive(&mut group.members[1]).await;
    // Committed by a member that is no admin: the proposal is the leaver's own.
    let (_, commit) = group.make(1, Commit::default());
    assert_eq!(world.submit(&commit).await.epoch, 2);
    group.party(1).merge();
    assert!(!group.members[1].party.member_keys().contains(&own));
    world.receive(&mut group.members[2]).await;
    assert!(!group.party(2).is_active());
    world.close();
}

#[tokio::test]
async fn the_second_commit_of_an_epoch_is_refused_and_a_repeat_of_the_first_is_answered_again() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let (first, winner) = group.make(0, update());
    let (_, loser) = group.make(1, update());
    let accepted = world.submit(&winner).await;
    assert_eq!(accepted.epoch, 2);

    let before = world.snapshot().await;
    let again = world.submit(&winner).await;
    assert_eq!(again.epoch, 2, "the winner's answer once more (DS-4)");
    world.snapshot().await.assert_same(&before, "a repeat");
    world.assert_refuses("the loser", &loser, ProblemType::WrongEpoch).await;
    assert_eq!(world.pay(&loser).await.problem("the loser").epoch, Some(2));
    let stale = group.party(1).say(b"from the past");
    // openmls speaks only once no commit is pending; the epoch is still the old one.
    let late = group.submit(1, &stale, None);
    world.assert_refuses("a message of the last epoch", &late, ProblemType::WrongEpoch).await;

    group.party(1).forget();
    world.receive(&mut group.members[1]).await;
    assert_eq!(group.party(1).epoch(), 2);
    let (_, retried) = group.make(1, update());
    assert_eq!(world.submit(&retried).await.epoch, 3);
    let repeat = group.submit(0, &first.commit, None);
    world.assert_refuses("a repeat of a commit before the last", &repeat, ProblemType::WrongEpoch).await;
    world.close();
}

#[tokio::test]
async fn whoever_lacks_the_groups_key_or_a_leaf_learns_nothing() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    let mut other = world.group(2).await;
    let spoken = group.party(1).say(b"hello");
    let (made, commit) = group.make(1, update());
    let proposed = other.party(1).propose_update();
    for (what, call) in [
        ("a message", group.submit(1, &spoken, None)),
        ("a commit", commit),
        ("a proposal", other.submit(1, &proposed, None)),
    ] {
        for key in [StateKey::new([7; 32]), StateKey::new(group.policy.state_secret)] {
            let wrong = call.with_field("state_key", Value::Bytes(key.as_bytes().to_vec()));
            world.assert_refuses(&format!("{what} with another key"), &wrong, ProblemType::NotFound).await;
        }
    }
    // A group that nobody knows is answered like one whose key one does not have.
    let unknown = GroupId::new(random_id(), home());
    let mut ghost = Party::new(Pseudonym::random().0);
    ghost.leaf = leaf_extensions(&home(), fresh_address());
    ghost.found(&unknown.to_mls(), policy_extensions(&group.policy));
    let ghostly = ghost.say(b"boo");
    let target = format!("/ds/groups/{}/messages", unknown.to_base64url());
    let call = group.submit(0, &ghostly, None).to(target);
    world.assert_refuses("an unknown group", &call, ProblemType::NotFound).await;

    let of_other = other.submit(0, &spoken, None);
    world.assert_refuses("a message of another group", &of_other, ProblemType::InvalidMls).await;
    let stranger = group.submit(1, &spoken, None).signed_by(&other.members[1].party.key);
    world.assert_refuses("a member of another group", &stranger, ProblemType::NotAllowed).await;
    let colleague = group.submit(0, &made.commit, None);
    world.assert_refuses("a commit sent by another member", &colleague, ProblemType::InvalidMls).await;
    world.close();
}

#[tokio::test]
async fn what_is_no_message_of_a_member_in_the_right_framing_is_refused() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let id = group.id.to_mls();
    let spoken = group.party(1).say(b"hello");
    let external = world.candidate().await.party.external_commit(&group.members[0].party);
    let key_package = world.candidate().await.party.key_package_message();
    let info = MlsMessage::new(group.members[0].party.group_info().into_bytes());
    let (made, _) = group.make(0, adding(&[&world.candidate().await.party]));
    group.party(0).forget();
    let welcome = made.welcome.unwrap();
    let mut flipped = made.commit.as_bytes().to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut signature = made.commit.as_bytes().to_vec();
    let place = signature.len() - 100;
    signature[place] ^= 1;
    for (what, message) in [
        ("an application message in public framing", public_application(&id, 1, 0)),
        ("an external commit", external),
        ("a KeyPackage", key_package),
        ("a GroupInfo", info),
        ("a Welcome", MlsMessage::new(welcome.as_bytes().to_vec())),
        ("a commit without its end", MlsMessage::new(made.commit.as_bytes()[..100].to_vec())),
        ("a commit with a forged signature", MlsMessage::new(signature)),
        ("nothing", MlsMessage::default()),
        ("a message and more", MlsMessage::new([spoken.as_bytes(), &[0]].concat())),
    ] {
        let call = group.submit(0, &message, None);
        world.assert_refuses(what, &call, ProblemType::InvalidMls).await;
    }
    let with_welcome = group.submit(1, &spoken, Some(&welcome));
    world
        .assert_refuses("an application message with a Welcome", &with_welcome, ProblemType::InvalidMls)
        .await;

    let mut ahead = spoken.as_bytes().to_vec();
    // version, wire format, group id, epoch
    let epoch = 4 + 1 + id.len() + 7;
    assert_eq!(ahead[epoch], 1);
    ahead[epoch] = 9;
    let call = group.submit(1, &MlsMessage::new(ahead.clone()), None);
    world.assert_refuses("a message of an epoch to come", &call, ProblemType::WrongEpoch).await;
    ahead[epoch - 7..=epoch].fill(0xff);
    let call = group.submit(1, &MlsMessage::new(ahead), None);
    world.assert_refuses("a message of the last epoch there can be", &call, ProblemType::WrongEpoch).await;

    group.party(0).whisper();
    world
        .assert_commit_refused(
            "a commit in private framing",
            &mut group,
            0,
            update(),
            ProblemType::InvalidMls,
        )
        .await;
    let proposal = group.party(0).propose_update();
    let call = group.submit(0, &proposal, None);
    world.assert_refuses("a proposal in private framing", &call, ProblemType::InvalidMls).await;
    world.submit(&group.submit(1, &spoken, None)).await;
    world.close();
}

#[tokio::test]
async fn only_admins_change_who_is_in_the_group_and_what_it_is() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let newcomer = world.candidate().await.party;
    let (mine, theirs) = (group.pseudonym(1), group.pseudonym(0));
    let violation = ProblemType::PolicyViolation;

    world.assert_commit_refused("a member adds", &mut group, 1, adding(&[&newcomer]), violation).await;
    let removal = removing(&group, 2);
    world.assert_commit_refused("a member removes another", &mut group, 1, removal, violation).await;
    let removal = removing(&group, 0);
    world.assert_commit_refused("a member removes the admin", &mut group, 1, removal, violation).await;
    let context =
        |policy: &GroupPolicy| Commit { context: Some(policy_extensions(policy)), ..Default::default() };
    let promotion = context(&group.policy_with(vec![theirs, mine]));
    world.assert_commit_refused("a member makes itself an admin", &mut group, 1, promotion, violation).await;
    for (what, proposal) in [
        ("a member proposes to add", group.members[1].party.propose_add(&newcomer.key_package())),
        ("a member proposes to remove another", {
            group.party(1).forget();
            let key = group.key(2);
            group.party(1).propose_removal(key)
        }),
    ] {
        let call = group.submit(1, &proposal, None);
        world.assert_refuses(what, &call, violation).await;
    }
    group.party(1).forget();

    let leaving = group.party(1).self_remove();
    let call = group.submit(1, &leaving, None);
    world.assert_refuses("a proposal of a type that the DS does not take", &call, violation).await;
    group.party(1).forget();

    let pseudonym = |who: Pseudonym| Commit { identity: Some(who.0.to_vec()), ..Default::default() };
    world
        .assert_commit_refused(
            "a member takes the admin's pseudonym",
            &mut group,
            1,
            pseudonym(theirs),
            violation,
        )
        .await;
    let other = pseudonym(Pseudonym::random());
    world.assert_commit_refused("an admin takes another pseudonym", &mut group, 0, other, violation).await;
    let nobody = context(&group.policy_with(Vec::new()));
    world.assert_commit_refused("an admin leaves no admin", &mut group, 0, nobody, violation).await;
    let stranger = context(&group.policy_with(vec![Pseudonym::random()]));
    world
        .assert_commit_refused("an admin makes a stranger the admin", &mut group, 0, stranger, violation)
        .await;
    let rekeyed = context(&GroupPolicy::new(theirs));
    world.assert_commit_refused("an admin changes the state secret", &mut group, 0, rekeyed, violation).await;

    // An admin makes a second one, who may then do as admins do.
    let promotion = context(&group.policy_with(vec![theirs, mine]));
    let (_, call) = group.make(0, promotion);
    world.submit(&call).await;
    group.party(0).merge();
    world.receive(&mut group.members[1]).await;
    let removal = removing(&group, 0);
    let (_, call) = group.make(1, removal);
    world.submit(&call).await;
    world.close();
}

#[tokio::test]
async fn a_commit_that_members_could_not_live_with_is_refused() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let elsewhere: Domain = "elsewhere.example".parse().unwrap();
    let newcomer = |change: &dyn Fn(&mut Party)| {
        let mut party = Party::new(Pseudonym::random().0);
        party.leaf = leaf_extensions(&home(), fresh_address());
        change(&mut party);
        party
    };
    let key = group.members[2].party.key.clone();
    for (what, party) in [
        (
            "a KeyPackage of unlimited lifetime",
            newcomer(&|party| party.lifetime = Lifetime::init(0, u64::MAX)),
        ),
        ("a new leaf with a short pseudonym", newcomer(&|party| party.identity = vec![7; 15])),
        ("a new leaf with a name", newcomer(&|party| party.identity = b"alice@home.example".to_vec())),
        (
            "a new leaf that receives elsewhere",
            newcomer(&|party| party.leaf = leaf_extensions(&elsewhere, fresh_address())),
        ),
    ] {
        world.assert_commit_refused(what, &mut group, 0, adding(&[&party]), ProblemType::InvalidMls).await;
    }
    let leaf = |leaf| Commit { leaf: Some(leaf), ..Default::default() };
    let moved = leaf(leaf_extensions(&elsewhere, fresh_address()));
    world
        .assert_commit_refused("a leaf that moves elsewhere", &mut group, 1, moved, ProblemType::InvalidMls)
        .await;
    let gone = leaf(Extensions::empty());
    world
        .assert_commit_refused("a leaf without an address", &mut group, 1, gone, ProblemType::InvalidMls)
        .await;
    let made = group.party(1).commit_to_key(&key);
    let call = group.submit(1, &made.commit, None);
    world.assert_refuses("a leaf that takes another member's key", &call, ProblemType::InvalidMls).await;
    group.party(1).forget();

    let bare = Commit { context: Some(Extensions::empty()), ..Default::default() };
    world
        .assert_commit_refused("a group without a policy", &mut group, 0, bare, ProblemType::InvalidMls)
        .await;

    // To another mailbox of its own a member may go.
    let address = world.address(&group.members[1].mailbox).await;
    let (_, call) = group.make(1, leaf(leaf_extensions(&home(), address)));
    world.submit(&call).await;
    world.close();
}

#[tokio::test]
async fn a_welcome_comes_with_a_commit_that_adds_and_is_for_exactly_those() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    let (one, two) = (world.candidate().await, world.candidate().await);
    let (_, both) = group.make(0, adding(&[&one.party, &two.party]));
    group.party(0).forget();
    let (of_one, call) = group.make(0, adding(&[&one.party]));
    let bytes = |call: &Call| call.fields().into_iter().find(|(name, _)| name == "welcome").unwrap().1;
    let swapped = |call: &Call, welcome: Value| call.with_field("welcome", welcome);
    let without = call.with_fields(call.fields().into_iter().filter(|(name, _)| name != "welcome").collect());
    let mut other_suite = bytes(&call).into_bytes().unwrap();
    assert_eq!(other_suite[4..6], [0, 1]);
    other_suite[5] = 3;
    for (what, call) in [
        ("no Welcome", without),
        ("a Welcome for one too many", swapped(&call, bytes(&both))),
        ("a Welcome for one too few", swapped(&both, bytes(&call))),
        ("a commit for a Welcome", swapped(&call, Value::Bytes(of_one.commit.as_bytes().to_vec()))),
        ("a Welcome of another ciphersuite", swapped(&call, Value::Bytes(other_suite))),
        ("an empty Welcome", swapped(&call, Value::Bytes(Vec::new()))),
    ] {
        world.assert_refuses(what, &call, ProblemType::InvalidMls).await;
    }
    group.party(0).forget();
    let welcome = of_one.welcome.unwrap();
    let (made, _) = group.make(0, update());
    let call = group.submit(0, &made.commit, Some(&welcome));
    world.assert_refuses("a Welcome that nobody was added for", &call, ProblemType::InvalidMls).await;
    group.party(0).forget();
    let proposal = group.party(1).propose_update();
    let call = group.submit(1, &proposal, Some(&welcome));
    world.assert_refuses("a proposal with a Welcome", &call, ProblemType::InvalidMls).await;
    world.add(&mut group, vec![one, two]).await;
    world.close();
}

#[tokio::test]
async fn an_address_belongs_to_the_first_group_that_uses_it() {
    let world = World::start().await;
    let mut first = world.group(2).await;
    let mut second = world.group(1).await;
    // A member of the first group is added to the second with the address it gave the first.
    let mut double = Party::new(Pseudonym::random().0);
    double.leaf = leaf_extensions(&home(), first.members[1].address);
    let (_, call) = second.make(0, adding(&[&double]));
    assert_eq!(world.submit(&call).await.undelivered, 1, "another group is refused (QS-3)");
    second.party(0).merge();
    let mut lost = Party::new(Pseudonym::random().0);
    lost.leaf = leaf_extensions(&home(), fresh_address());
    let (_, call) = second.make(0, adding(&[&lost]));
    assert_eq!(world.submit(&call).await.undelivered, 2, "and so is an address that nobody made");
    let spoken = first.party(0).say(b"to the first");
    assert_eq!(world.submit(&first.submit(0, &spoken, None)).await.undelivered, 0);
    let received = world.read(&mut first.members[1].mailbox).await;
    assert_eq!(received, [QueuePayload::Message(spoken)], "and nothing of the second");
    world.close();
}
