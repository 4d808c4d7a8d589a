//! Proposals: those that are kept are in the next commit, and those of the server, too.

use super::*;

#[tokio::test]
async fn what_was_proposed_is_in_the_next_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(4).await;
    let violation = ProblemType::PolicyViolation;
    let leaving = group.party(3).self_remove();
    submit(&world, &group.submit(3, &leaving, None)).await;
    let kept = group.party(3).waiting();
    group.party(3).attach(b"another one");
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
async fn a_kept_proposal_gets_its_answer_again_also_when_it_would_be_too_large_by_now() {
    let world = World::start().await;
    let mut group = world.group(3).await;
    let [first, second] = [1, 2].map(|sender| {
        group.party(sender).attach(&[7; 1000]);
        let proposal = group.party(sender).propose_update();
        assert!(proposal.as_bytes().len() > 1024);
        group.submit(sender, &proposal, None)
    });
    let epoch = submit(&world, &first).await.epoch;
    set_limit(&world, "max_message_bytes", 1024).await;
    let before = world.snapshot().await;
    for again in [&first, &first.clone().in_json()] {
        assert_eq!(submit(&world, again).await.epoch, epoch);
    }
    world.snapshot().await.assert_same(&before, "a repeat");
    world.assert_refuses("one that is not kept", &second, ProblemType::MessageTooLarge).await;
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
    let update = group.party(1).propose_update_to_key(&SigningKey::generate());
    let call = group.submit(1, &update, None);
    world.assert_refuses("an Update to a fresh key", &call, ProblemType::InvalidMls).await;
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
    let leaf = |leaf| (Some(leaf), None);
    let admin = group.pseudonym(0).0.to_vec();
    let cases = [
        ("another pseudonym", (None, Some(Pseudonym::random().0.to_vec())), violation),
        ("the admin's pseudonym", (None, Some(admin)), violation),
        ("a name", (None, Some(b"alice@home.example".to_vec())), invalid),
        ("another user key", leaf(leaf_extensions(&home(), mine, key(0))), violation),
        ("no user key", leaf(leaf_extensions(&home(), mine, None)), violation),
        ("the last user key that there is", leaf(leaf_extensions(&home(), mine, key(u32::MAX))), violation),
        ("no address", leaf(Extensions::empty()), invalid),
        ("no readable address", leaf(unmade.unwrap()), invalid),
        ("another's address", leaf(leaf_extensions(&home(), theirs, Some(own_key))), violation),
        ("a leaf that is too large", leaf(large), ProblemType::MessageTooLarge),
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

    // A proposal that is right is kept, and each member can commit it.
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
