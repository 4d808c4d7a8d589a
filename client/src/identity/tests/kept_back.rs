//! An AS keeps back states that a user's devices tell, or shows nothing of a user that holds: readers find that out.

use postern_protocol::problem::{Problem, ProblemType};

use super::*;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// Alice with a phone and a laptop, and Bob, who saw both.
async fn with_laptop() -> (Device, Device, As, Device) {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
    (phone, laptop, server, bob)
}

/// A device tells a state of Alice's identity.
fn hears(reader: &Device, teller: &Device, told: &EidState) {
    reader.write(|tx| claims::told(tx, &alice(), &teller.public_key(), told));
}

fn seen_by(reader: &Device) -> EidState {
    reader.write(|tx| known::known(tx, &alice())).unwrap().eid
}

/// How often the reader was told that the AS shows nothing that holds of Alice.
fn hidden_from(reader: &Device) -> usize {
    let hidden = Event::IdentityHidden { user: alice() };
    reader.events().iter().filter(|event| **event == hidden).count()
}

#[tokio::test]
async fn what_a_device_tells_is_not_forgotten_for_an_answer_that_does_not_hold() {
    let (phone, laptop, mut server, bob) = with_laptop().await;
    let removal = phone.make(&Change::Remove(&laptop.public_key()));
    server.accept(&phone, &removal);
    hears(&bob, &phone, &phone.write(own_state));
    assert_eq!(bob.write(claims::claimed), [alice()]);
    for error in [
        Error::from(Problem::new(ProblemType::NotFound)),
        Error::Identity(IdentityError::RolledBack),
        Error::Identity(IdentityError::Ticket("it is old")),
        Error::unexpected("nonsense"),
        Error::NoToken(ProblemType::NotAllowed.into()),
    ] {
        bob.write(|tx| claims::asked_in_vain(tx, &alice(), &error));
        assert_eq!(bob.write(claims::claimed), [], "not with the next errands: {error}");
        bob.write(|tx| claims::pass_time(tx, HOUR));
        assert_eq!(bob.write(claims::claimed), [alice()], "{error}");
    }
    let away = postern_api::Error::Relay {
        side: postern_api::Side::Pipe,
        problem: ProblemType::HomeserverUnreachable.into(),
    };
    let away = Error::from(away);
    for _ in 0..100 {
        bob.write(|tx| claims::asked_in_vain(tx, &alice(), &away));
    }
    bob.write(|tx| claims::pass_time(tx, HOUR));
    assert_eq!(bob.write(claims::claimed), [alice()], "an outage makes no difference");

    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    assert_eq!(bob.events(), [Event::DeviceRemoved { user: alice(), device: laptop.public_key() }]);
    bob.write(|tx| claims::pass_time(tx, 100 * DAY));
    assert_eq!(bob.write(claims::claimed), []);

    // A reset was told, and says more.
    let ahead = EidState { epoch: 1_000, ..seen_by(&bob) };
    for error in [IdentityError::Reset, IdentityError::Split] {
        hears(&bob, &phone, &ahead);
        assert_eq!(bob.write(claims::claimed), [alice()]);
        bob.write(|tx| claims::asked_in_vain(tx, &alice(), &Error::Identity(error)));
        bob.write(|tx| claims::pass_time(tx, 100 * DAY));
        assert_eq!(bob.write(claims::claimed), []);
    }
}

#[tokio::test]
async fn a_device_whose_credential_the_as_leaves_out_is_heard_all_the_same() {
    for is_left_out_before in [true, false] {
        let (_phone, laptop, mut server, bob) = with_laptop().await;
        let old = server.log.clone();
        server.update(&laptop);
        let told = laptop.write(own_state);
        let new = std::mem::replace(&mut server.log, old);
        let all = server.clients.clone();
        if is_left_out_before {
            server.clients.pop();
            sees(&server, &bob).await.unwrap();
            assert!(!is_confirmed(&bob, &laptop));
        }
        hears(&bob, &laptop, &told);
        assert_eq!(bob.write(claims::claimed), [alice()], "{is_left_out_before}");
        if !is_left_out_before {
            server.clients.pop();
        }
        for expected in [0, 1] {
            sees(&server, &bob).await.unwrap();
            assert_eq!(splits(&bob), expected, "{is_left_out_before}");
        }
        assert_eq!(bob.write(claims::claimed), []);
        (server.log, server.clients) = (new, all);
        assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
        assert_eq!((splits(&bob), seen_by(&bob)), (1, told));
    }
}

#[tokio::test]
async fn nobody_speaks_for_a_user_but_devices_that_are_the_users() {
    let (phone, laptop, mut server, bob) = with_laptop().await;
    let mut tablet = Device::new(&alice());
    server.add(&phone, &mut tablet);
    let removal = phone.make(&Change::Remove(&laptop.public_key()));
    server.accept(&phone, &removal);
    assert_eq!(sees(&server, &bob).await.unwrap(), [phone.public_key()]);
    let ahead = EidState { epoch: 1_000, ..seen_by(&bob) };
    let stranger = Device::new(&alice());
    for (what, device) in [("added", &tablet), ("removed", &laptop), ("made up", &stranger)] {
        hears(&bob, device, &ahead);
        assert_eq!(bob.write(claims::claimed), [], "{what}");
    }
    hears(&bob, &phone, &ahead);
    assert_eq!(bob.write(claims::claimed), [alice()]);
}

#[tokio::test]
async fn a_device_that_tells_ever_other_states_has_the_as_asked_ever_more_seldom() {
    let lies: [fn(u8, EidState) -> EidState; 2] = [
        |number, seen| EidState { epoch: 100 + u64::from(number), ..seen },
        |number, seen| EidState { transcript: Transcript::new([number; 32]), ..seen },
    ];
    for lie in lies {
        let (phone, server, bob) = world();
        sees(&server, &bob).await.unwrap();
        let seen = seen_by(&bob);
        let mut looks = 0;
        for number in 0..50 {
            hears(&bob, &phone, &lie(number, seen));
            while !bob.write(claims::claimed).is_empty() {
                sees(&server, &bob).await.unwrap();
                looks += 1;
            }
        }
        assert!((1..6).contains(&looks), "{looks}");
        bob.write(|tx| claims::pass_time(tx, DAY));
        assert_eq!(bob.write(claims::claimed), [alice()], "not never");
    }
}

#[tokio::test]
async fn that_the_as_shows_nothing_that_holds_for_a_day_is_told_once_each_time() {
    let (_phone, server, bob) = world();
    let lie = || {
        let ticket = server.ticket(server.log.current.state.eid, now() - HOUR);
        server.lie(move |record| record.ticket = ticket.clone());
    };
    let fails = async |after: u64| {
        bob.write(|tx| hidden::pass_time(tx, after));
        assert_eq!(refusal(&server, &bob).await, IdentityError::Ticket("it is old"));
        hidden_from(&bob)
    };
    lie();
    for _ in 0..5 {
        assert_eq!(fails(DAY).await, 0, "nobody was seen who could be hidden");
    }
    server.be_honest();
    sees(&server, &bob).await.unwrap();
    for before in [0, 1] {
        lie();
        assert_eq!(fails(0).await, before);
        for _ in 0..20 {
            assert_eq!(fails(HOUR).await, before, "it may pass");
        }
        server.be_honest();
        sees(&server, &bob).await.unwrap();

        // A day begins with the first failure after that.
        lie();
        for after in [0, DAY, 0, 0] {
            assert_eq!(fails(after).await, before, "failures count that are an hour apart");
        }
        assert_eq!(fails(HOUR).await, before + 1);
        assert_eq!(fails(DAY).await, before + 1, "once");
        server.be_honest();
        sees(&server, &bob).await.unwrap();
    }
}
