//! Histories: resets, splits and older states, and readers that compare.

use super::*;

#[tokio::test]
async fn an_identity_with_the_same_group_id_and_another_founder_is_a_reset_that_a_person_accepts() {
    let (phone, server, bob) = world();
    sees(&server, &bob).await.unwrap();
    bob.write(|tx| set_verified(tx, &alice(), true));
    // The thief chooses the id of Alice's group.
    let mut thief = Device::new(&alice());
    let id = phone.account.eid_group_id.clone().unwrap();
    let log = found_with_id(&mut thief, &id);
    let mut forged = As { log, clients: Vec::new(), ..As::with(&mut Device::new(&alice())) };
    forged.issuer = server.issuer.clone();
    forged.vouch_for(&thief);
    assert_eq!(refusal(&forged, &bob).await, IdentityError::Split);
    assert_eq!(refusal(&forged, &bob).await, IdentityError::Reset, "whatever is asked");
    assert_eq!(splits(&bob), 1, "told once");
    assert!(!is_confirmed(&bob, &thief) && !is_confirmed(&bob, &phone));
    let known = bob.write(|tx| known::known(tx, &alice())).unwrap();
    assert!(known.reset_pending && !known.verified);
    assert_eq!(known.founder, phone.public_key());

    // The honest AS again: nothing has changed but that the other was shown.
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    assert!(is_confirmed(&bob, &phone));
    assert_eq!(bob.write(|tx| accept_reset(tx, &alice())), None, "nothing waits any more");
    assert_eq!(splits(&bob), 2);
}

fn found_with_id(device: &mut Device, id: &[u8]) -> Log {
    let (name, key) = (device.account.user.clone(), device.key());
    let (info, tree) = device.write(|tx| {
        let group = MlsGroup::builder()
            .ciphersuite(CIPHERSUITE)
            .with_group_id(openmls::group::GroupId::from_slice(id))
            .build(tx, &LeafSigner(&key), mls::credential(name.to_string().into_bytes(), key.public_key()))
            .unwrap();
        eid::describe(tx, &group, &key)
    });
    let transcript = Transcript::founded(None, &info, &tree);
    let founding = Founding { founder: key.public_key(), transcript };
    let state = SignedState::sign(&name, &founding, EidState::founded(0, transcript), &info, &key);
    Log {
        founding: FoundingIdentity { group_info: info.clone(), ratchet_tree: tree.clone() },
        commits: Vec::new(),
        current: CurrentIdentity {
            group_info: info,
            ratchet_tree: tree,
            founding: transcript,
            founder: key.public_key(),
            state,
        },
    }
}

#[tokio::test]
async fn a_reset_counts_once_a_person_accepts_it() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    server.update(&phone);
    sees(&server, &bob).await.unwrap();
    bob.write(|tx| set_verified(tx, &alice(), true));
    server.update(&phone);
    let mut laptop = Device::new(&alice());
    server.reset(&mut laptop);
    for _ in 0..2 {
        assert_eq!(refusal(&server, &bob).await, IdentityError::Reset);
        server.update(&laptop);
    }
    assert_eq!(bob.events(), [Event::IdentityReset { user: alice(), name: None }]);
    assert!(!is_confirmed(&bob, &phone) && !is_confirmed(&bob, &laptop));
    let refused = bob.store.write(|tx| set_verified(tx, &alice(), true));
    assert!(matches!(refused, Err(Error::Identity(IdentityError::Reset))));

    assert_eq!(bob.write(|tx| accept_reset(tx, &alice())), Some(alice()));
    assert!(is_confirmed(&bob, &laptop) && !is_confirmed(&bob, &phone));
    assert_eq!(sees(&server, &bob).await.unwrap(), [laptop.public_key()]);
    let known = bob.write(|tx| known::known(tx, &alice())).unwrap();
    assert_eq!((known.founder, known.eid.incarnation), (laptop.public_key(), 1));
    assert!(!known.verified && !known.reset_pending);
    // The identity before is no way back.
    let (old, _) = server.ended.pop().unwrap();
    server.log = old;
    server.clients.clear();
    assert_eq!(refusal(&server, &bob).await, IdentityError::RolledBack);
}

#[tokio::test]
async fn a_reset_that_does_not_follow_what_was_seen_is_a_split() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    sees(&server, &bob).await.unwrap();
    let mut laptop = Device::new(&alice());
    server.reset(&mut laptop);
    server.lie(|record| record.ended[0] = Transcript::new([7; 32]));
    assert_eq!(refusal(&server, &bob).await, IdentityError::State, "it was founded after another end");
    server.update(&laptop);
    assert_eq!(refusal(&server, &bob).await, IdentityError::Split);
}

#[tokio::test]
async fn commits_that_are_hidden_reordered_or_swapped_are_found() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    for _ in 0..3 {
        server.update(&phone);
    }
    let forgeries: [fn(&mut UserRecord); 4] = [
        |record| drop(record.commits.pop()),
        |record| drop(record.commits.remove(0)),
        |record| record.commits.swap(0, 1),
        |record| record.commits[2] = record.commits[1].clone(),
    ];
    for (place, forgery) in forgeries.into_iter().enumerate() {
        let reader = fork(&bob);
        server.lie(forgery);
        assert_eq!(refusal(&server, &reader).await, IdentityError::Split, "{place}");
        assert_eq!(reader.write(|tx| known::known(tx, &alice())).unwrap().eid.epoch, 0, "{place}");
        assert!(!is_confirmed(&reader, &phone));
        // The commits that were left out are there after all.
        server.be_honest();
        sees(&server, &reader).await.unwrap();
        assert!(is_confirmed(&reader, &phone));
    }
    sees(&server, &bob).await.unwrap();
    assert_eq!(bob.write(|tx| known::known(tx, &alice())).unwrap().eid.epoch, 3);
}

#[tokio::test]
async fn a_device_that_tells_of_another_beginning_shows_another_history() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    sees(&server, &bob).await.unwrap();
    let honest = server.log.current.clone();
    let founding = Founding { founder: honest.founder, transcript: honest.founding };
    for other in [
        Founding { founder: bob.public_key(), ..founding },
        Founding { transcript: Transcript::new([7; 32]), ..founding },
    ] {
        let reader = fork(&bob);
        let state = SignedState::sign(&alice(), &other, honest.state.eid, &honest.group_info, &phone.key());
        server.lie(move |record| {
            record.current.founder = other.founder;
            record.current.founding = other.transcript;
            record.current.state = state.clone();
        });
        assert_eq!(refusal(&server, &reader).await, IdentityError::Split, "{other:?}");
        assert!(!is_confirmed(&reader, &phone));
    }
}

#[tokio::test]
async fn two_histories_show_themselves_to_readers_that_compare() {
    let (phone, mut server, bob) = world();
    let carol = Device::new(&"carol@example.org".parse().unwrap());
    sees(&server, &bob).await.unwrap();
    sees(&server, &carol).await.unwrap();
    // The AS accepts one commit for Bob, and another for Carol.
    let (log, twin) = (server.log.clone(), fork(&phone));
    server.update(&phone);
    sees(&server, &bob).await.unwrap();
    let mut other = As { log, ..As::with(&mut Device::new(&alice())) };
    other.issuer = server.issuer.clone();
    other.clients = server.clients.clone();
    other.update(&twin);
    sees(&other, &carol).await.unwrap();

    let state_of = |reader: &Device| reader.write(|tx| known::known(tx, &alice())).unwrap().eid;
    let (bobs, carols) = (state_of(&bob), state_of(&carol));
    assert_eq!(bobs.epoch, carols.epoch);
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &carols)), Seen::Split);
    assert_eq!(carol.write(|tx| compare(tx, &alice(), &bobs)), Seen::Split);
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &bobs)), Seen::Same);
    let early = EidState::founded(0, server.log.current.founding);
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &early)), Seen::Same, "every epoch is kept");

    // Told by Alice's own phone in a message, again and again.
    let is_verified = || bob.write(|tx| known::known(tx, &alice())).unwrap().verified;
    let told = |told: EidState| bob.write(|tx| claims::heard(tx, &alice(), &phone.public_key(), &told));
    bob.write(|tx| set_verified(tx, &alice(), true));
    for _ in 0..2 {
        assert_eq!(told(carols), Seen::Split);
        sees(&server, &bob).await.unwrap();
        assert_eq!((splits(&bob), is_verified()), (1, false), "told once");
    }
    let again = EidState { transcript: Transcript::new([7; 32]), ..bobs };
    bob.write(|tx| set_verified(tx, &alice(), true));
    assert_eq!((told(again), is_verified()), (Seen::Split, true));
    sees(&server, &bob).await.unwrap();
    assert_eq!((splits(&bob), is_verified()), (2, false), "another one is another matter");
    bob.write(|tx| set_verified(tx, &alice(), true));
    told(again);
    sees(&server, &bob).await.unwrap();
    assert_eq!((splits(&bob), is_verified()), (3, false), "a person had said that it is settled");
    // The history that the one was shown is no way on for the other.
    server.update(&phone);
    assert_eq!(refusal(&server, &carol).await, IdentityError::Split);
}

#[tokio::test]
async fn the_word_of_a_removed_device_counts_for_nothing() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    sees(&server, &bob).await.unwrap();
    let removal = phone.make(&Change::Remove(&laptop.public_key()));
    server.accept(&phone, &removal);
    // Bob has not heard of that yet.
    let seen = bob.write(|tx| known::known(tx, &alice())).unwrap().eid;
    for told in
        [EidState { epoch: 1_000_000, ..seen }, EidState { transcript: Transcript::new([7; 32]), ..seen }]
    {
        bob.write(|tx| claims::heard(tx, &alice(), &laptop.public_key(), &told));
        assert_eq!(bob.write(claims::claimed), [alice()]);
        for _ in 0..3 {
            sees(&server, &bob).await.unwrap();
        }
        assert_eq!((splits(&bob), bob.write(claims::claimed)), (0, vec![]));
    }
    // It does not hide what the user's other device says.
    let ahead = EidState { epoch: 9, ..seen };
    bob.write(|tx| claims::heard(tx, &alice(), &phone.public_key(), &ahead));
    bob.write(|tx| claims::heard(tx, &alice(), &laptop.public_key(), &EidState { epoch: 1_000_000, ..seen }));
    for _ in 0..2 {
        sees(&server, &bob).await.unwrap();
    }
    assert_eq!(splits(&bob), 1);
}

#[tokio::test]
async fn a_newer_state_that_the_as_keeps_back_is_found() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let old = server.log.clone();
    server.update(&phone);
    let told = phone.write(own_state);
    assert_eq!(bob.write(|tx| claims::heard(tx, &alice(), &phone.public_key(), &told)), Seen::Newer);
    assert_eq!(bob.write(claims::claimed), [alice()]);
    let new = std::mem::replace(&mut server.log, old);
    for expected in [0, 1] {
        sees(&server, &bob).await.unwrap();
        assert_eq!(splits(&bob), expected, "the first lookup may have been under way");
    }
    assert_eq!(bob.write(claims::claimed), []);

    // An honest AS shows it.
    server.log = new;
    bob.write(|tx| claims::heard(tx, &alice(), &phone.public_key(), &told));
    sees(&server, &bob).await.unwrap();
    assert_eq!((splits(&bob), bob.write(claims::claimed)), (1, vec![]));
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &told)), Seen::Same);
}

#[tokio::test]
async fn an_audit_reads_the_history_back_to_the_founder_of_the_first_identity() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    server.update(&phone);
    let mut laptop = Device::new(&alice());
    server.reset(&mut laptop);
    let first = server.log.current.state.eid;
    server.update(&laptop);
    sees(&server, &bob).await.unwrap();
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &first)), Seen::Unknown);
    let found = audit(&server, &bob.store, &alice()).await.unwrap();
    assert_eq!((found.incarnations, found.commits), (2, 3));
    assert_eq!((found.founder, found.eid), (laptop.public_key(), laptop.write(own_state)));
    assert_eq!(bob.write(|tx| compare(tx, &alice(), &first)), Seen::Same, "it is known now");

    let forgeries: [fn(&mut UserRecord); 3] = [
        |record| drop(record.commits.pop()),
        |record| record.commits.reverse(),
        |record| {
            if let Some(founding) = &mut record.founding {
                founding.ratchet_tree = record.current.ratchet_tree.clone();
                founding.group_info = record.current.group_info.clone();
            }
        },
    ];
    for (place, forgery) in forgeries.into_iter().enumerate() {
        server.lie(forgery);
        let audited = audit(&server, &bob.store, &alice()).await;
        assert!(matches!(audited, Err(Error::Identity(_))), "{place}: {audited:?}");
    }
}

/// The reason for which an audit refuses what a server shows.
async fn audit_refusal(server: &As, reader: &Device) -> IdentityError {
    match audit(server, &reader.store, &alice()).await {
        Err(Error::Identity(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_audit_finds_a_ghost_that_was_in_the_identity_before_the_first_lookup() {
    let let_in_by_nobody = IdentityError::History("a commit is from nobody in it");
    let (phone, mut server, bob) = world();
    server.update(&phone);
    let ghost = enters_by_itself(&mut server);
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2, "a first lookup takes what is shown");
    assert!(is_confirmed(&bob, &ghost));
    assert_eq!(audit_refusal(&server, &bob).await, let_in_by_nobody);

    // It was in an identity that ended.
    let mut laptop = Device::new(&alice());
    server.reset(&mut laptop);
    let carol = Device::new(&"carol@example.org".parse().unwrap());
    assert_eq!(sees(&server, &carol).await.unwrap(), [laptop.public_key()]);
    assert_eq!(audit_refusal(&server, &carol).await, let_in_by_nobody);
}

#[tokio::test]
async fn an_audit_does_not_take_a_ghosts_tree_for_where_the_commits_lead() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    let before = server.log.clone();
    server.update(&phone);
    let truth = std::mem::replace(&mut server.log, before);
    // The AS shows the ghost's tree with the digest of the true history, and that history to who audits.
    let ghost = enters_by_itself(&mut server);
    let current = &mut server.log.current;
    let founding = Founding { founder: current.founder, transcript: current.founding };
    let eid = truth.current.state.eid;
    current.state = SignedState::sign(&alice(), &founding, eid, &current.group_info, &ghost.key());
    server.log.commits = truth.commits;
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
    assert_eq!(audit_refusal(&server, &bob).await, IdentityError::Split);
}

#[tokio::test]
async fn users_that_this_one_has_nothing_to_do_with_are_forgotten_after_a_while() {
    let (phone, server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let is_known = || {
        bob.write(known::forget_strangers);
        bob.write(|tx| known::known(tx, &alice())).is_some()
    };
    let long_ago = || bob.write(|tx| Ok(tx.sql().execute("UPDATE eids SET seen = 1", [])?));
    assert!(is_known(), "it was asked about her just now");
    bob.write(|tx| set_verified(tx, &alice(), true));
    long_ago();
    assert!(is_known(), "a person verified her");
    bob.write(|tx| set_verified(tx, &alice(), false));

    // A leaf in a group of his says to be hers, and the AS shows no client of hers with a credential any more.
    bob.write(|tx| {
        known::keep_clients(tx, &alice(), Which::Accepted, &[])?;
        tx.sql().execute_batch(
            "INSERT INTO groups (group_id, title, leaf_key, active, introduce, next_number, committed)
             VALUES (x'01', '', x'', 1, 0, 1, 0);
             INSERT INTO links (group_id, leaf_key, client_key, user, last_number)
             VALUES (x'01', x'02', x'03', 'alice@example.org', 0)",
        )?;
        Ok(())
    });
    let to_look_up = || bob.write(|tx| crate::group::not_seen_since(tx, 2));
    assert!(is_known(), "she is a member");
    assert_eq!(to_look_up(), [alice()]);
    let seen_at = |time: i64| bob.write(|tx| Ok(tx.sql().execute("UPDATE eids SET seen = ?1", [time])?));
    seen_at(i64::try_from(now()).unwrap());
    assert_eq!(to_look_up(), []);
    seen_at(i64::try_from(now() + 3600).unwrap());
    assert_eq!(to_look_up(), [alice()], "clocks were ahead then");
    long_ago();
    bob.write(|tx| {
        let former: [UserName; 1] = ["alicia@example.org".parse().unwrap()];
        tx.sql().execute("UPDATE eids SET former = ?1", [crate::store::encode(&former)])?;
        Ok(tx.sql().execute("UPDATE links SET user = ?1", [former[0].to_string()])?)
    });
    assert!(is_known(), "she was called so before");
    assert_eq!(to_look_up(), [alice()]);
    bob.write(|tx| Ok(tx.sql().execute("UPDATE links SET user = 'carol@example.org'", [])?));
    assert_eq!(to_look_up(), []);
    bob.write(|tx| Ok(tx.sql().execute("UPDATE links SET user = 'alice@example.org'", [])?));
    bob.write(|tx| Ok(tx.sql().execute("UPDATE groups SET active = 0", [])?));
    assert_eq!(to_look_up(), []);
    assert!(!is_known(), "he is not in it any more");
    assert!(!is_confirmed(&bob, &phone));
    assert_eq!(bob.write(|tx| known::transcripts(tx, &alice(), Which::Accepted)), []);
}

#[tokio::test]
async fn of_an_endless_history_the_last_epochs_are_remembered() {
    let (_phone, server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let last = u64::try_from(known::EPOCHS_KEPT).unwrap() + 5;
    let epochs: Vec<_> = (1..=last).map(|epoch| (epoch, Transcript::new([7; 32]))).collect();
    let kept = bob.write(|tx| {
        known::keep_transcripts(tx, &alice(), Which::Accepted, &epochs)?;
        known::transcripts(tx, &alice(), Which::Accepted)
    });
    let numbers: Vec<u64> = kept.into_iter().map(|(epoch, _)| epoch).collect();
    assert_eq!(numbers, (6..=last).collect::<Vec<_>>());
}
