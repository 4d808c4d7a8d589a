//! Users who took another name and were begun anew between two looks, in either order.

use super::*;

fn alicia() -> UserName {
    "alicia@example.org".parse().unwrap()
}

/// Has a device give its user another name, and follow that itself.
async fn rename(server: &mut As, by: &mut Device, to: &UserName) {
    let key = RecoveryKey::generate();
    let commit = by.make(&Change::Rename { to, proof: (&key).into() });
    server.accept(by, &commit);
    server.name = to.clone();
    server.clients.clear();
    server.vouch_for(by);
    look_up(&*server, &by.store, to).await.unwrap();
    by.account = by.store.read(Account::load).unwrap();
    assert_eq!(by.account.user, *to);
}

/// The reason for which a reader does not take what a server shows under a name.
async fn refusal_of(server: &As, reader: &Device, name: &UserName) -> IdentityError {
    match look_up(server, &reader.store, name).await {
        Err(Error::Identity(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn known_as(reader: &Device, name: &UserName) -> Option<known::Known> {
    reader.write(|tx| known::known(tx, name))
}

fn renamed() -> Event {
    Event::Renamed { from: alice(), to: alicia() }
}

#[tokio::test]
async fn who_took_another_name_and_then_began_anew_is_renamed_by_devices_that_are_known_and_then_reset() {
    // The new identity may have moved on by the time of the look, and the old one before and after the change of name.
    for updates in [0, 2] {
        let (mut phone, mut server, bob) = world();
        sees(&server, &bob).await.unwrap();
        bob.write(|tx| set_verified(tx, &alice(), true));
        for _ in 0..updates {
            server.update(&phone);
        }
        rename(&mut server, &mut phone, &alicia()).await;
        for _ in 0..updates {
            server.update(&phone);
        }
        let mut laptop = Device::new(&alicia());
        server.reset(&mut laptop);
        for _ in 0..updates {
            server.update(&laptop);
        }
        for _ in 0..2 {
            assert_eq!(refusal_of(&server, &bob, &alicia()).await, IdentityError::Reset);
            server.update(&laptop);
        }
        let reset = Event::IdentityReset { user: alicia(), name: None };
        assert_eq!(bob.events(), [renamed(), reset], "{updates}");
        assert_eq!(known_as(&bob, &alice()), None);
        let known = known_as(&bob, &alicia()).unwrap();
        assert_eq!(known.founder, phone.public_key());
        assert!(known.reset_pending && !known.verified);
        assert!(!is_confirmed(&bob, &phone) && !is_confirmed(&bob, &laptop));

        assert_eq!(bob.write(|tx| accept_reset(tx, &alicia())), Some(alicia()));
        let seen = look_up(&server, &bob.store, &alicia()).await.unwrap();
        assert_eq!(seen.clients.len(), 1);
        assert_eq!(bob.write(|tx| confirmed(tx, &laptop.public_key())), Some(alicia()));
    }
}

#[tokio::test]
async fn who_began_anew_and_then_took_another_name_stays_the_one_of_before_until_a_person_accepts_both() {
    for (looks_between, accepts_as) in [(false, alicia()), (true, alice())] {
        let (phone, mut server, bob) = world();
        sees(&server, &bob).await.unwrap();
        bob.write(|tx| set_verified(tx, &alice(), true));
        let mut laptop = Device::new(&alice());
        server.reset(&mut laptop);
        let mut events = Vec::new();
        if looks_between {
            assert_eq!(refusal(&server, &bob).await, IdentityError::Reset);
            events.push(Event::IdentityReset { user: alice(), name: None });
        }
        rename(&mut server, &mut laptop, &alicia()).await;
        events.push(Event::IdentityReset { user: alice(), name: Some(alicia()) });
        for _ in 0..2 {
            assert_eq!(refusal_of(&server, &bob, &alicia()).await, IdentityError::Reset);
            server.update(&laptop);
        }
        assert_eq!(bob.events(), events, "told once");
        assert_eq!(known_as(&bob, &alicia()), None, "nobody that is known says that she is called so");
        let known = known_as(&bob, &alice()).unwrap();
        assert_eq!(known.founder, phone.public_key());
        assert!(known.reset_pending && !known.verified);
        assert!(!is_confirmed(&bob, &phone) && !is_confirmed(&bob, &laptop));
        // Nobody else who takes the name that she had is taken for her, or for a stranger.
        let mut thief = Device::new(&alice());
        let mut others = As { issuer: server.issuer.clone(), ..As::with(&mut thief) };
        others.clients.clear();
        others.vouch_for(&thief);
        assert_eq!(refusal(&others, &fork(&bob)).await, IdentityError::RolledBack);

        assert_eq!(bob.write(|tx| accept_reset(tx, &accepts_as)), Some(alicia()));
        events.push(renamed());
        assert_eq!(bob.events(), events);
        assert_eq!(known_as(&bob, &alice()), None);
        let known = known_as(&bob, &alicia()).unwrap();
        assert_eq!((known.founder, known.reset_pending), (laptop.public_key(), false));
        look_up(&server, &bob.store, &alicia()).await.unwrap();
        assert_eq!(bob.write(|tx| confirmed(tx, &laptop.public_key())), Some(alicia()));
    }
}

#[tokio::test]
async fn who_begins_as_anothers_successor_under_a_name_of_its_own_is_another_user() {
    let (phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    // No client of Alice's calls her so, neither one of before nor one of hers since.
    server.name = alicia();
    server.reset(&mut Device::new(&alicia()));
    assert_eq!(refusal_of(&server, &bob, &alicia()).await, IdentityError::OtherUser);
    assert_eq!((bob.events(), known_as(&bob, &alicia())), (Vec::new(), None));
    assert!(is_confirmed(&bob, &phone), "Alice is who she was");
}

#[tokio::test]
async fn another_user_does_not_pass_for_one_who_was_renamed_and_began_anew() {
    let (mut phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let seen = server.log.current.clone();
    // Alicia is somebody else, who began anew herself.
    let mut hers = Device::new(&alicia());
    let mut others = As { issuer: server.issuer.clone(), ..As::with(&mut hers) };
    let mut next = Device::new(&alicia());
    others.reset(&mut next);
    others.update(&next);
    others.lie(move |record| {
        record.begun = vec![seen.founding];
        record.ended = vec![seen.state.eid.transcript];
    });
    assert_eq!(refusal_of(&others, &bob, &alicia()).await, IdentityError::OtherUser);
    assert_eq!((bob.events(), known_as(&bob, &alicia())), (Vec::new(), None));
    assert!(is_confirmed(&bob, &phone), "Alice is who she was");
    others.be_honest();
    let reader = fork(&bob);
    look_up(&others, &reader.store, &alicia()).await.unwrap();
    assert_eq!(reader.events(), [], "a stranger");

    // Alice took that name herself, and a server leaves out how.
    rename(&mut server, &mut phone, &alicia()).await;
    let mut laptop = Device::new(&alicia());
    server.reset(&mut laptop);
    server.update(&laptop);
    let without_rename = server.ended[0].0.current.founding;
    server.lie(move |record| {
        record.commits.clear();
        record.ended = vec![without_rename];
    });
    assert_eq!(refusal_of(&server, &bob, &alicia()).await, IdentityError::OtherUser);
    assert_eq!(bob.events(), []);
    server.be_honest();
    assert_eq!(refusal_of(&server, &bob, &alicia()).await, IdentityError::Reset);
    assert_eq!(bob.events().len(), 2);
}
