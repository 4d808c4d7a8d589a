//! The operator's limits, and those of memory and time.

use openmls::prelude::LeafNode;

use super::{
    super::elsewhere::{Elsewhere, domain, operate},
    *,
};

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

    // A user with more clients than a new limit allows keeps them, and goes on.
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
        group.party(1).attach(&vec![7; bytes]);
        let spoken = group.party(1).say(b"hello");
        group.party(1).attach(&vec![7; bytes]);
        let proposed = group.party(1).propose_update();
        group.party(1).forget();
        group.party(0).attach(&vec![7; bytes]);
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
    group.party(1).attach(&[7; 65]);
    let spoken = group.party(1).say(b"hello");
    let spoken = group.submit(1, &spoken, None);
    set_limit(&world, "max_authenticated_data_bytes", 64).await;
    world.assert_refuses("more than the operator likes", &spoken, large).await;
    world.close();
}

/// Makes a leaf so many bytes larger.
fn stuff(leaf: &mut Extensions<LeafNode>, bytes: usize) {
    let stuffing = ApplicationIdExtension::new(&vec![7; bytes]);
    leaf.add_or_replace(Extension::ApplicationId(stuffing)).expect("leaves may have it");
}

/// A commit by which a member's leaf becomes so many bytes larger.
fn growing(group: &Group, member: usize, bytes: usize) -> Commit {
    Commit { leaf: Some(stuffed(group, member, bytes)), ..update() }
}

fn stuffed(group: &Group, member: usize, bytes: usize) -> Extensions<LeafNode> {
    let member = &group.members[member];
    let mut leaf = leaf_extensions(&home(), member.address, Some(member.party.user_key()));
    stuff(&mut leaf, bytes);
    leaf
}

#[tokio::test]
async fn a_leaf_that_a_message_brings_is_as_large_as_the_operator_allows() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let large = ProblemType::MessageTooLarge;
    let grown = growing(&group, 1, 5000);
    let (_, commit) = group.make(1, grown);
    group.party(1).forget();
    let leaf = stuffed(&group, 1, 5000);
    let proposal = group.party(1).propose_leaf(Some(leaf), None, None);
    let proposal = group.submit(1, &proposal, None);
    group.party(1).forget();
    let mut newcomer = world.candidate().await.party;
    stuff(&mut newcomer.leaf, 5000);
    let (_, addition) = group.make(0, adding(&[&newcomer]));
    group.party(0).forget();
    let mut client = world.further_client(&group.members[1]).await.party;
    stuff(&mut client.leaf, 5000);
    let user = client.user.clone();
    let entry = client.join_externally(&world.group_info(&group, &user).await, Some(&user));
    let entry = group.submit_commit(&client.key, &entry);
    for (what, call) in [
        ("a commit", &commit),
        ("a proposal", &proposal),
        ("an addition", &addition),
        ("a client that joins by itself", &entry),
    ] {
        world.assert_refuses(what, call, large).await;
        let detail = world.pay(call).await.problem(what).detail;
        assert_eq!(detail.as_deref(), Some("a leaf can have at most 4096 bytes"), "{what}");
    }

    set_limit(&world, "max_leaf_bytes", 8192).await;
    let grown = growing(&group, 1, 5000);
    let (_, call) = group.make(1, grown);
    assert_eq!(submit(&world, &call).await.epoch, 2, "a larger leaf");
    group.party(1).merge();
    let leaf = stuffed(&group, 1, 6000);
    let waiting = group.party(1).propose_leaf(Some(leaf), None, None);
    submit(&world, &group.submit(1, &waiting, None)).await;

    // Leaves that are there, or wait, stay when the limit is lowered, and keep nobody from committing (DS-13).
    set_limit(&world, "max_leaf_bytes", 2048).await;
    world.receive(&mut group.members[0]).await;
    for epoch in [3, 4] {
        let (_, call) = group.make(0, update());
        assert_eq!(submit(&world, &call).await.epoch, epoch);
        group.party(0).merge();
    }
    let grown = growing(&group, 0, 2048);
    assert_commit_refused(&world, "by the new limit", &mut group, 0, grown, large).await;
    world.close();
}

#[tokio::test]
async fn what_one_request_puts_into_all_queues_together_is_bounded() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
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
        world.caught("submit_message").await;
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
async fn a_key_package_also_outlasts_the_wait_for_the_homeservers_of_members_elsewhere() {
    const DAY: u64 = 24 * 60 * 60;
    let world = World::start().await;
    world.stock(200).await;
    // The first member elsewhere counts, too: its Welcome waits.
    let mut here = world.group(2).await;
    let lasting_there = async |days: u64| {
        let mut party = world.candidate_at(&domain("b")).await.party;
        party.lifetime = Lifetime::new(days * DAY);
        adding(&[&party])
    };
    let short = lasting_there(45).await;
    assert_commit_refused(&world, "45 days, elsewhere", &mut here, 0, short, ProblemType::InvalidMls).await;
    let (_, call) = here.make(0, lasting_there(47).await);
    assert_eq!(submit(&world, &call).await.epoch, 2);

    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b")]).await;
    let lasting = async |days: u64| {
        let mut party = world.candidate().await.party;
        party.lifetime = Lifetime::new(days * DAY);
        adding(&[&party])
    };
    let short = lasting(45).await;
    assert_commit_refused(&world, "45 days", &mut group, 0, short, ProblemType::InvalidMls).await;
    let (_, call) = group.make(0, lasting(47).await);
    let epoch = submit(&world, &call).await.epoch;
    group.party(0).merge();
    // Where messages wait for less, it may be shorter.
    operate(&world, "operator.set_federation_limit('outbox_days', 7)").await;
    let short = lasting(38).await;
    assert_commit_refused(&world, "38 days", &mut group, 0, short, ProblemType::InvalidMls).await;
    let (_, call) = group.make(0, lasting(40).await);
    assert_eq!(submit(&world, &call).await.epoch, epoch + 1);
    world.close();
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
        "max_domains",
        "max_message_bytes",
        "max_commit_bytes",
        "max_authenticated_data_bytes",
        "max_leaf_bytes",
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
        "'max_leaf_bytes', 2047",
        "'max_leaf_bytes', 16385",
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
    // A member that speaks has joined.
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
async fn a_user_that_is_no_admin_takes_a_part_of_the_room_for_trees_and_leaves_the_rest_to_others() {
    let world = World::start().await;
    world.stock(200).await;
    let mut group = world.group(2).await;
    let spoken = group.party(1).say(b"I am in");
    submit(&world, &group.submit(1, &spoken, None)).await;
    let phone = world.further_client(&group.members[1]).await;
    let (_, call) = group.make(1, adding(&[&phone.party]));
    submit(&world, &call).await;
    group.party(1).merge();
    // An eighth of it is 128 KiB.
    set_limit(&world, "max_awaited_bytes", 1024 * 1024).await;
    let grow =
        "UPDATE ds.welcome_trees SET tree = tree || convert_to(repeat('x', $1 - octet_length(tree)), 'UTF8')";
    world.admin.execute(grow, &[&(200 * 1024)]).await.expect("as if the group were large");
    let tablet = world.further_client(&group.members[1]).await;
    let (_, call) = group.make(1, adding(&[&tablet.party]));
    world.assert_refuses("another client that is to be awaited", &call, ProblemType::TooManyMembers).await;
    let detail = world.pay(&call).await.problem("another client").detail.unwrap();
    assert!(detail.contains("clients of one user"), "{detail}");
    group.party(1).forget();

    // Nobody else is kept from anything, and an admin adds members.
    world.receive(&mut group.members[0]).await;
    let newcomer = world.candidate().await;
    let (_, call) = group.make(0, adding(&[&newcomer.party]));
    assert_eq!(submit(&world, &call).await.epoch, 3);
    group.party(0).merge();
    world.receive(&mut group.members[1]).await;
    // The client that never came goes, and another comes.
    group.party(1).user = SigningKey::generate();
    group.party(1).generation = 1;
    let address = group.members[1].address;
    let leaf = Some(group.party(1).leaf_at(&home(), address));
    let remove = vec![phone.party.public_key()];
    let (_, call) = group.make(1, Commit { remove, leaf, ..Default::default() });
    assert_eq!(submit(&world, &call).await.epoch, 4);
    group.party(1).merge();
    let tablet = world.further_client(&group.members[1]).await;
    let (_, call) = group.make(1, adding(&[&tablet.party]));
    assert_eq!(submit(&world, &call).await.epoch, 5);
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

    // The operator's limit counts as far as a server lets bodies through. Nobody waits to be removed from this group, as
    // those of the other do.
    let mut group = world.group(2).await;
    let crowd: Vec<_> = (0..110).map(|_| Party::newcomer()).collect();
    let crowd = adding(&crowd.iter().collect::<Vec<_>>());
    let (made, call) = group.make(0, crowd);
    let bytes = made.commit.as_bytes().len() - 1;
    set_limit(&world, "max_commit_bytes", 524_288).await;
    set_limit(&world, "max_members", 200).await;
    set_limit(&world, "max_commit_bytes", i32::try_from(bytes).unwrap()).await;
    let narrow = (bytes + 32 * 1024).to_string();
    let narrow = Server::builder(&world.cluster).env("POSTERN_MAX_BODY_BYTES", &narrow).start().await;
    set_limit(&world, "max_commit_bytes", 524_288).await;
    let reply = world.send_to(&narrow, &world.paid(call.clone()).wire()).await;
    let problem = reply.problem("what would fit into no body of the next");
    assert_eq!(problem.kind, large);
    assert!(problem.detail.unwrap().contains(&bytes.to_string()), "as the server lets through");
    assert_eq!(submit(&world, &call).await.epoch, 2, "at another server");
    world.close();
}
