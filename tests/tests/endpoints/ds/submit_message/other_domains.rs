//! Members of other homeservers may be in a group: of as many domains as the operator allows and of none that is blocked (FED-2,
//! DS-10), each at an address that no other member has.

use openmls::prelude::LeafNode;
use postern_tests_kit::creation;

use super::{
    super::elsewhere::{Elsewhere, domain, domains, operate},
    *,
};

/// A commit by which a leaf gets these extensions.
fn moving(leaf: Extensions<LeafNode>) -> Commit {
    Commit { leaf: Some(leaf), ..Commit::default() }
}

/// Members' clients compare addresses alone, so that a leaf with another's would put all of them out of the group.
#[tokio::test]
async fn an_address_is_one_members_whatever_domain_another_leaf_names_with_it() {
    let world = World::start().await;
    world.stock(300).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), domain("b"), home()]).await;
    let violation = ProblemType::PolicyViolation;
    for (whose, of) in [("another's here", 1), ("another's elsewhere", 2)] {
        let address = group.members[of].address;
        for at in [home(), domain("b"), domain("c")] {
            let what = |how: &str| format!("{how} {whose}, said to be at {at}");
            let mut party = Party::newcomer();
            party.leaf = party.leaf_at(&at, address);
            let (_, call) = group.make(0, Commit { add: vec![party.key_package()], ..Commit::default() });
            world.assert_refuses(&what("an Add with"), &call, violation).await;
            group.party(0).forget();
            let leaf = group.party(3).leaf_at(&at, address);
            let (_, call) = group.make(3, moving(leaf.clone()));
            world.assert_refuses(&what("a commit that moves to"), &call, violation).await;
            group.party(3).forget();
            let proposed = group.party(3).propose_leaf(Some(leaf.clone()), None, None);
            world.assert_refuses(&what("an Update to"), &group.submit(3, &proposed, None), violation).await;
            group.party(3).forget();

            let member = &group.members[3].party;
            let (key, user, identity) = (member.key.clone(), member.user.clone(), member.identity.clone());
            let current = world.group_info(&group, &key).await;
            let mut client = Party::new(identity);
            client.leaf = leaf;
            let made = client.join_externally(&current, Some(&user));
            let call = group.submit_commit(&client.key, &made);
            world.assert_refuses(&what("joining with"), &call, violation).await;
            client.key = key;
            let made = client.join_externally(&current, None);
            let call = group.submit_commit(&client.key, &made);
            world.assert_refuses(&what("coming back with"), &call, violation).await;
        }
    }
    // It is free once its member is gone.
    let mut heir = Party::newcomer();
    heir.leaf = heir.leaf_at(&domain("c"), group.members[1].address);
    let (remove, add) = (vec![group.key(1)], vec![heir.key_package()]);
    let (_, call) = group.make(0, Commit { remove, add, ..Commit::default() });
    world.pay(&call).await.assert_ok("in the place of who goes");
    world.close();
}

#[tokio::test]
async fn nobody_comes_to_a_blocked_domain_and_those_who_are_there_get_nothing_and_are_to_go() {
    let world = World::start().await;
    world.stock(300).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, c) = (domain("b"), domain("c"));
    let mut group = elsewhere.group(&world, &[home(), home(), b.clone(), c.clone(), b.clone()]).await;
    let client = world.further_client(&group.members[2]).await;
    // It moves while it may, and this waits.
    let mut moves = elsewhere.group(&world, &[home(), c.clone()]).await;
    let leaf = moves.members[1].party.leaf_at(&b, moves.members[1].address);
    let proposed = moves.party(1).propose_leaf(Some(leaf), None, None);
    submit(&world, &moves.submit(1, &proposed, None)).await;
    elsewhere.deliver(&world).await;
    operate(&world, "operator.block_domain('b.example')").await;

    let blocked = ProblemType::HomeserverBlocked;
    let newcomer = world.candidate_at(&b).await;
    let (_, call) = group.make(0, Commit { add: vec![newcomer.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add", &call, blocked).await;
    group.party(0).forget();
    let (_, call) = group.make(2, Commit { add: vec![client.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add of an own client", &call, blocked).await;
    group.party(2).forget();
    let leaf = group.members[1].party.leaf_at(&b, fresh_address());
    let (_, call) = group.make(1, moving(leaf.clone()));
    world.assert_refuses("a commit by which a leaf moves there", &call, blocked).await;
    group.party(1).forget();
    let proposed = group.party(1).propose_leaf(Some(leaf), None, None);
    world.assert_refuses("an Update", &group.submit(1, &proposed, None), blocked).await;
    group.party(1).forget();
    let (mut client, user) = (client, group.members[2].party.user.clone());
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.assert_refuses("joining", &group.submit_commit(&client.party.key, &made), blocked).await;
    let member = &group.members[4].party;
    let mut double = Party::new(member.identity.clone());
    (double.key, double.user) = (member.key.clone(), member.user.clone());
    double.leaf = double.leaf_at(&b, fresh_address());
    let made = double.join_externally(&current, None);
    world.assert_refuses("coming back", &group.submit_commit(&double.key, &made), blocked).await;
    let mut founder = Party::newcomer();
    founder.leaf = founder.leaf_at(&b, fresh_address());
    let policy = GroupPolicy::new(Pseudonym(founder.identity.as_slice().try_into().unwrap()));
    let id = world.reserve().await;
    founder.found(&id.to_mls(), policy_extensions(world.domain(), &policy, &world.server_key()));
    let call = creation(&id, policy.state_key(), &founder);
    world.assert_refuses("founding a group", &call, blocked).await;
    assert!(elsewhere.waiting(&world).await.is_empty());

    // A move that was proposed before does not stand in the group's way.
    world.receive(&mut moves.members[0]).await;
    let (_, call) = moves.make(0, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit of what waited");

    let said = group.party(1).say(b"who is there?");
    assert_eq!(submit(&world, &group.submit(1, &said, None)).await.undelivered, 2);
    while group.party(0).evictions < 2 {
        world.await_message(&mut group.members[0]).await;
    }
    let delivered = elsewhere.deliver(&world).await;
    assert!(delivered.iter().all(|delivery| delivery.domain == c), "{:?}", domains(&delivered));
    world.receive(&mut group.members[3]).await;
    assert_eq!(group.party(3).evictions, 2);
    let (_, call) = group.make(0, Commit { update: true, ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 2, "they do not even hear of their removal");
    group.party(0).merge();
    elsewhere.deliver(&world).await;
    for member in [1, 3] {
        world.receive(&mut group.members[member]).await;
        let agreed = group.party(0).epoch_authenticator();
        assert_eq!(group.party(member).epoch_authenticator(), agreed);
    }
    assert_eq!(group.party(0).member_keys().len(), 3);

    operate(&world, "operator.drop_domain_rule('b.example')").await;
    let newcomer = world.candidate_at(&b).await;
    elsewhere.add(&world, &mut group, vec![newcomer]).await;
    world.close();
}

#[tokio::test]
async fn a_group_has_members_of_as_many_other_domains_as_the_operator_allows() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, d) = (domain("b"), domain("d"));
    let full = ProblemType::TooManyDomains;
    operate(&world, "operator.set_group_limit('max_domains', 2)").await;
    let mut group = elsewhere.group(&world, &[home(), home(), home(), b.clone(), domain("c")]).await;

    let newcomer = world.candidate_at(&d).await;
    let (_, call) = group.make(0, Commit { add: vec![newcomer.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add", &call, full).await;
    let detail = world.pay(&call).await.problem("an Add").detail.unwrap();
    assert_eq!(detail, "a group can have members of at most 2 other domains");
    group.party(0).forget();
    let leaf = group.members[1].party.leaf_at(&d, fresh_address());
    let (_, call) = group.make(1, moving(leaf.clone()));
    world.assert_refuses("a commit by which a leaf moves there", &call, full).await;
    group.party(1).forget();
    let proposed = group.party(1).propose_leaf(Some(leaf.clone()), None, None);
    world.assert_refuses("an Update", &group.submit(1, &proposed, None), full).await;
    group.party(1).forget();
    let mut client = world.further_client(&group.members[1]).await;
    client.party.leaf = client.party.leaf_at(&d, client.address);
    let user = group.members[1].party.user.clone();
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.assert_refuses("joining", &group.submit_commit(&client.party.key, &made), full).await;
    let joiners = vec![world.candidate_at(&b).await, world.candidate().await];
    elsewhere.add(&world, &mut group, joiners).await;
    world.receive(&mut group.members[1]).await;
    world.receive(&mut group.members[2]).await;

    // Moves that wait count, as one commit takes all of them.
    operate(&world, "operator.set_group_limit('max_domains', 3)").await;
    let moves = group.party(1).propose_leaf(Some(leaf), None, None);
    submit(&world, &group.submit(1, &moves, None)).await;
    world.receive(&mut group.members[2]).await;
    let leaf = group.members[2].party.leaf_at(&domain("e"), fresh_address());
    let proposed = group.party(2).propose_leaf(Some(leaf), None, None);
    world.assert_refuses("one domain more", &group.submit(2, &proposed, None), full).await;
    group.party(2).forget();
    let leaf = group.members[2].party.leaf_at(&d, fresh_address());
    let proposed = group.party(2).propose_leaf(Some(leaf), None, None);
    submit(&world, &group.submit(2, &proposed, None)).await;

    // A group that has more by a new limit goes on, and so do those who are on their way.
    operate(&world, "operator.set_group_limit('max_domains', 1)").await;
    world.receive(&mut group.members[0]).await;
    let joiner = world.candidate_at(&b).await;
    elsewhere.add(&world, &mut group, vec![joiner]).await;
    let said = group.party(0).say(b"we are many");
    submit(&world, &group.submit(0, &said, None)).await;
    let waiting = elsewhere.waiting(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "c.example", "d.example"]);
    world.close();
}
