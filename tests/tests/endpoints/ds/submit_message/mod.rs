//! `POST /ds/groups/{group_id}/messages` (DS-2 to DS-5, DS-7)

mod gone;
mod limits;
mod other_domains;
mod outbox;
mod proposals;
mod rights;

use std::cell::Cell;

use ciborium::Value;
use openmls::prelude::{
    ApplicationIdExtension, Ciphersuite, Extension, ExtensionType, Extensions, Lifetime,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use postern_protocol::{
    Address, Attributes, MlsMessage, PublicKey, StateKey,
    ds::{CurrentGroup, GroupId, LeafAttributes, MAX_ATTRIBUTES, MessageAccepted, WelcomeTree},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, GroupPolicy, Pseudonym, UserKey},
    problem::ProblemType,
    qs::QueuePayload,
};
use postern_tests_kit::{
    Call, Commit, Group, Made, Party, Server, World, eventually, fresh_address, home, leaf_extensions,
    mistagged, policy_extensions, public_application, random_id,
};
use reqwest::StatusCode;

use super::{library::Library, targets};
use crate::every_route::Valid;

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
    // The message is of the group it was made for.
    let unknown = GroupId::new(random_id(), home());
    let mut cut = vec![("state_key", ProblemType::MalformedBody), ("message", ProblemType::InvalidMls)];
    for part in ["welcome", "group_info"] {
        if call.fields().iter().any(|(name, _)| name == part) {
            cut.push((part, ProblemType::InvalidMls));
        }
    }
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut,
        optional: &["welcome", "group_info"],
        targets: targets(&group.id, "messages", (&unknown, ProblemType::InvalidMls)),
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

async fn assert_commit_refused(
    world: &World,
    what: &str,
    group: &mut Group,
    by: usize,
    commit: Commit,
    as_: ProblemType,
) {
    let (_, call) = group.make(by, commit);
    world.assert_refuses(what, &call, as_).await;
    group.party(by).forget();
}

async fn submit(world: &World, call: &Call) -> MessageAccepted {
    world.pay(call).await.decode()
}

#[tokio::test]
async fn each_accepted_message_is_in_every_other_members_queue_once_and_in_order() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let one = group.party(0).say(b"one");
    let accepted = submit(&world, &group.submit(0, &one, None)).await;
    assert_eq!((accepted.epoch, accepted.undelivered), (1, 0));
    let two = group.party(1).say(b"two");
    submit(&world, &group.submit(1, &two, None)).await;
    let read = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    assert_eq!(world.receive(&mut group.members[2]).await, read(&[b"one", b"two"]));
    // A member renews its keys, and everybody goes on in the next epoch.
    let (_, commit) = group.make(2, update());
    assert_eq!(submit(&world, &commit).await.epoch, 2);
    group.party(2).merge();
    let three = group.party(2).say(b"three");
    submit(&world, &group.submit(2, &three, None)).await;
    assert_eq!(world.receive(&mut group.members[1]).await, read(&[b"one", b"three"]));
    // A proposal changes nothing until somebody commits it.
    let proposal = group.party(1).propose_update();
    assert_eq!(submit(&world, &group.submit(1, &proposal, None)).await.epoch, 2);

    assert_eq!(world.receive(&mut group.members[0]).await, read(&[b"two", b"three"]));
    assert!(world.receive(&mut group.members[2]).await.is_empty());
    let (made, commit) = group.make(0, update());
    assert_eq!(made.welcome, None);
    assert_eq!(submit(&world, &commit).await.epoch, 3);
    group.party(0).merge();
    let four = group.party(0).say(b"four");
    submit(&world, &group.submit(0, &four, None)).await;
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
    submit(&world, &group.submit(2, &hello, None)).await;
    assert_eq!(world.receive(&mut group.members[1]).await, [b"hello".to_vec()]);
    assert_eq!(world.receive(&mut group.members[0]).await, [b"hello".to_vec()]);

    let last_words = group.party(2).say(b"wait");
    let removal = removing(&group, 2);
    let (_, commit) = group.make(0, removal);
    submit(&world, &commit).await;
    group.party(0).merge();
    let after = group.party(0).say(b"among ourselves");
    submit(&world, &group.submit(0, &after, None)).await;
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
    let removing = group.party(2).propose_removal(own);
    let call = group.submit(2, &removing, None);
    world.assert_refuses("a Remove of its own leaf", &call, ProblemType::PolicyViolation).await;
    let detail = world.pay(&call).await.problem("a Remove of its own leaf").detail.unwrap();
    assert_eq!(detail, "a member leaves by a SelfRemove proposal (0x000a), not by a Remove of its own leaf");
    group.party(2).forget();
    let leaving = group.party(2).self_remove();
    assert_eq!(submit(&world, &group.submit(2, &leaving, None)).await.epoch, 1);
    world.receive(&mut group.members[1]).await;
    // Committed by a member that is no admin: the proposal is the leaver's own.
    let (_, commit) = group.make(1, Commit::default());
    assert_eq!(submit(&world, &commit).await.epoch, 2);
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
    let accepted = submit(&world, &winner).await;
    assert_eq!(accepted.epoch, 2);

    let before = world.snapshot().await;
    let again = submit(&world, &winner).await;
    assert_eq!(again.epoch, 2, "the winner's answer once more (DS-4)");
    world.snapshot().await.assert_same(&before, "a repeat");
    world.assert_refuses("the loser", &loser, ProblemType::WrongEpoch).await;
    assert_eq!(world.pay(&loser).await.problem("the loser").epoch, Some(2));
    group.party(1).forget();
    world.receive(&mut group.members[1]).await;
    assert_eq!(group.party(1).epoch(), 2);
    let (_, retried) = group.make(1, update());
    assert_eq!(submit(&world, &retried).await.epoch, 3);
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
    ghost.leaf = ghost.leaf_at(&home(), fresh_address());
    ghost.found(&unknown.to_mls(), group.context(&group.policy));
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
    assert_commit_refused(
        &world,
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
    submit(&world, &group.submit(1, &spoken, None)).await;
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
    let with_welcome = Made { welcome: Some(welcome.clone()), ..made };
    let call = group.submit_commit(&group.members[0].party.key, &with_welcome);
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
    let mut double = Party::newcomer();
    double.leaf = double.leaf_at(&home(), first.members[1].address);
    let (_, call) = second.make(0, adding(&[&double]));
    assert_eq!(submit(&world, &call).await.undelivered, 1, "another group is refused (QS-3)");
    second.party(0).merge();
    // The DS proposes that it goes, and the next commit has to see to that (DS-10).
    world.await_message(&mut second.members[0]).await;
    let lost = Party::newcomer();
    let (_, call) = second.make(0, adding(&[&lost]));
    assert_eq!(submit(&world, &call).await.undelivered, 2, "and so is an address that nobody made");
    second.party(0).merge();
    assert!(!second.party(0).member_keys().contains(&double.public_key()));
    let spoken = first.party(0).say(b"to the first");
    assert_eq!(submit(&world, &first.submit(0, &spoken, None)).await.undelivered, 0);
    let received = world.read(&mut first.members[1].mailbox).await;
    assert_eq!(received, [QueuePayload::Message(spoken)], "and nothing of the second");
    world.close();
}

#[tokio::test]
async fn a_commit_brings_the_group_info_of_the_epoch_it_begins() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let mut other = world.group(2).await;
    let refused = ProblemType::InvalidMls;
    let current = world.group_info(&group, &group.members[1].party.key).await.group_info;
    let (of_other, _) = other.make(1, update());
    let colleagues = group.party(0).commit(update());
    group.party(0).forget();
    let made = group.party(1).commit(update());
    let again = {
        group.party(1).forget();
        group.party(1).commit(update())
    };
    group.party(1).forget();
    for (what, group_info) in [
        ("none", None),
        ("the epoch's before", Some(current)),
        ("another group's", of_other.group_info),
        ("another member's for its own commit", colleagues.group_info.clone()),
        ("another commit's of the same member", made.group_info.clone()),
    ] {
        let call = group.submit_commit(&group.members[1].party.key, &Made { group_info, ..again.clone() });
        world.assert_refuses(what, &call, refused).await;
    }
    let mut forged = again.group_info.clone().unwrap().into_bytes();
    *forged.last_mut().unwrap() ^= 1;
    let forged = Made { group_info: Some(postern_protocol::GroupInfo::new(forged)), ..again.clone() };
    let call = group.submit_commit(&group.members[1].party.key, &forged);
    world.assert_refuses("a forged signature", &call, refused).await;
    let with_tree = Commit { tree_in_group_info: true, ..update() };
    assert_commit_refused(&world, "with the ratchet tree", &mut group, 1, with_tree, refused).await;
    let info_extensions = vec![Extension::Unknown(0xf0aa, UnknownExtension(vec![7; 1000]))];
    let with_more = Commit { info_extensions, ..update() };
    assert_commit_refused(&world, "with what nobody needs", &mut group, 1, with_more, refused).await;
    let spoken = group.party(1).say(b"hello");
    let with_info = Made { commit: spoken, ..made.clone() };
    let call = group.submit_commit(&group.members[1].party.key, &with_info);
    world.assert_refuses("with an application message", &call, refused).await;

    let (made, call) = group.make(1, update());
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(1).merge();
    let kept = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(Some(kept.group_info), made.group_info, "and the DS keeps it (DS-8)");
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).epoch(), 2);
    world.close();
}

pub fn attributes(of: PublicKey, content: &[u8]) -> LeafAttributes {
    LeafAttributes { leaf_key: of, attributes: Attributes::new(content.to_vec()) }
}

/// A call with attributes, as CBOR.
pub fn with_attributes(call: &Call, attributes: &[LeafAttributes]) -> Call {
    let value = Value::serialized(attributes).expect("it is CBOR");
    let mut fields = call.fields();
    fields.push(("attributes".to_owned(), value));
    call.with_fields(fields)
}

/// By the operator, while servers run.
async fn set_limit(world: &World, name: &str, value: i32) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_group_limit($1, $2)", &[&name, &value]).await.unwrap();
}

#[tokio::test]
async fn a_message_that_commits_overtook_is_taken_for_some_epochs() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let late = group.party(1).say(b"late");
    let late = group.submit(1, &late, None);
    let newcomer = world.candidate().await;
    world.add(&mut group, vec![newcomer]).await;
    for epoch in [3, 4] {
        let (_, commit) = group.make(0, update());
        assert_eq!(submit(&world, &commit).await.epoch, epoch);
        group.party(0).merge();
    }
    let accepted = submit(&world, &late).await;
    assert_eq!((accepted.epoch, accepted.undelivered), (4, 0));
    assert_eq!(world.receive(&mut group.members[2]).await, [b"late".to_vec()], "after three commits");
    assert_eq!(world.receive(&mut group.members[0]).await, [b"late".to_vec()]);
    assert!(
        world.receive(&mut group.members[3]).await.is_empty(),
        "it was not there yet, and cannot read it"
    );
    assert_eq!(group.party(3).epoch(), 4);

    // Nobody has sent anything from before it came in.
    let spoken = group.party(3).say(b"hello");
    let mut before = spoken.as_bytes().to_vec();
    let epoch = 4 + 1 + group.id.to_mls().len() + 7;
    assert_eq!(before[epoch], 4);
    before[epoch] = 1;
    let before = group.submit(3, &MlsMessage::new(before), None);
    world.assert_refuses("a message from before its sender", &before, ProblemType::WrongEpoch).await;

    let (_, commit) = group.make(0, update());
    submit(&world, &commit).await;
    group.party(0).merge();
    world.assert_refuses("one commit too late", &late, ProblemType::WrongEpoch).await;
    let problem = world.pay(&late).await.problem("one commit too late");
    assert_eq!((problem.epoch, problem.past_epochs), (Some(5), Some(3)));
    let spoken = group.submit(3, &spoken, None);
    set_limit(&world, "past_epochs", 0).await;
    world.assert_refuses("late where nothing may be", &spoken, ProblemType::WrongEpoch).await;
    set_limit(&world, "past_epochs", 1).await;
    submit(&world, &spoken).await;
    assert_eq!(world.receive(&mut group.members[0]).await, [b"hello".to_vec()]);
    world.close();
}

#[tokio::test]
async fn no_message_is_taken_that_a_client_missed_which_came_in_by_itself_meanwhile() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(4).await;
    let late = ProblemType::WrongEpoch;
    let say = |group: &mut Group, text: &[u8]| {
        let said = group.party(1).say(text);
        group.submit(1, &said, None)
    };
    let before = say(&mut group, b"to the old leaf");
    let current = world.group_info(&group, &group.members[2].party.key).await;
    let made = group.party(2).join_externally(&current, None);
    let call = group.submit_commit(&group.members[2].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(2).merge();
    world.assert_refuses("before somebody came back", &before, late).await;
    let problem = world.pay(&before).await.problem("before somebody came back");
    assert_eq!((problem.epoch, problem.past_epochs), (Some(2), Some(0)));

    // Encrypted again, it reaches everybody, also after further commits, of the one that came back, too.
    for member in [0, 1, 3] {
        world.receive(&mut group.members[member]).await;
    }
    let again = say(&mut group, b"to the new leaf");
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&world, &call).await.epoch, 3);
    group.party(2).merge();
    submit(&world, &again).await;
    for member in [0, 2, 3] {
        assert_eq!(
            world.receive(&mut group.members[member]).await,
            [b"to the new leaf".to_vec()],
            "{member}"
        );
    }
    world.assert_refuses("its own commit changes nothing", &before, late).await;

    // A device that was added as a user of its own moves to its user's place: who it was does not show.
    world.receive(&mut group.members[1]).await;
    let before = say(&mut group, b"to the old place");
    let leaving = group.party(3).self_remove();
    submit(&world, &group.submit(3, &leaving, None)).await;
    let mut moved = world.further_client(&group.members[1]).await;
    let users = moved.party.user.clone();
    let current = world.group_info(&group, &users).await;
    assert_eq!(current.proposals, [leaving]);
    let made = moved.party.join_externally(&current, Some(&users));
    assert_eq!(submit(&world, &group.submit_commit(&moved.party.key, &made)).await.epoch, 4);
    moved.party.merge();
    world.assert_refuses("before somebody moved", &before, late).await;
    group.members.push(moved);
    // Another may have committed its proposal to leave before: then it joins as any new client does.
    world.receive(&mut group.members[1]).await;
    let before = say(&mut group, b"to the one that was out");
    let mut joiner = world.further_client(&group.members[1]).await;
    let made = joiner.party.join_externally(&world.group_info(&group, &users).await, Some(&users));
    assert_eq!(submit(&world, &group.submit_commit(&joiner.party.key, &made)).await.epoch, 5);
    world.assert_refuses("before somebody joined", &before, late).await;

    // Once these clients are gone, nobody missed anything.
    joiner.party.merge();
    world.receive(&mut group.members[0]).await;
    let whole = vec![group.key(2), group.key(1), group.key(4), joiner.party.public_key()];
    let spoken = group.party(0).say(b"nobody else is here");
    let spoken = group.submit(0, &spoken, None);
    let (_, call) = group.make(0, Commit { remove: whole, ..Default::default() });
    assert_eq!(submit(&world, &call).await.epoch, 6);
    submit(&world, &spoken).await;
    world.close();
}

#[tokio::test]
async fn a_commit_that_is_accepted_while_a_message_is_does_not_cost_the_message() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
    let mut group = world.group(2).await;
    let spoken = group.party(1).say(b"at the same time");
    let spoken = group.submit(1, &spoken, None);
    let (_, commit) = group.make(0, update());
    // Both have read the group, and wait to write.
    let admin = world.cluster.admin().await;
    admin.batch_execute("BEGIN; SELECT FROM ds.groups FOR UPDATE").await.unwrap();
    let release = async {
        // The commit keeps its place before the message.
        world.caught("submit_message").await;
        let (accepted, ()) = tokio::join!(submit(&world, &spoken), async {
            let sql = "SELECT count(*) FROM pg_stat_activity
                        WHERE usename = 'postern_server' AND wait_event_type = 'Lock'
                          AND query LIKE '%submit_message%'";
            eventually("both wait", async || (world.value::<i64>(sql).await == 2).then_some(())).await;
            admin.batch_execute("COMMIT").await.unwrap();
        });
        accepted
    };
    let (committed, said) = tokio::join!(submit(&world, &commit), release);
    assert_eq!((committed.epoch, said.epoch), (2, 2));
    group.party(0).merge();
    assert_eq!(world.receive(&mut group.members[0]).await, [b"at the same time".to_vec()]);
    world.close();
}
