//! Messages and commits: read once and in order, whatever was lost.

use postern_protocol::{
    ds::MAX_PAST_EPOCHS,
    qs::{QueueKind, QueuePayload},
};

use super::{
    super::{
        forget_early,
        join::{keep_early, try_again},
        join_at_last, join_later, late_welcomes,
        past::MOST_PAST_EPOCHS,
        take_early,
    },
    *,
};
use crate::receive::{Tree, take_effect};

#[test]
fn members_read_each_other_once_and_know_who_speaks() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    alice.events();
    let message = bob.say(&id, "hello");
    alice.receive(&message).unwrap();
    alice.receive(&message).unwrap();
    let events = alice.events();
    let [Event::Message { sender, text, epoch: 1, .. }] = &events[..] else {
        panic!("one message, a repeat is ignored: {events:?}")
    };
    assert_eq!((sender.user.as_ref(), text.as_str()), (Some(&bob.user), "hello"));
    assert!(!sender.verified, "the AS was not asked");
}

#[test]
fn a_commit_whose_answer_was_lost_takes_effect_when_the_next_epoch_is_seen() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let update = alice.stage(&id, &Change::Update);
    bob.receive(&update.message).unwrap();
    let message = bob.say(&id, "in the next epoch");
    assert_eq!(alice.epoch(&id), 1);
    alice.receive(&message).unwrap();
    assert_eq!(alice.epoch(&id), 2);
    assert_eq!(alice.texts(), ["in the next epoch"]);
    assert!(alice.outstanding(&id).is_none());
}

#[test]
fn a_commit_that_lost_gives_its_key_packages_back() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let leaf_key = carol.offer_to(&alice);
    alice.stage(&id, &Change::Add(vec![leaf_key]));
    let winner = bob.stage(&id, &Change::Update);
    alice.receive(&winner.message).unwrap();
    assert_eq!(alice.epoch(&id), 2);
    bob.confirm(&id);
    let again = alice.stage(&id, &Change::Add(vec![leaf_key]));
    alice.confirm(&id);
    bob.receive(&again.message).unwrap();
    carol.join(again.welcome.as_ref().unwrap(), Some(&alice.tree(&id))).unwrap();
    bob.receive(&carol.say(&id, "here")).unwrap();
    assert_eq!(bob.texts(), ["here"]);
}

#[test]
fn a_removed_member_reads_and_writes_no_more() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let removal = alice.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    alice.confirm(&id);
    let secret = alice.say(&id, "without bob");
    bob.receive(&removal.message).unwrap();
    assert!(matches!(bob.events().last(), Some(Event::Left { .. })));
    assert!(bob.receive(&secret).is_err());
    let load = bob.store.read(|tx| GroupState::load(tx, &id).map(drop));
    assert!(matches!(load, Err(Error::NotMember)));
    let kept: i64 = bob
        .store
        .read(|tx| Ok(tx.sql().query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(kept, 0, "no secret of the group is kept");
}

#[test]
fn what_is_said_is_sent_in_order_under_one_number_each_and_kept_up_to_a_bound() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    alice.events();
    let options = Options { unsent_messages: 3, unsent_bytes: 100, ..Options::default() };
    let say =
        |text: &str| bob.store.write(|tx| GroupState::load(tx, &id)?.say(tx, text.to_owned(), &options));
    assert_eq!(say("one").unwrap(), 1);
    assert!(matches!(say(&"x".repeat(200)), Err(Error::OutboxFull { messages: 1 })));
    assert_eq!(say("two").unwrap(), 2);
    assert_eq!(say("three").unwrap(), 3);
    assert!(matches!(say("four"), Err(Error::OutboxFull { messages: 3 })));
    // The answer to the first is lost, and it is encrypted anew in a later epoch.
    bob.store.write(|tx| GroupState::load(tx, &id)?.stage_message(tx)).unwrap();
    alice.receive(&bob.outstanding(&id).unwrap().message).unwrap();
    let update = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    bob.receive(&update.message).unwrap();
    bob.store.write(|tx| GroupState::load(tx, &id)?.too_late(tx, crate::group::Kind::Message)).unwrap();
    for _ in 0..3 {
        alice.receive(&bob.send(&id)).unwrap();
    }
    assert_eq!(alice.texts(), ["one", "two", "three"]);
    assert!(!bob.store.write(|tx| GroupState::load(tx, &id)?.stage_message(tx)).unwrap());
}

#[test]
fn a_message_that_comes_after_later_ones_of_its_sender_is_shown_and_shown_once() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let said = ["one", "two", "three", "four", "five"].map(|text| bob.say(&id, text));
    for place in [0, 3, 1, 1, 3] {
        alice.receive(&said[place]).unwrap();
    }
    assert_eq!(alice.texts(), ["one", "four", "two"]);
    // In the epoch after its own, too.
    let update = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    for place in [4, 2, 4, 2] {
        alice.receive(&said[place]).unwrap();
    }
    assert_eq!(alice.texts(), ["five", "three"]);
    bob.receive(&update.message).unwrap();
    // As far back as keys are kept.
    let many: Vec<_> = (0..=mls::LATE_MESSAGES).map(|number| bob.say(&id, &number.to_string())).collect();
    alice.receive(&many[many.len() - 1]).unwrap();
    alice.receive(&many[1]).unwrap();
    assert_eq!(alice.texts(), [mls::LATE_MESSAGES.to_string(), "1".to_owned()]);
}

#[test]
fn what_somebody_said_before_this_device_removed_them_is_read_after_it() {
    let Trio { issuer, alice, bob, id, .. } = Trio::with_all();
    let dave = person("dave", &issuer);
    let said = ["one", "two"].map(|text| bob.say(&id, text));
    alice.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    alice.confirm(&id);
    alice.receive(&said[0]).unwrap();
    // Another member sits in his place by now.
    alice.add(&id, &[&dave]);
    alice.receive(&said[1]).unwrap();
    alice.receive(&said[1]).unwrap();
    let heard = |event| match event {
        Event::Message { sender, text, .. } => Some((sender.user, text)),
        _ => None,
    };
    let heard: Vec<_> = alice.events().into_iter().filter_map(heard).collect();
    let by_bob = |text: &str| (Some(bob.user.clone()), text.to_owned());
    assert_eq!(heard, [by_bob("one"), by_bob("two")]);
}

#[test]
fn what_a_removed_device_said_is_not_taken_for_the_word_of_the_one_that_has_its_place() {
    let Trio { issuer, alice, bob, carol, id } = Trio::with_all();
    let tablet = person("bob", &issuer);
    let own = bob.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?))).unwrap();
    // A number after which nobody counts.
    let sql = "UPDATE groups SET next_number = 1 << 40";
    bob.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    let late = bob.say(&id, "late");
    let removal = alice.stage(&id, &Change::Remove(vec![own.leaf_key]));
    alice.confirm(&id);
    let leaf_key = tablet.offer_as(own.pseudonym, &alice);
    let addition = alice.stage(&id, &Change::Add(vec![leaf_key]));
    alice.confirm(&id);
    tablet.join(addition.welcome.as_ref().unwrap(), Some(&alice.tree(&id))).unwrap();
    for commit in [&removal.message, &addition.message] {
        carol.receive(commit).unwrap();
    }
    alice.receive(&late).unwrap();
    let heard = alice.events().into_iter().find_map(|event| match event {
        Event::Message { sender, .. } => Some(sender.leaf_key),
        _ => None,
    });
    assert_eq!(heard, Some(own.leaf_key), "alice removed it herself");
    assert!(carol.receive(&late).is_err());
    let said = tablet.say(&id, "here");
    for other in [&alice, &carol] {
        other.receive(&said).unwrap();
        assert_eq!(other.texts(), ["here"]);
    }
}

#[test]
fn who_was_removed_is_forgotten_with_the_keys_that_open_what_they_said() {
    // By commits of this device, by another member's, and by coming back.
    for committer in ["alice", "carol", "nobody"] {
        let Trio { alice, bob, carol, id, .. } = Trio::with_all();
        let kept = || {
            let sql = "SELECT count(*) FROM removed_members";
            alice.store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get::<_, i64>(0))?)).unwrap()
        };
        let said = ["one", "two"].map(|text| bob.say(&id, text));
        let removal = alice.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
        alice.confirm(&id);
        carol.receive(&removal.message).unwrap();
        if committer == "nobody" {
            assert_eq!(kept(), 1);
            alice.rejoin(&id, &carol.shown(&id), &Differences::default()).unwrap();
            assert_eq!(kept(), 0);
            continue;
        }
        for epoch in 1..=MAX_PAST_EPOCHS {
            assert_eq!(kept(), 1, "{epoch}");
            if epoch == MAX_PAST_EPOCHS {
                alice.receive(&said[0]).unwrap();
            }
            let (by, other) = if committer == "alice" { (&alice, &carol) } else { (&carol, &alice) };
            let update = by.stage(&id, &Change::Update);
            by.confirm(&id);
            other.receive(&update.message).unwrap();
        }
        assert_eq!(kept(), 0, "{committer}");
        let too_late = alice.receive(&said[1]).unwrap_err();
        assert!(too_late.contains("came so late"), "{too_late}");
        assert_eq!(alice.texts(), ["one"], "the key of the other one is gone");
    }
}

#[test]
fn what_is_on_its_way_from_another_domain_is_read_after_many_commits_of_this_device() {
    let issuer = SigningKey::generate();
    let [alice, bob] = ["alice", "bob"].map(|name| person(name, &issuer));
    let id = alice.create_at("other.example");
    alice.add(&id, &[&bob]);
    let said = ["one", "two"].map(|text| bob.say(&id, text));
    let commit = || {
        let update = alice.stage(&id, &Change::Update);
        alice.confirm(&id);
        update.message
    };
    let commits: Vec<_> = (0..2 * MAX_PAST_EPOCHS).map(|_| commit()).collect();
    alice.receive(&said[0]).unwrap();
    assert_eq!(alice.texts(), ["one"]);
    // Something of a later epoch comes: nothing of before is on its way any more.
    commits.iter().for_each(|commit| bob.receive(commit).unwrap());
    alice.receive(&bob.say(&id, "after it")).unwrap();
    assert_eq!(alice.texts(), ["after it"]);
    let too_late = alice.receive(&said[1]).unwrap_err();
    assert!(too_late.contains("came so late"), "{too_late}");
    // There is an end to it, and the user is told of that, too.
    let late = bob.say(&id, "late");
    for _ in 0..=MOST_PAST_EPOCHS {
        commit();
    }
    let too_late = alice.receive(&late).unwrap_err();
    assert!(too_late.contains("came so late"), "{too_late}");
    // A commit of another member shows as much.
    let id = alice.create_at("other.example");
    alice.add(&id, &[&bob]);
    let kept = || alice.store.read(|tx| GroupState::load(tx, &id)?.opens_from(tx)).unwrap();
    for _ in 0..=MAX_PAST_EPOCHS {
        let update = alice.stage(&id, &Change::Update);
        alice.confirm(&id);
        bob.receive(&update.message).unwrap();
    }
    assert_eq!(kept(), 0);
    let update = bob.stage(&id, &Change::Update);
    bob.confirm(&id);
    alice.receive(&update.message).unwrap();
    assert_eq!(kept(), alice.epoch(&id) - MAX_PAST_EPOCHS as u64);
}

#[test]
fn what_comes_while_a_welcome_waits_is_read_once_it_takes_effect() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let leaf_key = carol.offer_to(&alice);
    let added = alice.stage(&id, &Change::Add(vec![leaf_key]));
    alice.confirm(&id);
    bob.receive(&added.message).unwrap();
    let (welcome, tree) = (added.welcome.as_ref().unwrap(), alice.tree(&id));
    let one = alice.say(&id, "one");
    assert!(carol.receive(&one).is_err(), "she waits for no group");
    carol.store.write(|tx| join_later(tx, &id, welcome)).unwrap();
    let update = bob.stage(&id, &Change::Update);
    bob.confirm(&id);
    alice.receive(&update.message).unwrap();
    let two = bob.say(&id, "two");
    let elsewhere = bob.create();
    let other = bob.say(&elsewhere, "not for her");
    assert!(carol.receive(&other).is_err(), "no Welcome to that group waits");
    let never = Welcome::new(b"nothing opens it".to_vec());
    carol.store.write(|tx| join_later(tx, &elsewhere, &never)).unwrap();
    for message in [&one, &update.message, &other, &two] {
        carol.receive(message).unwrap();
    }
    assert_eq!(carol.store.write(|tx| Ok(join_at_last(tx, welcome, Some(&tree)).unwrap())).unwrap(), id);
    let early = carol.store.write(|tx| take_early(tx, &id)).unwrap();
    assert_eq!(early, [one, update.message, two]);
    early.iter().for_each(|message| carol.receive(message).unwrap());
    assert_eq!(carol.texts(), ["one", "two"]);
    assert_eq!(carol.epoch(&id), alice.epoch(&id));
    // Messages that are not read are told of, once nothing leads there any more.
    let ignored = || {
        carol.store.write(forget_early).unwrap();
        carol.events().iter().filter(|event| matches!(event, Event::Ignored { .. })).count()
    };
    assert_eq!(ignored(), 0);
    assert!(carol.store.write(|tx| Ok(join_at_last(tx, &never, None).is_err())).unwrap());
    assert_eq!((ignored(), ignored()), (1, 0));
    assert!(carol.store.write(|tx| take_early(tx, &elsewhere)).unwrap().is_empty());
}

#[test]
fn what_came_early_is_read_also_where_the_group_is_joined_in_the_ordinary_way() {
    let Trio { alice, bob, id, .. } = Trio::alone();
    let leaf_key = bob.offer_to(&alice);
    let added = alice.stage(&id, &Change::Add(vec![leaf_key]));
    alice.confirm(&id);
    let (welcome, tree) = (added.welcome.unwrap(), alice.tree(&id));
    bob.store.write(|tx| join_later(tx, &id, &welcome)).unwrap();
    for text in ["one", "two"] {
        bob.receive(&alice.say(&id, text)).unwrap();
    }
    // As after a restore of his homeserver, and now the tree is there.
    let (again, tree) = (QueuePayload::Welcome(welcome), Tree::Fetched(tree));
    let options = Options::default();
    let take = |tx: &Tx<'_>| take_effect(tx, &options, QueueKind::Group, &again, Some(&tree));
    bob.store.write(|tx| Ok(told(tx.attempt(|| take(tx))))).unwrap().unwrap();
    assert_eq!(bob.texts(), ["one", "two"]);
}

#[test]
fn a_welcome_that_waits_is_tried_again_soon_once_messages_of_its_group_come() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    let elsewhere = alice.create();
    for id in [&id, &elsewhere] {
        for _ in 0..5 {
            let welcome = Welcome::new(id.to_mls());
            carol.store.write(|tx| join_later(tx, id, &welcome)).unwrap();
        }
    }
    let due_in = |id: &GroupId| {
        let sql = "SELECT due FROM welcomes WHERE group_id = ?1";
        let due =
            |tx: &Tx<'_>| Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get::<_, u64>(0))? - tx.now());
        carol.store.read(due).unwrap()
    };
    let half_a_minute = 30;
    assert!(due_in(&id) > half_a_minute, "it was tried in vain for five times");
    carol.receive(&alice.say(&id, "one")).unwrap();
    assert!(due_in(&id) < half_a_minute);
    // Another message does not put it off.
    carol.store.write(|tx| try_again(tx, &id)).unwrap();
    carol.receive(&alice.say(&id, "two")).unwrap();
    assert_eq!(carol.store.read(late_welcomes).unwrap().len(), 1);
    assert!(due_in(&elsewhere) > half_a_minute, "nothing came of that one");
}

#[test]
fn messages_of_other_groups_take_no_room_of_one_whose_welcome_waits() {
    let Trio { issuer, alice, carol, id, .. } = Trio::alone();
    let mallory = person("mallory", &issuer);
    let waits = |id: &GroupId| {
        let welcome = Welcome::new(id.to_mls());
        carol.store.write(|tx| join_later(tx, id, &welcome)).unwrap();
    };
    let made_up = mallory.create();
    let (one, other) = (alice.say(&id, "one"), mallory.say(&made_up, "other"));
    waits(&id);
    assert!(carol.receive(&other).is_err(), "it is told, and takes no room");
    // Groups of another family of domains with Welcomes whose trees nobody hands out have a half of the room together.
    let theirs = [(1, "evil.example"), (2, "more.evil.example")];
    let theirs = theirs.map(|(number, domain)| GroupId::new([number; 16], domain.parse().unwrap()));
    theirs.iter().for_each(waits);
    let fill = |id: &GroupId| {
        let keep = |tx: &Tx<'_>| (0..2000).take_while(|_| keep_early(tx, id, &other).unwrap()).count();
        carol.store.write(|tx| Ok(keep(tx))).unwrap()
    };
    assert_eq!(theirs.each_ref().map(fill), [1000, 1000]);
    carol.receive(&one).unwrap();
    assert_eq!(fill(&id), 1999);
}

#[test]
fn welcomes_of_a_family_of_domains_that_wait_displace_its_own_and_none_of_one_with_fewer() {
    let carol = person("carol", &SigningKey::generate());
    // Each is known by its first byte.
    let waits = |domain: &str, numbers: std::ops::Range<u8>| {
        for number in numbers {
            let id = GroupId::new([number; 16], domain.parse().unwrap());
            let welcome = Welcome::new([&[number][..], domain.as_bytes()].concat());
            carol.store.write(|tx| join_later(tx, &id, &welcome)).unwrap();
        }
    };
    let waiting = |family: &str| -> Vec<u8> {
        let welcomes = carol.store.read(|tx| {
            let sql = "SELECT welcome FROM welcomes WHERE family = ?1 ORDER BY rowid";
            let mut statement = tx.sql().prepare(sql)?;
            let welcomes = statement.query_map([family], |row| row.get(0))?;
            Ok(welcomes.collect::<Result<Vec<Vec<u8>>, _>>()?)
        });
        welcomes.unwrap().iter().map(|welcome| welcome[0]).collect()
    };
    waits("b.example", 0..3);
    waits("evil.example", 0..150);
    assert_eq!(waiting("b.example"), [0u8, 1, 2], "they came first, and are fewer");
    assert_eq!(waiting("evil.example"), (53..150u8).collect::<Vec<_>>());
    // Others come in at the cost of those that are the most.
    waits("c.example", 0..2);
    assert_eq!(waiting("c.example"), [0u8, 1]);
    assert_eq!(waiting("evil.example"), (55..150u8).collect::<Vec<_>>());
    // One that is tried again keeps its place, and takes no room.
    waits("b.example", 0..1);
    waits("evil.example", 55..56);
    assert_eq!(waiting("b.example"), [0u8, 1, 2]);
    assert_eq!(waiting("c.example"), [0u8, 1]);
    assert_eq!(waiting("evil.example"), (55..150u8).collect::<Vec<_>>());
    // Names below one are of the same family, however many they are.
    for number in 150..250u8 {
        waits(&format!("n{number}.evil.example"), number..number + 1);
    }
    assert_eq!(waiting("b.example"), [0u8, 1, 2]);
    assert_eq!(waiting("c.example"), [0u8, 1]);
    assert_eq!(waiting("evil.example"), (155..250u8).collect::<Vec<_>>());
}

#[test]
fn a_welcome_with_a_tree_of_its_own_makes_up_no_group_and_keeps_nobody_out_of_the_true_one() {
    let Trio { issuer, alice, bob, id, .. } = Trio::alone();
    let mallory = person("mallory", &issuer);
    // A group of the same id that no DS has.
    let reserved = GroupIdReserved { group_id: id.clone(), server_key: SigningKey::generate().public_key() };
    let create = |tx: &Tx<'_>| GroupState::create(tx, &reserved, "climbing", &delivery()).map(drop);
    mallory.store.write(create).unwrap();
    mallory.confirm(&id);
    let leaf_key = bob.offer_to(&mallory);
    let welcome = mallory
        .store
        .write(|tx| {
            let mut group = GroupState::load(tx, &id)?;
            let signer = LeafSigner(&group.leaf);
            let added = crate::key_packages::reserve_key_package(tx, &id, &leaf_key)?;
            let builder = group.mls.commit_builder().propose_adds([added]);
            let staged = builder.load_psks(tx.storage()).unwrap().use_ratchet_tree_extension(true);
            let built = staged.build(tx.rand(), tx.crypto(), &signer, |_| true).unwrap();
            let (_, welcome, _) = built.stage_commit(tx).unwrap().into_messages();
            let welcome = Welcome::new(mls::message_bytes(&welcome.unwrap())?);
            group.mls.merge_pending_commit(tx).unwrap();
            Ok(welcome)
        })
        .unwrap();
    for tree in [None, Some(mallory.tree(&id))] {
        assert!(bob.join(&welcome, tree.as_ref()).is_err());
    }
    let (payload, options) = (QueuePayload::Welcome(welcome), Options::default());
    let take = |tx: &Tx<'_>| take_effect(tx, &options, QueueKind::Group, &payload, Some(&Tree::Missing));
    assert!(bob.store.write(|tx| Ok(told(tx.attempt(|| take(tx))))).unwrap().is_err());
    let found = bob.store.read(|tx| GroupState::load(tx, &id).map(drop));
    assert!(matches!(found, Err(Error::UnknownGroup(_))), "{found:?}");
    alice.add(&id, &[&bob]);
    bob.receive(&alice.say(&id, "here you are")).unwrap();
    assert_eq!(bob.texts(), ["here you are"]);
}

#[test]
fn bytes_from_nobody_have_no_effect() {
    let Trio { issuer, alice, id, .. } = Trio::alone();
    for bytes in [vec![], vec![0; 64], b"\x00\x01\x00\x02garbage".to_vec()] {
        assert!(alice.receive(&MlsMessage::new(bytes.clone())).is_err());
        assert!(alice.join(&Welcome::new(bytes), None).is_err());
    }
    let stranger = person("eve", &issuer);
    let elsewhere = stranger.create();
    let foreign = stranger.say(&elsewhere, "hi");
    assert!(alice.receive(&foreign).is_err());
    assert_eq!(alice.epoch(&id), 0);
}
