//! Lookups: what the AS shows of the present is verified, and what is forged is refused.

use postern_protocol::{
    Payload,
    profile::{Profile, SignedProfile},
};

use super::*;

#[tokio::test]
async fn a_reader_goes_on_from_what_it_saw_and_asks_for_no_more() {
    let (phone, mut server, bob) = world();
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let both = sees(&server, &bob).await.unwrap();
    assert_eq!(both, [phone.public_key(), laptop.public_key()]);
    server.update(&laptop);
    sees(&server, &bob).await.unwrap();
    sees(&server, &bob).await.unwrap();
    assert_eq!(*server.asked.lock().unwrap(), [None, Some((0, 0)), Some((0, 2)), Some((0, 3))]);
    let added = Event::DeviceAdded { user: alice(), device: laptop.public_key() };
    assert_eq!(bob.events(), [added], "told once");
    assert!(is_confirmed(&bob, &laptop));
    let known = bob.write(|tx| known::known(tx, &alice())).unwrap();
    assert_eq!(known.eid, laptop.write(own_state), "all see the same");
    assert_eq!((known.founder, known.reset_pending), (phone.public_key(), false));
}

#[tokio::test]
async fn a_first_lookup_needs_no_history() {
    let (phone, mut server, bob) = world();
    for _ in 0..5 {
        server.update(&phone);
    }
    sees(&server, &bob).await.unwrap();
    assert_eq!(*server.asked.lock().unwrap(), [None]);
}

#[tokio::test]
async fn a_device_is_no_client_until_it_confirms_itself() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.add(&phone, &mut laptop);
    assert!(laptop.write(|tx| eid::is_pending(tx, &laptop.account)));
    // An AS that gives it a credential all the same.
    server.vouch_for(&laptop);
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    assert!(!is_confirmed(&bob, &laptop));
    server.update(&laptop);
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
    assert!(is_confirmed(&bob, &laptop));
}

#[tokio::test]
async fn a_device_that_is_no_client_yet_changes_nothing_but_itself() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let mut laptop = Device::new(&alice());
    server.add(&phone, &mut laptop);
    // A server that lets it.
    let removal = laptop.make(&Change::Remove(&phone.public_key()));
    laptop.write(|tx| laptop.group(tx).merge_pending_commit(tx).map_err(Error::mls("it is its own")));
    server.append(&laptop, &removal);
    assert_eq!(refusal(&server, &bob).await, IdentityError::Split);
}

#[tokio::test]
async fn a_removed_device_is_nobodys_from_the_next_lookup_on() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    sees(&server, &bob).await.unwrap();
    assert!(is_confirmed(&bob, &laptop));
    let removal = phone.make(&Change::Remove(&laptop.public_key()));
    server.accept(&phone, &removal);
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    assert!(!is_confirmed(&bob, &laptop));
    assert_eq!(bob.events(), [Event::DeviceRemoved { user: alice(), device: laptop.public_key() }]);
}

#[tokio::test]
async fn a_device_whose_credential_ended_hides_itself_and_nobody_else() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    server.clients[1].credential = server.credential(laptop.public_key(), now() - 1);
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    assert!(!is_confirmed(&bob, &laptop));
    server.clients[1].credential = server.credential(laptop.public_key(), FAR);
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
    assert_eq!(bob.events(), [], "nothing happened to the user's devices");
}

#[tokio::test]
async fn a_ghost_among_the_clients_is_refused() {
    let (_phone, server, bob) = world();
    let ghost = server.credential(SigningKey::generate().public_key(), FAR);
    server.lie(move |record| {
        record.clients.push(ClientRecord { credential: ghost.clone(), contact: None });
    });
    assert_eq!(refusal(&server, &bob).await, IdentityError::NotADevice);
}

#[tokio::test]
async fn a_substituted_contact_or_issuer_is_refused() {
    let (_phone, server, bob) = world();
    let other = SigningKey::generate();
    let contact = SignedContact::sign(
        alice().domain().clone(),
        Address::new([9; 32]),
        HpkePublicKey::new([9; 32]),
        &other,
    );
    server.lie(move |record| record.clients[0].contact = Some(contact.clone()));
    assert_eq!(refusal(&server, &bob).await, IdentityError::Contact);
    let (_phone, mut server, bob) = world();
    let honest = std::mem::replace(&mut server.issuer, SigningKey::generate());
    let eid = server.log.current.state.eid;
    let ticket = server.ticket(eid, now());
    server.lie(move |record| record.ticket = ticket.clone());
    assert_eq!(refusal(&server, &bob).await, IdentityError::Credential);
    server.issuer = honest;
    server.be_honest();
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_ghost_that_enters_by_itself_is_found() {
    let (_phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let ghost = enters_by_itself(&mut server);
    assert_eq!(refusal(&server, &bob).await, IdentityError::Split);
    assert!(!is_confirmed(&bob, &ghost));
    assert_eq!(splits(&bob), 1);
}

#[tokio::test]
async fn a_new_device_goes_on_from_what_another_one_of_its_user_saw() {
    let (phone, mut server, bob) = world();
    let profile = Profile {
        incarnation: 0,
        version: 1,
        discoverable: true,
        display_name: "Alice".to_owned(),
        text: String::new(),
        picture: None,
        sealed: Payload::default(),
    };
    let signed = SignedProfile::sign(&server.log.current.founding, profile, &phone.key());
    server.lie(move |record| record.profile = Some(signed.clone()));
    sees(&server, &bob).await.unwrap();
    let pins = bob.write(|tx| handover::pins(tx, Vec::new(), &[alice()]));
    let [laptop, tablet] = [(); 2].map(|()| Device::new(&bob.account.user));
    for device in [&laptop, &tablet] {
        device.write(|tx| handover::take_over_pins(tx, pins.clone()));
    }
    server.asked.lock().unwrap().clear();
    assert_eq!(sees(&server, &laptop).await.unwrap(), [phone.public_key()]);
    assert_eq!(*server.asked.lock().unwrap(), [Some((0, 0))]);
    assert_eq!(laptop.events(), [], "a profile is no news for that");
    // The AS shows the other one a ghost that came later.
    let ghost = enters_by_itself(&mut server);
    assert_eq!(refusal(&server, &tablet).await, IdentityError::Split);
    assert!(!is_confirmed(&tablet, &ghost));
}

#[tokio::test]
async fn an_older_state_is_refused_and_changes_nothing() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    let old = server.log.clone();
    server.update(&phone);
    sees(&server, &bob).await.unwrap();
    let new = std::mem::replace(&mut server.log, old);
    assert_eq!(refusal(&server, &bob).await, IdentityError::RolledBack);
    server.log = new;
    sees(&server, &bob).await.unwrap();
    assert_eq!(bob.events(), []);
}

#[tokio::test]
async fn each_part_of_the_present_state_is_signed() {
    let (phone, mut server, bob) = world();
    server.update(&phone);
    let stolen = SigningKey::generate();
    let current = server.log.current.clone();
    let founding = Founding { founder: current.founder, transcript: current.founding };
    let by_another = SignedState::sign(&alice(), &founding, current.state.eid, &current.group_info, &stolen);
    let beginning = server.log.founding.clone();
    let forgeries: Vec<Box<dyn Fn(&mut UserRecord) + Send + Sync>> = vec![
        Box::new(|record| record.current.founder = PublicKey::new([9; 32])),
        Box::new(|record| record.current.founding = Transcript::new([9; 32])),
        Box::new(|record| record.current.state.eid.transcript = Transcript::new([9; 32])),
        Box::new(|record| record.current.state.eid.epoch = 2),
        Box::new(|record| record.incarnation = 1),
        Box::new(|record| record.ended.push(Transcript::new([9; 32]))),
        Box::new(move |record| record.current.state = by_another.clone()),
        Box::new(move |record| record.current.group_info = beginning.group_info.clone()),
    ];
    for (place, forgery) in forgeries.into_iter().enumerate() {
        *server.lie.lock().unwrap() = Some(forgery);
        let error = refusal(&server, &bob).await;
        assert!(matches!(error, IdentityError::State | IdentityError::History(_)), "{place}: {error}");
    }
    server.be_honest();
    sees(&server, &bob).await.unwrap();
}

#[tokio::test]
async fn a_ticket_is_of_this_state_signed_by_the_as_fresh_and_never_goes_back() {
    let (phone, mut server, bob) = world();
    let early = server.log.current.state.eid;
    server.update(&phone);
    let eid = server.log.current.state.eid;
    let by_another = FreshnessTicket::issue(
        alice(),
        eid,
        server.ticket(eid, now()).tree_hash,
        now(),
        &SigningKey::generate(),
    );
    for (what, ticket) in [
        ("of another state", server.ticket(early, now())),
        ("by another key", by_another),
        ("an hour old", server.ticket(eid, now() - 3600)),
        ("of a time to come", server.ticket(eid, now() + 3600)),
    ] {
        server.lie(move |record| record.ticket = ticket.clone());
        let error = refusal(&server, &bob).await;
        assert!(matches!(error, IdentityError::Ticket(_)), "{what}: {error}");
    }
    // Clocks differ.
    for time in [now() - 240, now() + 240] {
        let ticket = server.ticket(eid, time);
        server.lie(move |record| record.ticket = ticket.clone());
        sees(&server, &bob).await.unwrap();
    }
    let ticket = server.ticket(eid, now());
    server.lie(move |record| record.ticket = ticket.clone());
    let error = refusal(&server, &bob).await;
    assert_eq!(error, IdentityError::Ticket("it is older than one that was seen"));
}

#[tokio::test]
async fn a_ticket_that_was_seen_while_clocks_were_ahead_is_newer_than_nothing_once_they_are_right() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let seen_at = |time: u64| {
        let time = i64::try_from(time).unwrap();
        bob.write(|tx| Ok(tx.sql().execute("UPDATE eids SET seen = ?1", [time])?));
    };
    let old = server.log.clone();
    server.update(&phone);
    for ahead in [3600, 365 * 24 * 3600] {
        seen_at(now() + ahead);
        sees(&server, &bob).await.unwrap();
        // From then on no older one will do.
        let ticket = server.ticket(server.log.current.state.eid, now() - 240);
        server.lie(move |record| record.ticket = ticket.clone());
        let error = refusal(&server, &bob).await;
        assert_eq!(error, IdentityError::Ticket("it is older than one that was seen"));
        server.be_honest();
    }
    // No clock makes a difference to what was seen of the identity.
    seen_at(now() + 3600);
    let new = std::mem::replace(&mut server.log, old);
    assert_eq!(refusal(&server, &bob).await, IdentityError::RolledBack);
    server.log = new;
    // One that is ahead by less than clocks differ counts.
    seen_at(now() + 240);
    let error = refusal(&server, &bob).await;
    assert_eq!(error, IdentityError::Ticket("it is older than one that was seen"));
}

#[tokio::test]
async fn a_device_of_one_user_is_not_shown_as_anothers() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let eves = with_stolen_device(&laptop);
    let eve = eves.name.clone();
    // To a reader who does not know whose it is, it is nobody's: it never said that it is Eve's.
    let found = look_up(&eves, &bob.store, &eve).await.unwrap();
    assert!(found.clients.iter().all(|client| client.client_key != laptop.public_key()));
    assert_eq!(bob.write(|tx| confirmed(tx, &laptop.public_key())), None);

    let carol = Device::new(&"carol@example.org".parse().unwrap());
    sees(&server, &carol).await.unwrap();
    let refused = look_up(&eves, &carol.store, &eve).await;
    assert!(matches!(refused, Err(Error::Identity(IdentityError::OtherUser))), "{refused:?}");
    assert!(is_confirmed(&carol, &laptop));
    assert_eq!(carol.write(|tx| known::known(tx, &eve)), None);
    // While the AS shows another Alice, her devices are nobody else's either.
    let mut thief = Device::new(&alice());
    let forged = As { issuer: server.issuer.clone(), ..As::with(&mut thief) };
    assert_eq!(refusal(&forged, &carol).await, IdentityError::Credential, "the thief has another issuer");
    let mut forged = forged;
    forged.clients.clear();
    forged.vouch_for(&thief);
    assert_eq!(refusal(&forged, &carol).await, IdentityError::Split);
    let refused = look_up(&eves, &carol.store, &eve).await;
    assert!(matches!(refused, Err(Error::Identity(IdentityError::OtherUser))), "{refused:?}");
    sees(&server, &carol).await.unwrap();
    assert!(is_confirmed(&carol, &laptop));
}

#[tokio::test]
async fn an_identity_begins_with_its_founder_alone() {
    let (_phone, server, bob) = world();
    server.lie(|record| record.current.founder = PublicKey::new([9; 32]));
    assert_eq!(refusal(&server, &bob).await, IdentityError::State);
}

#[tokio::test]
async fn a_leaf_with_a_former_name_counts_for_those_who_saw_the_user_have_it() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    sees(&server, &bob).await.unwrap();
    let alicia: UserName = "alicia@example.org".parse().unwrap();
    let key = RecoveryKey::generate();
    let rename = Change::Rename { to: &alicia, proof: (&key).into() };
    let commit = phone.make(&rename);
    server.accept(&phone, &commit);
    server.name = alicia.clone();
    server.clients.clear();
    server.vouch_for(&phone);
    server.vouch_for(&laptop);
    let carol = Device::new(&"carol@example.org".parse().unwrap());
    let seen_by =
        async |reader: &Device| look_up(&server, &reader.store, &alicia).await.unwrap().clients.len();
    assert_eq!((seen_by(&bob).await, seen_by(&bob).await, seen_by(&carol).await), (2, 2, 1));
    assert_eq!(
        bob.events(),
        [Event::Renamed { from: alice(), to: alicia.clone() }],
        "no device is new or gone"
    );
    assert_eq!(bob.write(|tx| confirmed(tx, &laptop.public_key())), Some(alicia.clone()));

    // The laptop follows, and takes the name with its next update.
    look_up(&server, &laptop.store, &alicia).await.unwrap();
    laptop.account = laptop.store.read(Account::load).unwrap();
    assert_eq!(laptop.account.user, alicia);
    server.update(&laptop);
    let seen = look_up(&server, &carol.store, &alicia).await.unwrap();
    assert_eq!(seen.clients.len(), 2);
    look_up(&server, &bob.store, &alicia).await.unwrap();
    assert_eq!(bob.write(|tx| known::own(tx, &alicia)).former, [], "no leaf has the old name");
}

#[tokio::test]
async fn a_silent_device_stays_its_users_after_a_change_of_name_and_while_a_reset_waits() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    sees(&server, &bob).await.unwrap();
    let is_theirs = |device: &Device| bob.write(|tx| is_device(tx, &alice(), &device.public_key()));
    let is_shown = |device: &Device| bob.write(|tx| confirmed(tx, &device.public_key())).is_some();
    // The laptop is off, and the AS shows no credential of it any more.
    server.clients.pop();
    sees(&server, &bob).await.unwrap();
    assert!(is_theirs(&laptop) && !is_shown(&laptop));

    let alicia: UserName = "alicia@example.org".parse().unwrap();
    let key = RecoveryKey::generate();
    let commit = phone.make(&Change::Rename { to: &alicia, proof: (&key).into() });
    server.accept(&phone, &commit);
    server.name = alicia.clone();
    server.clients.clear();
    server.vouch_for(&phone);
    look_up(&server, &bob.store, &alicia).await.unwrap();
    assert!(is_theirs(&laptop) && !is_shown(&laptop), "its leaf has the name of before");

    // Somebody else takes the name.
    let mut other = Device::new(&alice());
    let others = As::with(&mut other);
    assert_eq!(sees(&others, &bob).await.unwrap(), [other.public_key()]);
    assert!(is_theirs(&laptop) && is_theirs(&other));
    assert_eq!(bob.write(|tx| known::has_device(tx, &alice(), &laptop.public_key())), Some(false));

    let mut thief = Device::new(&alicia);
    server.reset(&mut thief);
    let reset = look_up(&server, &bob.store, &alicia).await.map(drop);
    assert!(matches!(reset, Err(Error::Identity(IdentityError::Reset))), "{reset:?}");
    assert!(is_theirs(&laptop) && !is_theirs(&thief), "that is the AS's word alone");
    assert_eq!(bob.write(|tx| accept_reset(tx, &alicia)), Some(alicia.clone()));
    assert!(!is_theirs(&laptop) && is_theirs(&thief));
}

#[tokio::test]
async fn a_credential_may_begin_a_little_later_and_one_of_a_time_to_come_hides_its_own_device() {
    for (later, is_good) in [(200, true), (3_600, false)] {
        let (phone, mut server, bob) = world();
        server.clients[0].credential = ClientCredential {
            user: alice(),
            client_key: phone.public_key(),
            not_before: now() + later,
            not_after: FAR,
            issuer_key: server.issuer.public_key(),
        }
        .issue(&server.issuer);
        let mut laptop = Device::new(&alice());
        server.link(&phone, &mut laptop);
        let seen = sees(&server, &bob).await.unwrap();
        assert_eq!(seen.contains(&phone.public_key()), is_good, "{later}");
        assert!(seen.contains(&laptop.public_key()), "{later}");
        server.clients[0].credential = server.credential(phone.public_key(), FAR);
        assert_eq!(sees(&server, &bob).await.unwrap().len(), 2, "it got another one");
    }
}
