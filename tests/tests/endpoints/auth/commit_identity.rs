//! `POST /as/eid/commits` (AS-3, AS-4)

use futures_util::future::join_all;
use openmls::prelude::{Extension, ExtensionType, Extensions, Lifetime, UnknownExtension};
use postern_protocol::{
    GroupInfo, MlsMessage, Signature, Transcript,
    auth::{CommitIdentity, IdentityCommitted},
    eid::{EidState, SignedState},
    problem::ProblemType,
};
use postern_tests_kit::{
    Call, Commit, Party, User, World, device_of, identity_commit, identity_commit_of, identity_message,
    public_application, random_id,
};
use rand::RngCore;
use reqwest::StatusCode;

use crate::every_route::Valid;

/// The type of an extension that says nothing.
pub const FILLER: u16 = 0xff00;
const YEAR: u64 = 365 * 24 * 60 * 60;

pub fn filler(bytes: usize) -> Extension {
    Extension::Unknown(FILLER, UnknownExtension(vec![0; bytes]))
}

/// A registered user of any name.
pub async fn random_user(world: &World) -> User {
    world.user(&format!("user-{:016x}", rand::rng().next_u64())).await
}

pub async fn valid(world: &World) -> Valid {
    let mut user = random_user(world).await;
    let further = user.further_device();
    let made = user.device.commit(adding(&[&further]));
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("commit", ProblemType::InvalidMls), ("group_info", ProblemType::InvalidMls)],
        ..Valid::new(identity_commit(&user, &made, &user.device), StatusCode::OK)
    }
}

fn update() -> Commit {
    Commit { update: true, ..Default::default() }
}

fn adding(devices: &[&Party]) -> Commit {
    Commit { add: devices.iter().map(|device| device.key_package()).collect(), ..update() }
}

fn sending(body: &CommitIdentity, by: &Party) -> Call {
    Call::post("/as/eid/commits").with(body).signed_by(&by.key)
}

/// The commits of a user since the beginning.
async fn history(world: &World, user: &User) -> Vec<MlsMessage> {
    world.look_up_since(&user.name, 0).await.commits
}

#[tokio::test]
async fn clients_add_update_and_remove_clients_one_commit_an_epoch_and_readers_see_each() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;

    // Both commit in the same epoch: one is accepted, and the other told where things stand.
    let first_commit = alice.device.commit(update());
    let third = alice.further_device();
    let second_commit = second.commit(adding(&[&third]));
    let accepted: IdentityCommitted =
        world.pay(&identity_commit(&alice, &first_commit, &alice.device)).await.decode();
    assert_eq!(accepted.epoch, 3);
    let late = identity_commit(&alice, &second_commit, &second);
    world.assert_refuses("the second commit of an epoch", &late, ProblemType::WrongEpoch).await;
    assert_eq!(world.pay(&late).await.problem("the loser").epoch, Some(3));
    let repeat = identity_commit(&alice, &first_commit, &alice.device);
    world.assert_refuses("the same commit again", &repeat, ProblemType::WrongEpoch).await;
    alice.moved(&first_commit.commit);

    // The loser reads on and commits again.
    alice.device.merge();
    second.forget();
    let log = history(&world, &alice).await;
    assert_eq!(log.len(), 3);
    assert_eq!(second.receive(&log[2]), None);
    let again = world.commit_identity_by(&mut alice, &mut second, adding(&[&third])).await;
    let removal = Commit { remove: vec![alice.device.public_key()], ..Default::default() };
    let removal = world.commit_identity_by(&mut alice, &mut second, removal).await;

    let record = world.look_up(&alice.name).await;
    assert_eq!(history(&world, &alice).await, [log, vec![again.commit, removal.commit]].concat());
    assert_eq!(record.current.state.eid, alice.eid, "the AS and the clients have the same transcript");
    assert!(record.clients.is_empty(), "the first client is gone and no other asked for a credential");
    let gone = identity_commit(&alice, &first_commit, &alice.device);
    world.assert_refuses("a removed client", &gone, ProblemType::NotAllowed).await;
    world.close();
}

#[tokio::test]
async fn of_clients_that_race_for_an_epoch_at_two_servers_one_wins() {
    let world = World::builder().servers(2).tokens(300).patient().start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    for _ in 0..5 {
        let made = [alice.device.commit(update()), second.commit(update())];
        let sent = [(&made[0], &alice.device), (&made[1], &second)];
        let wires: Vec<_> = (0..6)
            .map(|number| {
                let (made, by) = sent[number % 2];
                identity_commit(&alice, made, by).paid_with(world.token()).wire()
            })
            .collect();
        let sending = wires.iter().enumerate();
        let replies =
            join_all(sending.map(|(number, wire)| world.send_to(&world.servers[number / 3], wire))).await;
        let won: Vec<usize> = (0..6).filter(|number| replies[*number].status == StatusCode::OK).collect();
        assert_eq!(won.len(), 1, "{replies:?}");
        for (number, reply) in replies.iter().enumerate().filter(|(number, _)| *number != won[0]) {
            let problem = reply.problem(&format!("number {number}"));
            assert_eq!((problem.kind, problem.epoch), (ProblemType::WrongEpoch, Some(alice.eid.epoch + 1)));
        }
        let winner = &made[won[0] % 2].commit;
        alice.moved(winner);
        let (ahead, behind) = if won[0].is_multiple_of(2) {
            (&mut alice.device, &mut second)
        } else {
            (&mut second, &mut alice.device)
        };
        ahead.merge();
        behind.forget();
        behind.receive(winner);
        assert_eq!(world.look_up(&alice.name).await.current.state.eid, alice.eid);
    }
    world.close();
}

/// AS-4: who adds a client vouches for it, and the client vouches for itself.
#[tokio::test]
async fn a_client_that_was_added_commits_nothing_but_its_own_update_before_anything_else() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let third = alice.further_device();
    let mut second = world.add_pending_device(&mut alice).await;
    for (what, commit) in [
        ("adding a client", adding(&[&third])),
        ("removing a client", Commit { remove: vec![alice.device.public_key()], ..Default::default() }),
    ] {
        let made = second.commit(commit);
        let call = identity_commit(&alice, &made, &second);
        world.assert_refuses(what, &call, ProblemType::NotAllowed).await;
        let refusal = world.pay(&call).await.assert_problem(what, ProblemType::NotAllowed);
        assert!(refusal.detail.unwrap().contains("an update of its own, and nothing else"), "{what}");
        second.forget();
    }
    // Its update alone confirms it: another client's commit does not.
    let made = world.commit_identity(&mut alice, update()).await;
    second.receive(&made.commit);
    let made = second.commit(adding(&[&third]));
    let call = identity_commit(&alice, &made, &second);
    world.assert_refuses("after another's update", &call, ProblemType::NotAllowed).await;
    second.forget();
    world.commit_identity_by(&mut alice, &mut second, update()).await;
    world.commit_identity_by(&mut alice, &mut second, adding(&[&third])).await;
    world.close();
}

#[tokio::test]
async fn a_commit_that_no_reader_would_follow_is_refused() {
    let world = World::start().await;
    world.stock(100).await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    let bob = world.user("bob").await;

    let living = |lifetime: Lifetime| {
        let mut device = alice.further_device();
        device.lifetime = lifetime;
        device
    };
    let forever = living(Lifetime::init(0, u64::MAX));
    let short = living(Lifetime::new(10 * YEAR - 24 * 60 * 60));
    let month = living(Lifetime::new(30 * 24 * 60 * 60));
    for (what, newcomer) in [
        ("another's name in the new leaf", bob.further_device()),
        ("no name in the new leaf", Party::new("")),
        ("a KeyPackage of unlimited lifetime", forever),
        ("a KeyPackage of less than ten years", short),
        ("a KeyPackage as groups have it", month),
    ] {
        let made = alice.device.commit(adding(&[&newcomer]));
        let call = identity_commit(&alice, &made, &alice.device);
        world.assert_refuses(what, &call, ProblemType::InvalidMls).await;
        alice.device.forget();
    }

    // Bob's first client as Alice's second.
    let mut stolen = alice.further_device();
    stolen.key = bob.device.key.clone();
    let made = alice.device.commit(adding(&[&stolen]));
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("another user's client", &call, ProblemType::NotAllowed).await;
    alice.device.forget();

    let renamed = Commit { identity: Some(bob.name.to_string().into_bytes()), ..Default::default() };
    let made = alice.device.commit(renamed);
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a leaf that takes another name", &call, ProblemType::InvalidMls).await;
    alice.device.forget();

    let second_key = second.key.clone();
    let made = alice.device.commit_to_key(&second_key);
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a leaf that takes another's key", &call, ProblemType::InvalidMls).await;
    alice.device.forget();
    let made = alice.device.commit_to_key(&alice.further_device().key);
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a leaf that takes a fresh key", &call, ProblemType::InvalidMls).await;
    world.assert_refused_for("a leaf that takes a fresh key", &call, "keeps its signature key").await;
    alice.device.forget();

    // Readers would take a founder that never updated its leaf for pending.
    let made = alice.device.commit(Commit { update: false, ..adding(&[&alice.further_device()]) });
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refused_for("a commit that updates nothing", &call, "update the committer's leaf").await;
    alice.device.forget();

    let made = alice.device.commit(update());
    let by_second = identity_commit(&alice, &made, &second);
    world
        .assert_refuses("a commit sent by another client of the user", &by_second, ProblemType::InvalidMls)
        .await;
    // Bob's EID is in another epoch than Alice's, and that is all that he hears.
    let by_bob = identity_commit(&alice, &made, &bob.device);
    world.assert_refuses("a commit sent by another user", &by_bob, ProblemType::WrongEpoch).await;
    let mut bytes = made.commit.as_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let group_info = made.group_info.unwrap();
    let forged = identity_commit_of(&alice, &MlsMessage::new(bytes), &group_info, &alice.device);
    let forged = sending(&forged, &alice.device);
    world.assert_refuses("a forged commit", &forged, ProblemType::InvalidMls).await;
    alice.device.forget();

    let proposal = second.propose_update();
    let call = identity_message(&alice, &proposal, &second);
    world.assert_refuses("a proposal", &call, ProblemType::InvalidMls).await;
    second.forget();
    let removal = second.propose_removal(alice.device.public_key());
    let call = identity_message(&alice, &removal, &second);
    world.assert_refuses("a proposal of removal", &call, ProblemType::InvalidMls).await;
    second.forget();
    let external = alice.further_device().external_commit(&alice.device);
    let call = identity_message(&alice, &external, &alice.device);
    world.assert_refuses("an external commit", &call, ProblemType::InvalidMls).await;
    let spoken = alice.device.say(b"hello");
    let call = identity_message(&alice, &spoken, &alice.device);
    world.assert_refuses("an application message", &call, ProblemType::InvalidMls).await;
    let spoken = public_application(b"alice", 2, 0);
    let call = identity_message(&alice, &spoken, &alice.device);
    world.assert_refuses("a public application message", &call, ProblemType::InvalidMls).await;

    let mut elsewhere = alice.further_device();
    elsewhere.key = alice.device.key.clone();
    elsewhere.found(b"another group", Extensions::empty());
    for _ in 0..alice.eid.epoch {
        elsewhere.commit(update());
        elsewhere.merge();
    }
    let made = elsewhere.commit(update());
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a commit to another group", &call, ProblemType::InvalidMls).await;

    alice.device.whisper();
    let made = alice.device.commit(update());
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a commit in private framing", &call, ProblemType::InvalidMls).await;
    alice.device.forget();

    world.commit_identity_by(&mut alice, &mut second, update()).await;
    // One that they can replay for years is taken.
    let mut lasting = alice.further_device();
    lasting.lifetime = Lifetime::new(10 * YEAR + 60);
    world.commit_identity_by(&mut alice, &mut second, adding(&[&lasting])).await;
    world.close();
}

/// A reader that does not replay the history trusts the word of the client that made the last commit: the AS asks for
/// it, and for a GroupInfo of the same epoch by the same client.
#[tokio::test]
async fn a_commit_comes_with_the_group_info_and_the_signed_state_of_the_epoch_that_it_begins() {
    let world = World::start().await;
    world.stock(100).await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    let bob = world.user("bob").await;
    let old_info = alice.device.group_info();
    let made = alice.device.commit(update());
    let info = made.group_info.clone().unwrap();
    let by_second = second.commit(update()).group_info.unwrap();
    second.forget();
    let sign = |eid: EidState| SignedState::sign(&alice.name, &alice.founding, eid, &info, &alice.device.key);
    let after = alice.eid.followed_by(made.commit.as_bytes());
    let good = identity_commit_of(&alice, &made.commit, &info, &alice.device);
    assert_eq!(good.state.eid, after);

    // Signed along with it, so that it is the GroupInfo that is wrong.
    let with_info = |info: &GroupInfo| identity_commit_of(&alice, &made.commit, info, &alice.device);
    let mut broken = info.as_bytes().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let named_bob = SignedState::sign(&bob.name, &alice.founding, after, &info, &alice.device.key);
    let founded_by_bob = SignedState::sign(&alice.name, &bob.founding, after, &info, &alice.device.key);
    let by_another = SignedState::sign(&alice.name, &alice.founding, after, &info, &second.key);
    let over_old = SignedState::sign(&alice.name, &alice.founding, after, &old_info, &alice.device.key);
    let mut damaged = good.state.signature.as_bytes().to_vec();
    damaged[0] ^= 1;
    let with_state = |state: SignedState| CommitIdentity { state, ..good.clone() };
    for (what, body) in [
        ("the GroupInfo of the epoch before", with_info(&old_info)),
        ("another client's GroupInfo", with_info(&by_second)),
        ("a GroupInfo with another signature", with_info(&GroupInfo::new(broken))),
        ("another group's GroupInfo", with_info(&bob.device.group_info())),
        ("no GroupInfo", with_info(&GroupInfo::default())),
        ("the state before", with_state(sign(alice.eid))),
        ("a later epoch", with_state(sign(EidState { epoch: after.epoch + 1, ..after }))),
        ("another incarnation", with_state(sign(EidState { incarnation: 1, ..after }))),
        ("another transcript", with_state(sign(EidState { transcript: Transcript::new([7; 32]), ..after }))),
        ("a state that another client signed", with_state(by_another)),
        ("another user's name", with_state(named_bob)),
        ("another user's founding", with_state(founded_by_bob)),
        ("a state signed over another GroupInfo", with_state(over_old)),
        (
            "a damaged signature",
            with_state(SignedState { signature: Signature::new(damaged), ..good.state.clone() }),
        ),
        ("no signature", with_state(SignedState { signature: Signature::default(), ..good.state.clone() })),
    ] {
        world.assert_refuses(what, &sending(&body, &alice.device), ProblemType::InvalidMls).await;
    }
    // Readers get the tree beside the GroupInfo, and nothing else that a client would like to tell them in it.
    alice.device.forget();
    let made = alice.device.commit(Commit { tree_in_group_info: true, ..update() });
    let call = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("a GroupInfo with the tree", &call, ProblemType::InvalidMls).await;
    alice.device.forget();

    let made = world.commit_identity(&mut alice, update()).await;
    let record = world.look_up(&alice.name).await;
    assert_eq!(record.current.group_info, made.group_info.unwrap());
    assert_eq!(record.current.ratchet_tree, alice.device.ratchet_tree());
    world.close();
}

/// A commit that one user's client signed is worth nothing at another user's identity, in another order, or at another
/// server.
#[tokio::test]
async fn commits_that_are_replayed_reordered_of_another_user_or_another_domain_are_refused() {
    let world = World::start().await;
    let (mut alice, mut bob) = (world.user("alice").await, world.user("bob").await);
    // Two of Alice's in order; the second one cannot come first.
    let beginning = alice.eid;
    let first = alice.device.commit(update());
    let first_call = identity_commit(&alice, &first, &alice.device);
    alice.device.merge();
    alice.moved(&first.commit);
    let second = alice.device.commit(update());
    let second_call = identity_commit(&alice, &second, &alice.device);
    world.assert_refuses("the second commit first", &second_call, ProblemType::WrongEpoch).await;
    world.pay(&first_call).await.assert_ok("the first");
    world.assert_refuses("the first again", &first_call, ProblemType::WrongEpoch).await;
    // The second commit with a state that forgets the first.
    let known = alice.eid;
    alice.eid = EidState { epoch: 1, ..beginning };
    let skipped = identity_commit(&alice, &second, &alice.device);
    world.assert_refuses("a transcript without the first", &skipped, ProblemType::InvalidMls).await;
    alice.eid = known;
    world.pay(&second_call).await.assert_ok("the second");
    alice.device.merge();
    alice.moved(&second.commit);

    // Bob's client cannot speak for Alice's, whatever it signs.
    world.commit_identity(&mut bob, update()).await;
    world.commit_identity(&mut bob, update()).await;
    let made = alice.device.commit(update());
    let body = identity_commit_of(&alice, &made.commit, made.group_info.as_ref().unwrap(), &alice.device);
    world
        .assert_refuses("Alice's commit by Bob", &sending(&body, &bob.device), ProblemType::InvalidMls)
        .await;
    let of_bob = identity_commit_of(&bob, &made.commit, made.group_info.as_ref().unwrap(), &bob.device);
    world.assert_refuses("as Bob's state", &sending(&of_bob, &bob.device), ProblemType::InvalidMls).await;
    world.assert_refuses("signed by Bob", &sending(&of_bob, &alice.device), ProblemType::InvalidMls).await;
    // Requests are bound to the domain that they are signed for.
    let mut elsewhere = sending(&body, &alice.device).paid_with(world.token()).wire();
    elsewhere.sign(&alice.device.key, |input| "elsewhere.example".clone_into(&mut input.authority));
    world.assert_refused("for another server", &elsewhere, ProblemType::SignatureRequired).await;
    world.pay(&sending(&body, &alice.device)).await.assert_ok("Alice's own");
    world.close();
}

/// Readers replay the whole history, so nothing gets into it that they do not need.
#[tokio::test]
async fn a_commit_carries_nothing_but_changes_of_clients_and_no_more_of_it_than_the_operator_allows() {
    let world = World::start().await;
    let mut device = device_of(&User::new("alice").name);
    device.extensions.push(ExtensionType::Unknown(FILLER));
    device.found(&random_id(), Extensions::empty());
    let mut alice = User::with(User::new("alice").name, device);
    world.register(&alice).await;
    let refused = async |what: &str, alice: &mut User, commit: Commit, expected: ProblemType| {
        let made = alice.device.commit(commit);
        world.assert_refuses(what, &identity_commit(alice, &made, &alice.device), expected).await;
        alice.device.forget();
    };
    let stuffed = |bytes: usize| {
        let mut device = User::new("alice").further_device();
        device.extensions.push(ExtensionType::Unknown(FILLER));
        device.leaf = Extensions::from_vec(vec![filler(bytes)]).unwrap();
        device
    };

    let context = Commit { context: Some(Extensions::empty()), ..update() };
    for (data, commit, reason) in
        [(&b"hello"[..], update(), "no authenticated data"), (b"", context, "can only add clients")]
    {
        alice.device.attach(data);
        let made = alice.device.commit(commit);
        world.assert_refused_for(reason, &identity_commit(&alice, &made, &alice.device), reason).await;
        alice.device.forget();
    }
    let leaf = Commit { leaf: Some(Extensions::from_vec(vec![filler(2000)]).unwrap()), ..update() };
    refused("a large leaf of its own", &mut alice, leaf, ProblemType::MessageTooLarge).await;
    refused("a large new leaf", &mut alice, adding(&[&stuffed(2000)]), ProblemType::MessageTooLarge).await;
    let many: Vec<Party> = (0..10).map(|_| stuffed(1700)).collect();
    let many: Vec<&Party> = many.iter().collect();
    refused("a large commit", &mut alice, adding(&many), ProblemType::MessageTooLarge).await;

    let limit = async |name: &str, value: i32| {
        let set = "SELECT operator.set_user_limit($1, $2)";
        world.admin.execute(set, &[&name, &value]).await.expect("the operator may");
    };
    limit("max_clients", 2).await;
    let devices = [alice.further_device(), alice.further_device()];
    refused("two more", &mut alice, adding(&[&devices[0], &devices[1]]), ProblemType::TooManyClients).await;
    let second = world.add_device(&mut alice).await;
    refused("a third", &mut alice, adding(&[&devices[0]]), ProblemType::TooManyClients).await;
    limit("max_clients", 1).await;
    let exchange = Commit { remove: vec![second.public_key()], ..adding(&[&devices[0]]) };
    for commit in [exchange, update()] {
        world.commit_identity(&mut alice, commit).await;
    }

    // A stolen client can use up the commits, and can still be removed.
    limit("max_clients", 3).await;
    let thief = alice.further_device();
    world.commit_identity(&mut alice, adding(&[&thief])).await;
    limit("max_identity_commits", 5).await;
    refused("a commit too many", &mut alice, update(), ProblemType::PolicyViolation).await;
    limit("max_identity_commits", 10_000).await;
    let stored = "SELECT sum(octet_length(l.commit))::integer
                    FROM auth.eid_log l JOIN auth.users u USING (user_id) WHERE u.name = 'alice'";
    limit("max_identity_history_bytes", world.value(stored).await).await;
    refused("a byte too many", &mut alice, update(), ProblemType::PolicyViolation).await;
    let removal = Commit { remove: vec![thief.public_key()], ..Default::default() };
    world.commit_identity(&mut alice, removal).await;
    world.close();
}

/// Somebody who stole a client uses up the commits of a day and no more, so that its user has time to remove it.
#[tokio::test]
async fn a_user_has_so_many_commits_a_day_and_can_remove_clients_after_them() {
    let world = World::start().await;
    let (mut alice, mut bob) = (world.user("alice").await, world.user("bob").await);
    let mut stolen = world.add_device(&mut alice).await;
    let daily = "SELECT operator.set_user_limit('identity_commits_per_day', 3)";
    world.admin.execute(daily, &[]).await.expect("the operator may");
    let refused = async |what: &str, alice: &User, by: &mut Party, commit: Commit| {
        let made = by.commit(commit);
        let call = identity_commit(alice, &made, by);
        world.assert_refuses(what, &call, ProblemType::PolicyViolation).await;
        let problem = world.pay(&call).await.assert_problem(what, ProblemType::PolicyViolation);
        let detail = problem.detail.expect("the developer is told why");
        assert!(detail.contains("3 commits a day"), "{what}: {detail}");
        by.forget();
    };
    // Two commits added it. A client that it adds has none of its own.
    let mut pending = alice.further_device();
    let third = world.commit_identity_by(&mut alice, &mut stolen, adding(&[&pending])).await;
    alice.device.receive(&third.commit);
    let welcome = third.welcome.expect("an added client is welcomed");
    pending.join(&welcome, &stolen.ratchet_tree());
    refused("a confirmation", &alice, &mut pending, update()).await;
    let further = alice.further_device();
    refused("an update", &alice, &mut stolen, update()).await;
    refused("a further client", &alice, &mut stolen, adding(&[&further])).await;
    let exchange = Commit { remove: vec![alice.device.public_key()], ..adding(&[&further]) };
    refused("one client for another", &alice, &mut stolen, exchange).await;

    // Others have their own, and whoever has none left still removes clients. That counts, too, and gives nothing.
    world.commit_identity(&mut bob, update()).await;
    let removal = Commit { remove: vec![stolen.public_key(), pending.public_key()], ..Default::default() };
    world.commit_identity(&mut alice, removal).await;
    let commits: i32 = world.value("SELECT max(commits) FROM auth.commits_today").await;
    assert_eq!(commits, 4);
    let made = alice.device.commit(update());
    let own = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("an update by who removed them", &own, ProblemType::PolicyViolation).await;

    world.admin.execute("UPDATE auth.commits_today SET day = day - 1", &[]).await.unwrap();
    world.pay(&own).await.assert_ok("on the next day");
    alice.device.merge();
    alice.moved(&made.commit);
    world.commit_identity(&mut alice, update()).await;
    let commits: i32 = world.value("SELECT max(commits) FROM auth.commits_today").await;
    assert_eq!(commits, 2, "it is counted anew");

    // Nothing is kept of a day that is over.
    world.admin.execute("UPDATE auth.commits_today SET day = day - 1", &[]).await.unwrap();
    world.admin.execute("SELECT auth.clean_up(0)", &[]).await.unwrap();
    assert_eq!(world.count("auth.commits_today").await, 0);
    world.close();
}

/// Every commit that is accepted lengthens the history for good, whatever it does.
#[tokio::test]
async fn who_adds_many_clients_and_removes_them_one_by_one_has_no_more_commits_in_a_day() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let daily = "SELECT operator.set_user_limit('identity_commits_per_day', 3)";
    world.admin.execute(daily, &[]).await.expect("the operator may");
    let added = [(); 3].map(|()| alice.further_device());
    let removal = |device: &Party| Commit { remove: vec![device.public_key()], ..Default::default() };
    world.commit_identity(&mut alice, adding(&added.each_ref())).await;
    for device in &added[..2] {
        world.commit_identity(&mut alice, removal(device)).await;
    }
    let further = alice.further_device();
    let refused = async |what: &str, alice: &mut User| {
        for commit in [update(), adding(&[&further])] {
            let made = alice.device.commit(commit);
            let call = identity_commit(alice, &made, &alice.device);
            world.assert_refuses(what, &call, ProblemType::PolicyViolation).await;
            alice.device.forget();
        }
    };
    refused("after three commits", &mut alice).await;
    world.commit_identity(&mut alice, removal(&added[2])).await;
    refused("after a removal beyond them", &mut alice).await;
    let commits: i32 = world.value("SELECT max(commits) FROM auth.commits_today").await;
    assert_eq!(commits, 4);
    world.close();
}
