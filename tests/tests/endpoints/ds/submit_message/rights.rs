//! Rights: changes of a group that its members may make, and the ways to join it.

use super::*;

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
        let context = Some(policy_extensions(&home(), policy, &server_key));
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
    ] {
        assert_commit_refused(&world, what, &mut group, 0, adding(&[&party]), ProblemType::InvalidMls).await;
    }
    let leaf = |leaf| Commit { leaf: Some(leaf), ..Default::default() };
    let gone = leaf(Extensions::empty());
    assert_commit_refused(&world, "a leaf without an address", &mut group, 1, gone, ProblemType::InvalidMls)
        .await;
    let made = group.party(1).commit_to_key(&key);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    world.assert_refuses("a leaf that takes another member's key", &call, ProblemType::InvalidMls).await;
    group.party(1).forget();
    // Its members would not know any more whose it is.
    let made = group.party(1).commit_to_key(&SigningKey::generate());
    let call = group.submit_commit(&group.members[1].party.key, &made);
    world.assert_refuses("a leaf that takes a fresh key", &call, ProblemType::InvalidMls).await;
    world.assert_refused_for("a leaf that takes a fresh key", &call, "keeps its signature key").await;
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
    let mut ahead = world.candidate().await;
    ahead.party.generation = u32::MAX;
    ahead.party.leaf = ahead.party.leaf_at(&home(), ahead.address);
    let ahead = adding(&[&ahead.party]);
    assert_commit_refused(&world, "a newcomer with the last generation", &mut group, 0, ahead, violation)
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
    group.party(3).generation = u32::MAX;
    let last = group.party(3).leaf_at(&home(), address);
    let last = Commit { leaf: Some(last), ..removal.clone() };
    assert_commit_refused(&world, "the last generation that there is", &mut group, 3, last, violation).await;
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
    // Its request and its commit are signed with the user's key then, and members look at the authenticated data.
    let own = std::mem::replace(&mut joiner.party.key, users.clone());
    let made = joiner.party.join_externally(&current, None);
    let call = group.submit_commit(&users, &made);
    world.assert_refuses("the user's key is the leaf's, and vouches for nothing", &call, violation).await;
    joiner.party.key = own;
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

    // A client that comes back brings no other key of its user's than a newer one.
    let (own, address) = (group.members[1].party.user_key(), group.members[1].address);
    let other = SigningKey::generate();
    let key = UserKey { public_key: other.public_key(), ..own };
    let mut double = Party::new(group.members[1].party.identity.clone());
    double.key = group.members[1].party.key.clone();
    double.leaf = leaf_extensions(&home(), address, Some(key));
    let made = double.join_externally(&current, None);
    let call = group.submit_commit(&double.key, &made);
    world.assert_refuses("another user key of the same generation", &call, violation).await;
    let next = UserKey { generation: own.generation + 1, ..key };
    double.leaf = leaf_extensions(&home(), address, Some(next));
    let made = double.join_externally(&current, None);
    submit(&world, &group.submit_commit(&double.key, &made)).await;
    double.merge();
    (double.user, double.generation) = (other, next.generation);
    for older in [own, UserKey { generation: 0, ..next }] {
        let current = world.group_info(&group, &double.key).await;
        let mut again = Party::new(double.identity.clone());
        again.key = double.key.clone();
        again.leaf = leaf_extensions(&home(), address, Some(older));
        let made = again.join_externally(&current, None);
        let call = group.submit_commit(&again.key, &made);
        world.assert_refuses("an older user key", &call, violation).await;
    }
    group.members[1].party = double;
    // The messages that wait there are of before, or its own.
    world.read(&mut group.members[1].mailbox).await;
    for member in [0, 2] {
        world.receive(&mut group.members[member]).await;
    }

    // Meanwhile somebody leaves: who comes back may take that along.
    let leaving = group.party(2).self_remove();
    submit(&world, &group.submit(2, &leaving, None)).await;
    let current = world.group_info(&group, &group.members[1].party.key).await;
    assert_eq!(current.proposals, [leaving]);
    let made = group.party(1).join_externally(&current, None);
    let call = group.submit_commit(&group.members[1].party.key, &made);
    assert_eq!(submit(&world, &call).await.epoch, 3);
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
    assert_eq!(submit(&world, &call).await.epoch, 4);
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    let (_, call) = group.make(0, update());
    assert_eq!(submit(&world, &call).await.epoch, 5);
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

/// A stolen client may take any generation of the user's key: the user's others have a later one to remove it (AS-13).
#[tokio::test]
async fn a_client_that_takes_the_latest_user_key_is_removed_by_its_users_others() {
    let world = World::start().await;
    world.stock(100).await;
    let mut group = world.group(2).await;
    let violation = ProblemType::PolicyViolation;
    let stolen = world.further_client(&group.members[1]).await;
    world.add_by(&mut group, 1, vec![stolen]).await;
    world.receive(&mut group.members[0]).await;
    let latest = UserKey::latest_generation(group.party(2).epoch() + 1);
    let address = group.members[2].address;
    let leaf_with = |party: &mut Party, generation: u32, address: Address| {
        (party.user, party.generation) = (SigningKey::generate(), generation);
        party.leaf_at(&home(), address)
    };

    let ahead = Some(leaf_with(group.party(2), latest + 1, address));
    let ahead = Commit { leaf: ahead, ..Default::default() };
    assert_commit_refused(&world, "a later one than there may be", &mut group, 2, ahead, violation).await;
    let ahead = leaf_with(group.party(2), latest + 1, address);
    let proposed = group.party(2).propose_leaf(Some(ahead), None, None);
    world.assert_refuses("the same as a proposal", &group.submit(2, &proposed, None), violation).await;
    group.party(2).forget();
    let last = Some(leaf_with(group.party(2), latest, address));
    let (_, call) = group.make(2, Commit { leaf: last, ..Default::default() });
    submit(&world, &call).await;
    group.party(2).merge();
    for member in [0, 1] {
        world.receive(&mut group.members[member]).await;
    }

    let address = group.members[1].address;
    let next = Some(leaf_with(group.party(1), latest + 1, address));
    let removal = removing(&group, 2);
    let (_, call) = group.make(1, Commit { leaf: next, ..removal });
    submit(&world, &call).await;
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).member_keys().len(), 2);
    assert_eq!(group.party(1).users_key().generation, latest + 1);
    world.close();
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

    // Others' commits leave them, and those of the leaf's own that bring none.
    let (_, call) = group.make(1, update());
    submit(&world, &with_attributes(&call, &[attributes(other, b"mine")])).await;
    group.party(1).merge();
    world.receive(&mut group.members[0]).await;
    let (_, call) = group.make(0, update());
    submit(&world, &call).await;
    group.party(0).merge();
    let seen = async |group: &Group| world.group_info(group, &group.members[0].party.key).await.attributes;
    assert_eq!(seen(&group).await, [mine, attributes(other, b"mine"), theirs.clone()]);

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
