//! `POST /ds/groups/{group_id}/messages` (DS-2 to DS-5, DS-7)

use std::cell::Cell;

use ciborium::Value;
use openmls::prelude::{
    ApplicationIdExtension, Ciphersuite, Extension, ExtensionType, Extensions, Lifetime,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use postern_protocol::{
    Attributes, MlsMessage, PublicKey, StateKey,
    ds::{CurrentGroup, GroupId, LeafAttributes, MAX_ATTRIBUTES, MessageAccepted, WelcomeTree},
    key::SigningKey,
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, GroupPolicy, Pseudonym, UserKey},
    name::Domain,
    problem::ProblemType,
    qs::QueuePayload,
};
use postern_tests_kit::{
    Call, Commit, Group, Made, Party, Server, World, eventually, fresh_address, home, leaf_extensions,
    mistagged, policy_extensions, public_application, random_id,
};
use reqwest::StatusCode;

use super::{library::Library, targets};
use crate::road::Valid;

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
async fn only_admins_change_who_is_in_the_group_and_what_it_is() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let newcomer = world.candidate().await.party;
    let (mine, theirs) = (group.pseudonym(1), group.pseudonym(0));
    let violation = ProblemType::PolicyViolation;

    assert_commit_refused(&world, "a member adds", &mut group, 1, adding(&[&newcomer]), violation).await;
    let removal = removing(&group, 2);
    assert_commit_refused(&world, "a member removes another", &mut group, 1, removal, violation).await;
    let removal = removing(&group, 0);
    assert_commit_refused(&world, "a member removes the admin", &mut group, 1, removal, violation).await;
    let server_key = group.server_key;
    let context = |policy: &GroupPolicy| {
        let context = Some(policy_extensions(policy, &server_key));
        Commit { context, ..Default::default() }
    };
    let promotion = context(&group.policy_with(vec![theirs, mine]));
    assert_commit_refused(&world, "a member makes itself an admin", &mut group, 1, promotion, violation)
        .await;
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

    let pseudonym = |who: Pseudonym| Commit { identity: Some(who.0.to_vec()), ..Default::default() };
    assert_commit_refused(
        &world,
        "a member takes the admin's pseudonym",
        &mut group,
        1,
        pseudonym(theirs),
        violation,
    )
    .await;
    let other = pseudonym(Pseudonym::random());
    assert_commit_refused(&world, "an admin takes another pseudonym", &mut group, 0, other, violation).await;
    let nobody = context(&group.policy_with(Vec::new()));
    assert_commit_refused(&world, "an admin leaves no admin", &mut group, 0, nobody, violation).await;
    let stranger = context(&group.policy_with(vec![Pseudonym::random()]));
    assert_commit_refused(&world, "an admin makes a stranger the admin", &mut group, 0, stranger, violation)
        .await;
    let rekeyed = context(&GroupPolicy::new(theirs));
    assert_commit_refused(&world, "an admin changes the state secret", &mut group, 0, rekeyed, violation)
        .await;

    // An admin makes a second one, who may then do as admins do.
    let promotion = context(&group.policy_with(vec![theirs, mine]));
    let (_, call) = group.make(0, promotion);
    submit(&world, &call).await;
    group.party(0).merge();
    world.receive(&mut group.members[1]).await;
    let removal = removing(&group, 0);
    let (_, call) = group.make(1, removal);
    submit(&world, &call).await;
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
        party.leaf = party.leaf_at(&home(), fresh_address());
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
            newcomer(&|party| party.leaf = party.leaf_at(&elsewhere, fresh_address())),
        ),
    ] {
        assert_commit_refused(&world, what, &mut group, 0, adding(&[&party]), ProblemType::InvalidMls).await;
    }
    let leaf = |leaf| Commit { leaf: Some(leaf), ..Default::default() };
    let moved = leaf(group.party(1).leaf_at(&elsewhere, fresh_address()));
    assert_commit_refused(
        &world,
        "a leaf that moves elsewhere",
        &mut group,
        1,
        moved,
        ProblemType::InvalidMls,
    )
    .await;
    let gone = leaf(Extensions::empty());
    assert_commit_refused(&world, "a leaf without an address", &mut group, 1, gone, ProblemType::InvalidMls)
        .await;
    let made = group.party(1).commit_to_key(&key);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    world.assert_refuses("a leaf that takes another member's key", &call, ProblemType::InvalidMls).await;
    group.party(1).forget();

    let bare = Commit { context: Some(Extensions::empty()), ..Default::default() };
    assert_commit_refused(&world, "a group without a policy", &mut group, 0, bare, ProblemType::InvalidMls)
        .await;
    let mut stays = group.context(&group.policy);
    let types = [GROUP_POLICY, DELIVERY_ADDRESS].map(ExtensionType::Unknown);
    let required = RequiredCapabilitiesExtension::new(&types, &[], &[]);
    stays.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
    let stays = Commit { context: Some(stays), ..Default::default() };
    assert_commit_refused(
        &world,
        "a group that one may be unable to leave",
        &mut group,
        0,
        stays,
        ProblemType::InvalidMls,
    )
    .await;

    // To another mailbox of its own a member may go.
    let address = world.address(&group.members[1].mailbox).await;
    let own = leaf(group.party(1).leaf_at(&home(), address));
    let (_, call) = group.make(1, own);
    submit(&world, &call).await;
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

    // A leaf that takes a new key signs the GroupInfo with that.
    let new = SigningKey::generate();
    let rotation = group.party(1).commit_to_key(&new);
    let call = group.submit_commit(&group.members[1].party.key, &rotation);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(1).rotate(new);
    let kept = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(Some(kept.group_info), rotation.group_info, "and the DS keeps it (DS-8)");
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).epoch(), 2);
    world.close();
}

#[tokio::test]
async fn what_was_proposed_is_in_the_next_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(4).await;
    let violation = ProblemType::PolicyViolation;
    let leaving = group.party(3).self_remove();
    submit(&world, &group.submit(3, &leaving, None)).await;
    let kept = group.party(3).waiting();
    group.party(3).attach(b"another one".to_vec());
    let again = group.party(3).self_remove();
    world.assert_refuses("another to leave", &group.submit(3, &again, None), violation).await;
    group.party(3).withdraw(&kept);
    let renewed = group.party(2).propose_update();
    submit(&world, &group.submit(2, &renewed, None)).await;
    for member in [0, 1] {
        world.receive(&mut group.members[member]).await;
    }
    let alone = || Commit { alone: true, ..update() };
    assert_commit_refused(&world, "a commit that leaves them out", &mut group, 0, alone(), violation).await;
    // assert_commit_refused made member 0 forget what was proposed; member 1 still knows.
    let without_proposer = Commit { remove: vec![group.key(3)], ..alone() };
    assert_commit_refused(&world, "one that does half of it", &mut group, 0, without_proposer, violation)
        .await;
    let (_, call) = group.make(1, update());
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(1).merge();
    assert_eq!(group.party(1).member_keys().len(), 3);
    world.receive(&mut group.members[3]).await;
    assert!(!group.party(3).is_active());
    world.receive(&mut group.members[2]).await;
    assert_eq!(group.party(2).epoch_authenticator(), group.party(1).epoch_authenticator());

    // A committer has renewed its leaf, too, and need not take its own proposal along.
    let renewed = group.party(2).propose_update();
    submit(&world, &group.submit(2, &renewed, None)).await;
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&world, &call).await.epoch, 3);
    world.close();
}

#[tokio::test]
async fn a_proposal_that_no_commit_could_take_along_is_not_kept() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(3).await;
    let newcomer = world.candidate().await.party;
    let violation = ProblemType::PolicyViolation;
    let added = group.party(0).propose_add(&newcomer.key_package());
    let call = group.submit(0, &added, None);
    world.assert_refuses("an admin proposes to add instead of committing it", &call, violation).await;
    group.party(0).forget();
    let key = group.key(2);
    let removed = group.party(0).propose_removal(key);
    let call = group.submit(0, &removed, None);
    world.assert_refuses("an admin proposes to remove another", &call, violation).await;
    group.party(0).forget();
    let own = group.key(0);
    for leaving in [group.party(0).self_remove(), group.party(0).propose_removal(own)] {
        let call = group.submit(0, &leaving, None);
        world.assert_refuses("the last admin leaves", &call, violation).await;
    }
    group.party(0).forget();
    let stolen = group.members[2].party.key.clone();
    let update = group.party(1).propose_update_to_key(&stolen);
    let call = group.submit(1, &update, None);
    world.assert_refuses("an Update to another member's key", &call, ProblemType::InvalidMls).await;
    group.party(1).forget();

    // With another admin named, the first may go.
    let admins = vec![group.pseudonym(0), group.pseudonym(1)];
    let context = Some(group.context(&group.policy_with(admins)));
    let (_, call) = group.make(0, Commit { context, ..Default::default() });
    submit(&world, &call).await;
    group.party(0).merge();
    world.receive(&mut group.members[1]).await;
    let leaving = group.party(0).self_remove();
    submit(&world, &group.submit(0, &leaving, None)).await;
    world.receive(&mut group.members[1]).await;
    let demotion = group.context(&group.policy_with(vec![group.pseudonym(0)]));
    let demotion = Commit { context: Some(demotion), ..Default::default() };
    assert_commit_refused(
        &world,
        "the other admin makes it the only one",
        &mut group,
        1,
        demotion,
        violation,
    )
    .await;
    world.close();
}

#[tokio::test]
async fn a_users_clients_manage_each_other_and_admins_remove_all_of_them() {
    let world = World::start().await;
    world.stock(300).await;
    let mut group = world.group(3).await;
    let violation = ProblemType::PolicyViolation;
    // A client with a user's pseudonym is a client of that user, so only that user may add it.
    let second = world.further_client(&group.members[1]).await;
    assert_commit_refused(
        &world,
        "an admin adds another's client",
        &mut group,
        0,
        adding(&[&second.party]),
        violation,
    )
    .await;
    assert_commit_refused(
        &world,
        "a member adds another's client",
        &mut group,
        2,
        adding(&[&second.party]),
        violation,
    )
    .await;
    let mut impostor = world.further_client(&group.members[1]).await;
    impostor.party.user = SigningKey::generate();
    impostor.party.leaf = impostor.party.leaf_at(&home(), impostor.address);
    assert_commit_refused(
        &world,
        "a client with another user key",
        &mut group,
        1,
        adding(&[&impostor.party]),
        violation,
    )
    .await;
    world.add_by(&mut group, 1, vec![second]).await;
    for member in [0, 2] {
        world.receive(&mut group.members[member]).await;
    }

    let part = removing(&group, 3);
    assert_commit_refused(&world, "an admin removes one of the clients", &mut group, 0, part, violation)
        .await;
    // A user who removes a client of his own takes the user key away from it.
    let removal = removing(&group, 1);
    assert_commit_refused(&world, "the user's key stays", &mut group, 3, removal.clone(), violation).await;
    group.party(3).user = SigningKey::generate();
    let address = group.members[3].address;
    let same = group.party(3).leaf_at(&home(), address);
    let same = Commit { leaf: Some(same), ..removal.clone() };
    assert_commit_refused(&world, "another key, the same generation", &mut group, 3, same, violation).await;
    group.party(3).generation = 1;
    let next = group.party(3).leaf_at(&home(), address);
    let (_, call) = group.make(3, Commit { leaf: Some(next), ..removal });
    submit(&world, &call).await;
    group.party(3).merge();
    let old = leaf_extensions(&home(), address, None);
    let old = Commit { leaf: Some(old), ..Default::default() };
    assert_commit_refused(&world, "a user without a key", &mut group, 3, old, violation).await;
    for member in [0, 2] {
        world.receive(&mut group.members[member]).await;
    }

    let third = world.further_client(&group.members[3]).await;
    world.add_by(&mut group, 3, vec![third]).await;
    world.receive(&mut group.members[0]).await;
    let whole = Commit { remove: vec![group.key(3), group.key(4)], ..Default::default() };
    let (_, call) = group.make(0, whole);
    submit(&world, &call).await;
    group.party(0).merge();
    assert_eq!(group.party(0).member_keys().len(), 2);
    // A pseudonym with rights is nobody's to take once its user is gone.
    let mut heir = world.candidate().await.party;
    let admins = vec![group.pseudonym(0), group.pseudonym(2)];
    let context = Some(group.context(&group.policy_with(admins)));
    let (_, call) = group.make(0, Commit { context, ..Default::default() });
    submit(&world, &call).await;
    group.party(0).merge();
    let removal = removing(&group, 2);
    let (_, call) = group.make(0, removal);
    submit(&world, &call).await;
    group.party(0).merge();
    heir.identity = group.members[2].party.identity.clone();
    assert_commit_refused(&world, "a gone admin's pseudonym", &mut group, 0, adding(&[&heir]), violation)
        .await;
    world.close();
}

#[tokio::test]
async fn a_users_new_client_joins_by_external_commit_with_the_users_key() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let mut joiner = world.further_client(&group.members[1]).await;
    let users = joiner.party.user.clone();
    let current = world.group_info(&group, &users).await;

    let violation = ProblemType::PolicyViolation;
    for (what, voucher) in [
        ("nobody vouches", None),
        ("the new leaf vouches for itself", Some(joiner.party.key.clone())),
        ("another user vouches", Some(group.members[0].party.user.clone())),
        ("a leaf of the user's vouches", Some(group.members[1].party.key.clone())),
    ] {
        let made = joiner.party.join_externally(&current, voucher.as_ref());
        let call = group.submit_commit(&joiner.party.key, &made);
        world.assert_refuses(what, &call, violation).await;
    }
    let mut outsider = world.candidate().await.party;
    let intrusion = outsider.join_externally(&current, Some(&users));
    let intrusion = group.submit_commit(&outsider.key, &intrusion);
    world.assert_refuses("the user vouches for a client of nobody's", &intrusion, violation).await;
    let mut keyless = world.further_client(&group.members[1]).await;
    keyless.party.user = SigningKey::generate();
    keyless.party.leaf = keyless.party.leaf_at(&home(), keyless.address);
    let made = keyless.party.join_externally(&current, Some(&users));
    let call = group.submit_commit(&keyless.party.key, &made);
    world.assert_refuses("with another user key in the leaf", &call, violation).await;

    let made = joiner.party.join_externally(&current, Some(&users));
    for other in [&users, &group.members[1].party.key] {
        let call = group.submit_commit(other, &made);
        world.assert_refuses("sent by another than the new leaf", &call, ProblemType::InvalidMls).await;
    }
    let without_info = Made { group_info: None, ..made.clone() };
    let call = group.submit_commit(&joiner.party.key, &without_info);
    world.assert_refuses("without the next GroupInfo", &call, ProblemType::InvalidMls).await;
    let call = group.submit_commit(&joiner.party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    joiner.party.merge();
    group.members.push(joiner);
    for member in 0..3 {
        world.receive(&mut group.members[member]).await;
        assert_eq!(group.party(member).epoch_authenticator(), group.party(3).epoch_authenticator());
    }
    let hello = group.party(3).say(b"here I am");
    submit(&world, &group.submit(3, &hello, None)).await;
    assert_eq!(world.receive(&mut group.members[0]).await, [b"here I am".to_vec()]);
    assert_eq!(submit(&world, &call).await.epoch, 2, "if its answer was lost");
    world.close();
}

#[tokio::test]
async fn a_client_that_lost_its_state_comes_back_in_its_own_place_only() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let violation = ProblemType::PolicyViolation;
    let current = world.group_info(&group, &group.members[1].party.key).await;

    // Somebody of another pseudonym with this leaf's key would take its place.
    let mut thief = Party::newcomer();
    thief.key = group.members[1].party.key.clone();
    let made = thief.join_externally(&current, None);
    let call = group.submit_commit(&thief.key, &made);
    world.assert_refuses("an external commit that removes another", &call, violation).await;

    // Meanwhile somebody leaves: who comes back may take that along.
    let leaving = group.party(2).self_remove();
    submit(&world, &group.submit(2, &leaving, None)).await;
    let current = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(current.proposals, [leaving]);
    let made = group.party(1).join_externally(&current, None);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).member_keys().len(), 2);
    assert_eq!(group.party(0).epoch_authenticator(), group.party(1).epoch_authenticator());
    let back = group.party(1).say(b"back");
    submit(&world, &group.submit(1, &back, None)).await;
    assert_eq!(world.receive(&mut group.members[0]).await, [b"back".to_vec()]);
    let mailbox = world.read(&mut group.members[1].mailbox).await;
    assert_eq!(mailbox.len(), 1, "the leaver's proposal, and not its own commit: {mailbox:?}");

    // An Update that waits lapses with an external commit; nobody can take it along.
    let renewed = group.party(0).propose_update();
    submit(&world, &group.submit(0, &renewed, None)).await;
    let current = world.group_info(&group, &group.members[1].party.key).await;
    let made = group.party(1).join_externally(&current, None);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 3);
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 4);
    world.close();
}

/// Everything that an Update may not do, in a group where everybody but its sender can commit, one after the other.
#[tokio::test]
async fn an_update_is_judged_as_the_commits_that_would_have_to_contain_it() {
    let world = World::start().await;
    world.stock(300).await;
    let mut group = world.group(4).await;
    let (violation, invalid) = (ProblemType::PolicyViolation, ProblemType::InvalidMls);
    let (mine, theirs) = (group.members[1].address, group.members[2].address);
    let key = |generation| Some(UserKey { generation, public_key: SigningKey::generate().public_key() });
    let own_key = group.members[1].party.user_key();
    let unmade =
        Extensions::from_vec(vec![Extension::Unknown(DELIVERY_ADDRESS, UnknownExtension(vec![7; 3]))]);
    let mut large = leaf_extensions(&home(), mine, Some(own_key));
    large.add_or_replace(Extension::ApplicationId(ApplicationIdExtension::new(&[7; 4096]))).unwrap();
    let elsewhere: Domain = "elsewhere.example".parse().unwrap();
    let leaf = |leaf| (Some(leaf), None);
    let admin = group.pseudonym(0).0.to_vec();
    let cases = [
        ("another pseudonym", (None, Some(Pseudonym::random().0.to_vec())), violation),
        ("the admin's pseudonym", (None, Some(admin)), violation),
        ("a name", (None, Some(b"alice@home.example".to_vec())), invalid),
        ("another user key", leaf(leaf_extensions(&home(), mine, key(0))), violation),
        ("no user key", leaf(leaf_extensions(&home(), mine, None)), violation),
        ("no address", leaf(Extensions::empty()), invalid),
        ("no readable address", leaf(unmade.unwrap()), invalid),
        ("another domain", leaf(leaf_extensions(&elsewhere, mine, Some(own_key))), invalid),
        ("another's address", leaf(leaf_extensions(&home(), theirs, Some(own_key))), violation),
        ("a leaf that is too large", leaf(large), invalid),
    ];
    for (what, (leaf, identity), expected) in cases {
        let proposed = group.party(1).propose_leaf(leaf, identity, None);
        world.assert_refuses(what, &group.submit(1, &proposed, None), expected).await;
        group.party(1).forget();
    }
    // Two may not move to the same place, either, whoever of them commits first.
    let third = fresh_address();
    let moves = |group: &Group, member: usize| {
        let key = group.members[member].party.user_key();
        Some(leaf_extensions(&home(), third, Some(key)))
    };
    let moving = moves(&group, 2);
    let moved = group.party(2).propose_leaf(moving, None, None);
    submit(&world, &group.submit(2, &moved, None)).await;
    let moving = moves(&group, 1);
    let moved = group.party(1).propose_leaf(moving, None, None);
    world.assert_refuses("to where another moves", &group.submit(1, &moved, None), violation).await;
    group.party(1).forget();

    // What is right is kept, and each member can commit it.
    let next = leaf_extensions(&home(), fresh_address(), key(1));
    let proposed = group.party(1).propose_leaf(Some(next), None, None);
    submit(&world, &group.submit(1, &proposed, None)).await;
    for member in [0, 3] {
        world.receive(&mut group.members[member]).await;
    }
    let (_, call) = group.make(3, update());
    assert_eq!(submit(&world, &call).await.epoch, 2);
    world.receive(&mut group.members[0]).await;
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 3);
    world.close();
}

#[tokio::test]
async fn what_others_cannot_verify_ends_no_group_because_it_lapses_when_somebody_comes_back() {
    let world = World::start().await;
    world.stock(300).await;
    let mut group = world.group(4).await;
    // The server cannot check a membership tag. So it takes a commit that no other member can follow…
    let (made, _) = group.make(3, update());
    let made = Made { commit: mistagged(&made.commit), ..made };
    assert_eq!(submit(&world, &group.submit_commit(&group.members[3].party.key, &made)).await.epoch, 2);
    group.party(3).merge();
    // …and then a proposal that nobody could take along.
    let leaving = mistagged(&group.party(3).self_remove());
    submit(&world, &group.submit(3, &leaving, None)).await;
    group.party(3).withdraw(&[]);
    for member in [0, 1, 2] {
        world.read(&mut group.members[member].mailbox).await;
    }
    for (member, epoch) in [(1, 3), (0, 4), (2, 5)] {
        let current = world.group_info(&group, &group.members[member].party.key).await;
        assert_eq!(current.proposals.len(), usize::from(epoch == 3), "what waits lapses with the first");
        let current = CurrentGroup { proposals: Vec::new(), ..current };
        let made = group.party(member).join_externally(&current, None);
        let call = group.submit_commit(&group.members[member].party.key, &made);
        assert_eq!(submit(&world, &call).await.epoch, epoch);
        group.party(member).merge();
        // The messages in its queue are of before.
        world.read(&mut group.members[member].mailbox).await;
    }
    for member in [1, 0] {
        world.receive(&mut group.members[member]).await;
    }
    let spoken = group.party(1).say(b"back again");
    submit(&world, &group.submit(1, &spoken, None)).await;
    assert_eq!(world.receive(&mut group.members[0]).await, [b"back again".to_vec()]);

    // An Update that others cannot verify stops members' commits until somebody comes back.
    world.read(&mut group.members[3].mailbox).await;
    let renewed = mistagged(&group.party(2).propose_update());
    submit(&world, &group.submit(2, &renewed, None)).await;
    let violation = ProblemType::PolicyViolation;
    assert_commit_refused(&world, "a commit without it", &mut group, 0, update(), violation).await;
    let current = world.group_info(&group, &group.members[0].party.key).await;
    let made = group.party(0).join_externally(&current, None);
    let call = group.submit_commit(&group.members[0].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 6);
    group.party(0).merge();
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 7);
    world.close();
}

#[tokio::test]
async fn a_removal_that_the_server_proposed_is_proposed_again_after_an_external_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    // As its owner would by revoking it.
    let delete =
        "DELETE FROM qs.addresses WHERE lookup = (SELECT lookup FROM postern.seal_addresses($1, $2))";
    let gone = &group.members[2];
    let address = vec![gone.address.as_bytes().as_slice()];
    world.admin.execute(delete, &[&address, &gone.mailbox.id.as_bytes().as_slice()]).await.unwrap();
    let spoken = group.party(1).say(b"is everybody there?");
    submit(&world, &group.submit(1, &spoken, None)).await;
    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    let current = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(current.proposals.len(), 1);
    let made = group.party(1).join_externally(&current, None);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 2, "no removal stands in the way of who comes back");
    group.party(1).merge();
    let own = group.key(2);
    while group.party(0).evictions == 1 {
        world.await_message(&mut group.members[0]).await;
    }
    assert!(group.party(0).member_keys().contains(&own), "it is still there");
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 3);
    group.party(0).merge();
    assert!(!group.party(0).member_keys().contains(&own));
    world.close();
}

#[tokio::test]
async fn a_proposal_that_is_sent_again_gets_its_answer_again_and_changes_nothing() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let leaving = group.party(2).self_remove();
    let leaving = group.submit(2, &leaving, None);
    let renewed = group.party(1).propose_update();
    let renewed = group.submit(1, &renewed, None);
    for call in [&leaving, &renewed] {
        let first = submit(&world, call).await;
        let before = world.snapshot().await;
        assert_eq!(submit(&world, call).await, first);
        assert_eq!(submit(&world, call).await, first);
        world.snapshot().await.assert_same(&before, "a repeat");
    }
    let other = leaving.clone().signed_by(&group.members[1].party.key);
    world.assert_refuses("by another member", &other, ProblemType::InvalidMls).await;
    world.receive(&mut group.members[0]).await;
    let (_, commit) = group.make(0, update());
    assert_eq!(submit(&world, &commit).await.epoch, 2);
    world.assert_refuses("once it is committed", &renewed, ProblemType::WrongEpoch).await;
    world.assert_refuses("by who is gone", &leaving, ProblemType::NotAllowed).await;

    // Two at the same instant, both after they have read the group.
    let mut group = world.group(2).await;
    let renewed = group.party(1).propose_update();
    let renewed = group.submit(1, &renewed, None);
    let (one, two) = tokio::join!(submit(&world, &renewed), submit(&world, &renewed));
    assert_eq!((one.epoch, two.epoch), (1, 1));
    let count = world.read(&mut group.members[0].mailbox).await.len();
    assert_eq!(count, 1, "it is in the queue once");
    world.close();
}

#[tokio::test]
async fn no_two_leaves_have_the_same_delivery_address_however_they_come_in() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let violation = ProblemType::PolicyViolation;
    let victims = group.members[2].address;
    let at = |party: &mut Party, address| party.leaf = party.leaf_at(&home(), address);
    let (mut one, mut two) = (Party::newcomer(), Party::newcomer());
    at(&mut one, victims);
    assert_commit_refused(&world, "added with a member's", &mut group, 0, adding(&[&one]), violation).await;
    let shared = fresh_address();
    at(&mut one, shared);
    at(&mut two, shared);
    let both = adding(&[&one, &two]);
    assert_commit_refused(&world, "two with the same", &mut group, 0, both, violation).await;
    let own = group.members[0].address;
    at(&mut one, own);
    assert_commit_refused(&world, "added with the committer's", &mut group, 0, adding(&[&one]), violation)
        .await;
    let moved = Commit { leaf: Some(group.party(1).leaf_at(&home(), victims)), ..Default::default() };
    assert_commit_refused(&world, "a commit that moves there", &mut group, 1, moved, violation).await;

    let mut joiner = world.further_client(&group.members[1]).await.party;
    let users = joiner.user.clone();
    at(&mut joiner, victims);
    let current = world.group_info(&group, &users).await;
    let made = joiner.join_externally(&current, Some(&users));
    let call = group.submit_commit(&joiner.key, &made);
    world.assert_refuses("a client that joins", &call, violation).await;
    let own = group.members[1].address;
    at(group.party(1), victims);
    let made = group.party(1).join_externally(&current, None);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    world.assert_refuses("a client that comes back", &call, violation).await;
    at(group.party(1), own);

    // A place that becomes free with the same commit may be taken.
    at(&mut one, victims);
    let replacing = Commit { remove: vec![group.key(2)], ..adding(&[&one]) };
    let (_, call) = group.make(0, replacing);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    world.close();
}

#[tokio::test]
async fn a_user_has_as_many_clients_in_a_group_as_the_operator_allows() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    let full = ProblemType::TooManyClients;
    set_limit(&world, "max_clients", 3).await;
    let (one, two, three) = (
        world.further_client(&group.members[1]).await,
        world.further_client(&group.members[1]).await,
        world.further_client(&group.members[1]).await,
    );
    let all = adding(&[&one.party, &two.party, &three.party]);
    assert_commit_refused(&world, "three more at once", &mut group, 1, all, full).await;
    world.add_by(&mut group, 1, vec![one, two]).await;
    let one_more = adding(&[&three.party]);
    assert_commit_refused(&world, "one more", &mut group, 1, one_more, full).await;
    let mut joiner = three.party;
    let users = joiner.user.clone();
    let made = joiner.join_externally(&world.group_info(&group, &users).await, Some(&users));
    let call = group.submit_commit(&joiner.key, &made);
    world.assert_refuses("one that joins by itself", &call, full).await;
    let detail = world.pay(&call).await.problem("one more").detail.unwrap();
    assert_eq!(detail, "a user can have at most 3 clients in a group");
    // An admin brings nobody in with more, either.
    world.receive(&mut group.members[0]).await;
    let user = world.candidate().await;
    let mut crowd = vec![user.party];
    for _ in 0..3 {
        let mut client = Party::newcomer();
        client.identity.clone_from(&crowd[0].identity);
        client.user = crowd[0].user.clone();
        client.leaf = client.leaf_at(&home(), fresh_address());
        crowd.push(client);
    }
    let add = adding(&crowd.iter().collect::<Vec<_>>());
    assert_commit_refused(&world, "a user with four clients", &mut group, 0, add, full).await;

    // Who has more by a new limit keeps them, and goes on.
    set_limit(&world, "max_clients", 1).await;
    let (_, call) = group.make(1, update());
    assert_eq!(submit(&world, &call).await.epoch, 3);
    group.party(1).merge();
    let current = world.group_info(&group, &users).await;
    let made = group.party(2).join_externally(&current, None);
    let call = group.submit_commit(&group.members[2].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 4, "one of them comes back");
    world.close();
}

#[tokio::test]
async fn the_authenticated_data_of_every_message_is_bounded() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let large = ProblemType::MessageTooLarge;
    let detail = "the authenticated data of a message can have at most 1024 bytes";
    for (bytes, fits) in [(1025, false), (60_000, false), (1024, true)] {
        group.party(1).attach(vec![7; bytes]);
        let spoken = group.party(1).say(b"hello");
        group.party(1).attach(vec![7; bytes]);
        let proposed = group.party(1).propose_update();
        group.party(1).forget();
        group.party(0).attach(vec![7; bytes]);
        let made = group.party(0).commit(Commit { alone: true, ..update() });
        group.party(0).drop_commit();
        for (what, call) in [
            ("words", group.submit(1, &spoken, None)),
            ("a commit", group.submit_commit(&group.members[0].party.key, &made)),
            ("a proposal", group.submit(1, &proposed, None)),
        ] {
            if !fits {
                world.assert_refuses(what, &call, large).await;
                let problem = world.pay(&call).await.problem(what);
                assert_eq!(problem.detail.as_deref(), Some(detail), "{what}");
            } else if what != "a proposal" {
                submit(&world, &call).await;
            }
        }
    }
    let mut group = world.group(2).await;
    group.party(1).attach(vec![7; 65]);
    let spoken = group.party(1).say(b"hello");
    let spoken = group.submit(1, &spoken, None);
    set_limit(&world, "max_authenticated_data_bytes", 64).await;
    world.assert_refuses("more than the operator likes", &spoken, large).await;
    world.close();
}

#[tokio::test]
async fn what_one_request_puts_into_all_queues_together_is_bounded() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let too_large = ProblemType::DeliveryTooLarge;
    let spoken = group.party(1).say(&[7; 40_000]);
    let spoken = group.submit(1, &spoken, None);
    set_limit(&world, "max_members", 7).await;
    set_limit(&world, "max_delivery_bytes", 65_536).await;
    world.assert_refuses("80,000 bytes in two queues", &spoken, too_large).await;
    let detail = world.pay(&spoken).await.problem("words").detail.unwrap();
    assert!(detail.contains("in 2 queues") && detail.contains("65536"), "{detail}");
    let crowd: Vec<_> = (0..120).map(|_| Party::newcomer()).collect();
    let crowd = adding(&crowd.iter().collect::<Vec<_>>());
    assert_commit_refused(&world, "a Welcome for many", &mut group, 0, crowd, too_large).await;
    let few = adding(&[&Party::newcomer()]);
    let (_, call) = group.make(0, few);
    assert_eq!(submit(&world, &call).await.epoch, 2);

    // The database has the last word: the limit may have been lowered since the group was read.
    let mut group = world.group(3).await;
    set_limit(&world, "max_delivery_bytes", 100_000).await;
    let spoken = group.party(1).say(&[7; 40_000]);
    let spoken = group.submit(1, &spoken, None);
    let admin = world.cluster.admin().await;
    admin.batch_execute("BEGIN; SELECT FROM ds.groups FOR UPDATE").await.unwrap();
    let lowered = async {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE usename = 'postern_server' AND wait_event_type = 'Lock'";
        eventually("it waits to write", async || (world.value::<i64>(sql).await == 1).then_some(())).await;
        set_limit(&world, "max_delivery_bytes", 65_536).await;
        admin.batch_execute("COMMIT").await.unwrap();
    };
    let (reply, ()) = tokio::join!(world.pay(&spoken), lowered);
    reply.assert_problem("a limit that was lowered meanwhile", too_large);
    assert!(world.read(&mut group.members[0].mailbox).await.is_empty());
    world.close();
}

#[tokio::test]
async fn nobody_is_added_by_a_key_package_that_ends_before_the_slowest_reader_has_read_of_it() {
    const DAY: u64 = 24 * 60 * 60;
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    // Somebody with a mailbox, or the DS would want it removed again.
    let lasting = async |days: u64| {
        let mut party = world.candidate().await.party;
        party.lifetime = Lifetime::new(days * DAY);
        adding(&[&party])
    };
    let detail = "the KeyPackage of a member that is added must be valid for 31 more days: members read of it for as long";
    for days in [1, 2, 30, 31] {
        let (_, call) = group.make(0, lasting(days).await);
        world.assert_refuses("too short a lifetime", &call, ProblemType::InvalidMls).await;
        let problem = world.pay(&call).await.problem("too short a lifetime");
        assert_eq!(problem.detail.as_deref(), Some(detail));
        group.party(0).forget();
    }
    let (_, call) = group.make(0, lasting(33).await);
    assert_eq!(submit(&world, &call).await.epoch, 2);
    group.party(0).merge();
    // Where messages wait for less, it may be shorter.
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_queue_limit('message_days', 3)", &[]).await.unwrap();
    let four = lasting(4).await;
    assert_commit_refused(&world, "four days", &mut group, 0, four, ProblemType::InvalidMls).await;
    let (_, call) = group.make(0, lasting(6).await);
    assert_eq!(submit(&world, &call).await.epoch, 3);
    operator.execute("SELECT operator.set_queue_limit('message_days', 61)", &[]).await.unwrap_err();
}

#[tokio::test]
async fn who_takes_no_messages_any_more_is_removed_by_the_next_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(4).await;
    // As its owner would by revoking it.
    let delete =
        "DELETE FROM qs.addresses WHERE lookup = (SELECT lookup FROM postern.seal_addresses($1, $2))";
    let gone = &group.members[3];
    let address = vec![gone.address.as_bytes().as_slice()];
    let deleted = world.admin.execute(delete, &[&address, &gone.mailbox.id.as_bytes().as_slice()]).await;
    assert_eq!(deleted.expect("a superuser can"), 1);
    let spoken = group.party(1).say(b"is everybody there?");
    assert_eq!(submit(&world, &group.submit(1, &spoken, None)).await.undelivered, 1);

    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    let again = group.party(1).say(b"really?");
    assert_eq!(submit(&world, &group.submit(1, &again, None)).await.undelivered, 1);
    let alone = Commit { alone: true, ..update() };
    let (_, call) = group.make(1, alone);
    world.assert_refuses("a commit that leaves the removal out", &call, ProblemType::PolicyViolation).await;
    group.party(1).forget();
    while group.party(2).evictions == 0 {
        world.await_message(&mut group.members[2]).await;
    }
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&world, &call).await.undelivered, 1, "it does not even hear of its removal");
    group.party(2).merge();
    let (own, key) = (group.key(3), group.key(2));
    assert!(!group.party(2).member_keys().contains(&own));
    assert_eq!(group.party(0).evictions, 1, "once");
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).epoch_authenticator(), group.party(2).epoch_authenticator());
    let spoken = group.party(2).say(b"now");
    assert_eq!(submit(&world, &group.submit(2, &spoken, None)).await.undelivered, 0);
    assert!(group.party(0).member_keys().contains(&key));

    // A last admin stays, whatever becomes of its queue: nobody else could take its place.
    let gone = &group.members[0];
    let address = vec![gone.address.as_bytes().as_slice()];
    world.admin.execute(delete, &[&address, &gone.mailbox.id.as_bytes().as_slice()]).await.unwrap();
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&world, &call).await.undelivered, 1);
    group.party(2).merge();
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&world, &call).await.epoch, 4, "no proposal stands in the way");
    world.close();
}

/// As their owners would by revoking them.
async fn revoke_addresses(world: &World, group: &Group, members: &[usize]) {
    let delete =
        "DELETE FROM qs.addresses WHERE lookup = (SELECT lookup FROM postern.seal_addresses($1, $2))";
    for member in members {
        let gone = &group.members[*member];
        let address = vec![gone.address.as_bytes().as_slice()];
        let queue = gone.mailbox.id.as_bytes().as_slice();
        assert_eq!(world.admin.execute(delete, &[&address, &queue]).await.expect("a superuser can"), 1);
    }
}

/// How often groups were read since the last call.
fn loads(world: &World) -> usize {
    world.relay().take_statements().iter().filter(|text| text.contains("ds.load_group")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_are_gone_are_proposed_at_once_and_who_leaves_anyway_costs_nothing_more() {
    let world = World::builder().relay().start().await;
    world.stock(200).await;
    let mut group = world.group(6).await;
    // They leave, and nobody commits it.
    for leaver in [2, 3] {
        let leaving = group.party(leaver).self_remove();
        submit(&world, &group.submit(leaver, &leaving, None)).await;
    }
    revoke_addresses(&world, &group, &[2, 3]).await;
    loads(&world);
    for _ in 0..5 {
        let spoken = group.party(1).say(b"is everybody there?");
        assert_eq!(submit(&world, &group.submit(1, &spoken, None)).await.undelivered, 2);
    }
    assert_eq!(loads(&world), 5, "each message reads the group, and nobody else does");

    revoke_addresses(&world, &group, &[4, 5]).await;
    let spoken = group.party(1).say(b"and you two?");
    assert_eq!(submit(&world, &group.submit(1, &spoken, None)).await.undelivered, 4);
    while group.party(0).evictions < 2 {
        world.await_message(&mut group.members[0]).await;
    }
    assert_eq!(loads(&world), 2, "the message, and the tree once for both removals");
    world.receive(&mut group.members[1]).await;
    let (_, call) = group.make(1, update());
    submit(&world, &call).await;
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).member_keys().len(), 2);
    assert_eq!(group.party(0).epoch_authenticator(), group.party(1).epoch_authenticator());
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_cannot_be_proposed_is_tried_once_in_an_epoch() {
    let world = World::builder().relay().start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    revoke_addresses(&world, &group, &[0]).await;
    loads(&world);
    let spoken = group.party(1).say(b"is the last admin there?");
    assert_eq!(submit(&world, &group.submit(1, &spoken, None)).await.undelivered, 1);
    let attempted = async |what: &str| {
        let read = Cell::new(0);
        let look = async || {
            read.set(read.get() + loads(&world));
            (read.get() >= 2).then_some(read.get())
        };
        assert_eq!(eventually(what, look).await, 2, "{what}");
    };
    attempted("a message, and an attempt").await;
    for _ in 0..4 {
        let spoken = group.party(1).say(b"hello?");
        submit(&world, &group.submit(1, &spoken, None)).await;
    }
    assert_eq!(loads(&world), 4, "no further attempt");
    let (_, call) = group.make(1, update());
    submit(&world, &call).await;
    group.party(1).merge();
    attempted("a commit, and an attempt in its epoch").await;
    assert_eq!(group.party(1).evictions, 0);
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

#[tokio::test]
async fn attributes_stay_with_their_leaf_and_are_served_with_the_group() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(3).await;
    let newcomer = world.candidate().await;
    let (own, added, other) = (group.key(0), newcomer.party.public_key(), group.key(1));
    let violation = ProblemType::PolicyViolation;

    let (_, call) = group.make(0, adding(&[&newcomer.party]));
    let stranger = SigningKey::generate().public_key();
    for (what, of) in [("another member's", other), ("nobody's", stranger)] {
        let call = with_attributes(&call, &[attributes(own, b"a"), attributes(of, b"b")]);
        world.assert_refuses(what, &call, violation).await;
    }
    let too_large = with_attributes(&call, &[attributes(own, &[7; MAX_ATTRIBUTES + 1])]);
    world.assert_refuses("too large", &too_large, ProblemType::MessageTooLarge).await;
    let mine = attributes(own, &[7; MAX_ATTRIBUTES]);
    let theirs = attributes(added, b"whom I added");
    submit(&world, &with_attributes(&call, &[mine.clone(), theirs.clone()])).await;
    group.party(0).merge();
    let tree: WelcomeTree = world.pay(&group.ask_for_tree(2, &newcomer.party.key)).await.decode();
    assert_eq!(tree.attributes, [mine.clone(), theirs.clone()], "with the Welcome's tree");
    let mut newcomer = newcomer;
    world.join(&group, 2, &mut newcomer).await;
    group.members.push(newcomer);

    let spoken = group.party(3).say(b"hello");
    let call = with_attributes(&group.submit(3, &spoken, None), std::slice::from_ref(&theirs));
    world.assert_refuses("with an application message", &call, violation).await;
    world.receive(&mut group.members[1]).await;
    let proposed = group.party(1).propose_update();
    let call = with_attributes(&group.submit(1, &proposed, None), &[attributes(other, b"b")]);
    world.assert_refuses("with a proposal", &call, violation).await;
    group.party(1).forget();

    // Others' commits leave them, under another key of the leaf, too.
    let (_, call) = group.make(1, update());
    submit(&world, &with_attributes(&call, &[attributes(other, b"mine")])).await;
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    let new = SigningKey::generate();
    let rotation = group.party(0).commit_to_key(&new);
    submit(&world, &group.submit_commit(&group.members[0].party.key, &rotation)).await;
    group.party(0).rotate(new);
    let mine = LeafAttributes { leaf_key: group.key(0), ..mine };
    let seen = async |group: &Group| world.group_info(group, &group.members[0].party.key).await.attributes;
    assert_eq!(seen(&group).await, [mine.clone(), attributes(other, b"mine"), theirs.clone()]);

    // A leaving member takes them along, also from the one in its place, and they can be taken back.
    let successor = world.candidate().await;
    let replacing = Commit { remove: vec![other], ..adding(&[&successor.party]) };
    let (_, call) = group.make(0, replacing);
    submit(&world, &with_attributes(&call, &[attributes(group.key(0), b"")])).await;
    group.party(0).merge();
    assert_eq!(seen(&group).await, std::slice::from_ref(&theirs));
    world.receive(&mut group.members[3]).await;
    let current = world.group_info(&group, &group.members[3].party.key).await;
    let made = group.party(3).join_externally(&current, None);
    let call = group.submit_commit(&group.members[3].party.key, &made);
    let back = attributes(group.key(3), b"I am back");
    let foreign = with_attributes(&call, &[attributes(group.key(0), b"b")]);
    world.assert_refuses("of another, by who comes in", &foreign, violation).await;
    submit(&world, &with_attributes(&call, std::slice::from_ref(&back))).await;
    assert_eq!(seen(&group).await, [back]);
    world.close();
}

/// By the operator, while servers run.
async fn set_limit(world: &World, name: &str, value: i32) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_group_limit($1, $2)", &[&name, &value]).await.unwrap();
}

#[tokio::test]
async fn a_group_grows_to_the_operators_limit_and_one_beyond_it_goes_on_and_grows_no_more() {
    let world = World::start().await;
    world.stock(100).await;
    let other = Server::start(&world.cluster).await;
    let full = ProblemType::TooManyMembers;
    let mut group = world.group(2).await;
    set_limit(&world, "max_members", 3).await;
    let (one, two) = (world.candidate().await, world.candidate().await);
    let (_, both) = group.make(0, adding(&[&one.party, &two.party]));
    world.assert_refuses("two more", &both, full).await;
    let reply = world.send_to(&other, &both.paid_with(world.token()).wire()).await;
    let problem = reply.assert_problem("two more, at another server", full);
    assert_eq!(problem.detail.as_deref(), Some("a group can have at most 3 members"));
    group.party(0).forget();
    world.add(&mut group, vec![one]).await;
    let mut joiner = world.further_client(&group.members[1]).await;
    let users = joiner.party.user.clone();
    let made = joiner.party.join_externally(&world.group_info(&group, &users).await, Some(&users));
    let call = group.submit_commit(&joiner.party.key, &made);
    world.assert_refuses("a user's client that joins by itself", &call, full).await;

    set_limit(&world, "max_members", 2).await;
    let replacing = Commit { remove: vec![group.key(2)], ..adding(&[&two.party]) };
    let (_, call) = group.make(0, replacing);
    assert_eq!(submit(&world, &call).await.epoch, 3, "one goes, another comes");
    group.party(0).merge();
    let again = adding(&[&Party::newcomer()]);
    assert_commit_refused(&world, "one more", &mut group, 0, again, full).await;
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 4);

    let operator = world.cluster.connect_as("postern_operator").await;
    let limits =
        operator.query("SELECT name, value, meaning FROM operator.group_limits()", &[]).await.unwrap();
    let names: Vec<&str> = limits.iter().map(|row| row.get("name")).collect();
    let expected = [
        "max_members",
        "max_clients",
        "max_message_bytes",
        "max_commit_bytes",
        "max_authenticated_data_bytes",
        "max_delivery_bytes",
        "max_awaited_bytes",
        "past_epochs",
        "max_reservations",
    ];
    assert_eq!(names, expected);
    assert!(limits.iter().all(|row| !row.get::<_, &str>("meaning").is_empty()));
    operator.execute("SELECT operator.set_group_limit('max_members', NULL)", &[]).await.unwrap_err();
    // A group that is as large as it may be has to fit into the others.
    set_limit(&world, "max_members", 1000).await;
    for wrong in [
        "'max_members', 1",
        "'max_members', 1500",
        "'max_commit_bytes', 50000",
        "'max_delivery_bytes', 65536",
        "'past_epochs', 6",
        "'abandoned_days', 5",
        "'x', 1",
    ] {
        let refused = operator.execute(&format!("SELECT operator.set_group_limit({wrong})"), &[]).await;
        let hint = refused.unwrap_err().as_db_error().and_then(|error| error.hint().map(str::to_owned));
        assert!(hint.is_some(), "{wrong}");
    }
}

#[tokio::test]
async fn a_group_grows_no_larger_than_that_its_members_can_commit_whoever_leaves() {
    let suite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;
    let world = World::start().await;
    world.stock(300).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.batch_execute("SELECT operator.allow_ciphersuite(77)").await.unwrap();
    // Room for seven members whose keys are small.
    set_limit(&world, "max_members", 7).await;
    set_limit(&world, "max_delivery_bytes", 65_536).await;
    let person = async || {
        let mut person = world.candidate().await;
        person.party.set_suite(suite, Library::Libcrux.crypto());
        person
    };
    let mut group = world.group_by(person().await).await;
    for _ in 0..3 {
        // All by the admin, and without a path: the nodes between the leaves stay blank.
        let newcomer = person().await;
        world.add(&mut group, vec![newcomer]).await;
        for member in 1..group.members.len() - 1 {
            world.receive(&mut group.members[member]).await;
        }
    }
    let newcomer = person().await;
    let (_, call) = group.make(0, adding(&[&newcomer.party]));
    world.assert_refuses("a fifth member", &call, ProblemType::TooManyMembers).await;
    let detail = world.pay(&call).await.problem("a fifth member").detail.unwrap();
    assert!(detail.contains("at most 4 members with this ciphersuite"), "{detail}");
    group.party(0).forget();
    let mut client = world.further_client(&group.members[1]).await;
    client.party.set_suite(suite, Library::Libcrux.crypto());
    let users = client.party.user.clone();
    let made = client.party.join_externally(&world.group_info(&group, &users).await, Some(&users));
    let call = group.submit_commit(&client.party.key, &made);
    world.assert_refuses("a client that joins by itself", &call, ProblemType::TooManyMembers).await;

    for leaver in [3, 2] {
        let renewed = group.party(0).propose_update();
        submit(&world, &group.submit(0, &renewed, None)).await;
        let leaving = group.party(leaver).self_remove();
        submit(&world, &group.submit(leaver, &leaving, None)).await;
        world.receive(&mut group.members[1]).await;
        let (_, call) = group.make(1, update());
        submit(&world, &call).await;
        group.party(1).merge();
        for member in (0..leaver).filter(|member| *member != 1) {
            world.receive(&mut group.members[member]).await;
        }
    }
    assert_eq!(group.party(0).member_keys().len(), 2);
    world.close();
}

#[tokio::test]
async fn nothing_waits_in_a_group_whose_commits_a_lowered_limit_does_not_let_through() {
    let world = World::start().await;
    world.stock(400).await;
    let mut group = world.group(30).await;
    set_limit(&world, "max_members", 7).await;
    set_limit(&world, "max_delivery_bytes", 65_536).await;
    let too_large = ProblemType::DeliveryTooLarge;
    assert_commit_refused(&world, "a commit", &mut group, 1, update(), too_large).await;
    let leaving = group.party(2).self_remove();
    let leaving = group.submit(2, &leaving, None);
    world.assert_refuses("a leaver that nobody could let go", &leaving, too_large).await;
    let spoken = group.party(3).say(b"what now?");
    submit(&world, &group.submit(3, &spoken, None)).await;
    set_limit(&world, "max_delivery_bytes", 200_000).await;
    submit(&world, &leaving).await;
    world.receive(&mut group.members[1]).await;
    let (_, call) = group.make(1, update());
    submit(&world, &call).await;
    world.close();
}

#[tokio::test]
async fn the_trees_for_members_who_do_not_join_are_bounded() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    // Who speaks has joined.
    let spoken = group.party(1).say(b"I am in");
    submit(&world, &group.submit(1, &spoken, None)).await;
    // With mailboxes, or the DS would want them removed again.
    let mut newcomers = Vec::new();
    for _ in 0..3 {
        newcomers.push(world.candidate().await.party);
    }
    let (_, call) = group.make(0, adding(&[&newcomers[0]]));
    submit(&world, &call).await;
    group.party(0).merge();
    set_limit(&world, "max_awaited_bytes", 1024 * 1024).await;
    let grow =
        "UPDATE ds.welcome_trees SET tree = tree || convert_to(repeat('x', $1 - octet_length(tree)), 'UTF8')";
    world.admin.execute(grow, &[&(1024 * 1024 - 1000)]).await.expect("as if the group were large");
    let full = ProblemType::TooManyMembers;
    let (_, call) = group.make(0, adding(&[&newcomers[1]]));
    world.assert_refuses("one more who is to be awaited", &call, full).await;
    let detail = world.pay(&call).await.problem("one more").detail.unwrap();
    assert!(detail.contains("have not joined yet"), "{detail}");
    group.party(0).forget();
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 3, "nobody else is kept from anything");
    group.party(0).merge();
    // The one who never came goes, and another comes.
    let remove = vec![newcomers[0].public_key()];
    let (_, call) = group.make(0, Commit { remove, ..adding(&[&newcomers[2]]) });
    assert_eq!(submit(&world, &call).await.epoch, 4);
    world.close();
}

#[tokio::test]
async fn messages_and_commits_have_a_size_each() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let large = ProblemType::MessageTooLarge;
    let spoken = group.party(1).say(&[7; 2000]);
    let spoken = group.submit(1, &spoken, None);
    set_limit(&world, "max_message_bytes", 2000).await;
    world.assert_refuses("a message", &spoken, large).await;
    let crowd: Vec<_> = (0..60).map(|_| Party::newcomer()).collect();
    let crowd = adding(&crowd.iter().collect::<Vec<_>>());
    let (made, call) = group.make(0, crowd);
    let bytes = i32::try_from(made.commit.as_bytes().len()).unwrap();
    set_limit(&world, "max_members", 100).await;
    set_limit(&world, "max_commit_bytes", bytes - 1).await;
    world.assert_refuses("a commit", &call, large).await;
    set_limit(&world, "max_commit_bytes", bytes).await;
    assert_eq!(submit(&world, &call).await.epoch, 2, "which is larger than a message may be");
    set_limit(&world, "max_message_bytes", 4096).await;
    submit(&world, &spoken).await;
    world.close();
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
    let world = World::start().await;
    let mut group = world.group(2).await;
    let spoken = group.party(1).say(b"at the same time");
    let spoken = group.submit(1, &spoken, None);
    let (_, commit) = group.make(0, update());
    // Both have read the group, and wait to write.
    let admin = world.cluster.admin().await;
    admin.batch_execute("BEGIN; SELECT FROM ds.groups FOR UPDATE").await.unwrap();
    let waiting = async |number: i64| {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE usename = 'postern_server' AND wait_event_type = 'Lock'";
        eventually("a request waits", async || (world.value::<i64>(sql).await == number).then_some(())).await;
    };
    let release = async {
        waiting(1).await;
        let (accepted, ()) = tokio::join!(submit(&world, &spoken), async {
            waiting(2).await;
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
