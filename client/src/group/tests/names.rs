//! Titles, members' names, and their accounts.

use postern_protocol::{Attributes, Transcript, ds::LeafAttributes, eid::EidState, profile::ProfileKey};

use super::*;
use crate::{
    contact::Edition,
    group::{
        InVain,
        accounts::{EAGER, MOST_LOOKS, hint},
        attributes::{Card, CardState},
    },
    profile::SharedProfileKey,
    sealed,
    store::{decode, encode},
};

/// A link by which somebody claims the leaf of another: its client signs the leaf's key, and its own leaf
/// the client's.
pub(super) fn claim_to(thief: &Person, id: &GroupId, leaf_key: &PublicKey) -> IdentityLink {
    let account = thief.account();
    let own = thief.store.read(|tx| Ok(GroupState::load(tx, id)?.leaf)).unwrap();
    let link = IdentityLink::sign(&account.client_key(), account.credential().unwrap(), Some(id), &own);
    let signature = account.client_key().sign(&IdentityLink::client_signs(Some(id), leaf_key));
    IdentityLink { signature, ..link }
}

#[test]
fn newcomers_learn_title_and_names() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_all();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    let introduction = alice.send(&id);
    for other in [&bob, &carol] {
        other.receive(&introduction).unwrap();
        let names = other
            .store
            .read(|tx| members(tx, &GroupState::load(tx, &id)?))
            .unwrap()
            .into_iter()
            .filter_map(|member| member.user)
            .collect::<Vec<_>>();
        assert_eq!(names, [&alice, &bob, &carol].map(|person| person.user.clone()));
        let titled = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "climbing");
        assert!(other.events().iter().any(titled));
    }
}

#[test]
fn a_member_that_is_no_admin_changes_neither_title_nor_names_nor_keys_of_others() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "mallory"].map(|name| person(name, &issuer));
    let [alice, bob, mallory] = &people;
    let id = alice.create();
    let addition = alice.add(&id, &[bob]);
    drop(addition);
    let addition = alice.add(&id, &[mallory]);
    bob.receive(&addition).unwrap();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    let introduction = alice.send(&id);
    for other in [bob, mallory] {
        other.receive(&introduction).unwrap();
    }
    bob.receive(&alice.say(&id, "hello")).unwrap();
    bob.events();
    let key_of = |person: &Person| person.store.read(|tx| record_key(tx, &id)).unwrap();
    let key_before = key_of(bob);
    assert!(key_before.is_some());

    let (alices, link) = (alice.leaf(&id), claim_to(mallory, &id, &alice.leaf(&id)));
    mallory.push(
        &id,
        &Content::Introduction {
            title: "Mallory's".to_owned(),
            titled: 9,
            roster: vec![RosterEntry { leaf_key: alices, link, profile_key: None }],
            attributes_key: Some([6; 32]),
        },
    );
    bob.receive(&mallory.send(&id)).unwrap();
    let events = bob.events();
    let [Event::TitleProposed { by, title, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((by.user.as_ref(), title.as_str()), (Some(&mallory.user), "Mallory's"));
    let title = bob.store.read(|tx| crate::group::title(tx, &id)).unwrap();
    assert_eq!(title, "climbing");
    assert_eq!(key_of(bob), key_before);
    bob.receive(&alice.say(&id, "still me")).unwrap();
    let events = bob.events();
    let [Event::Message { sender, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(sender.user.as_ref(), Some(&alice.user));
}

#[test]
fn a_newcomer_takes_title_and_key_from_admins_only() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "mallory"].map(|name| person(name, &issuer));
    let [alice, bob, mallory] = &people;
    let id = alice.create();
    alice.add(&id, &[mallory]);
    let addition = alice.add(&id, &[bob]);
    mallory.receive(&addition).unwrap();
    mallory.push(
        &id,
        &Content::Introduction {
            title: "Mallory's".to_owned(),
            titled: 9,
            roster: Vec::new(),
            attributes_key: Some([6; 32]),
        },
    );
    bob.receive(&mallory.send(&id)).unwrap();
    assert_eq!(bob.store.read(|tx| crate::group::title(tx, &id)).unwrap(), "");
    assert_eq!(bob.store.read(|tx| record_key(tx, &id)).unwrap(), None);
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    bob.receive(&alice.send(&id)).unwrap();
    assert_eq!(bob.store.read(|tx| crate::group::title(tx, &id)).unwrap(), "climbing");
    assert!(bob.store.read(|tx| record_key(tx, &id)).unwrap().is_some_and(|key| key != [6; 32]));
}

#[test]
fn a_title_of_the_last_number_is_replaced_in_the_next_epoch() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_all();
    let title = |of: &Person| of.store.read(|tx| crate::group::title(tx, &id)).unwrap();
    let naming = alice.stage(&id, &Change::Admins(vec![alice.pseudonym(&id), bob.pseudonym(&id)]));
    alice.confirm(&id);
    for other in [&bob, &carol] {
        other.receive(&naming.message).unwrap();
    }
    bob.push(&id, &Content::Title { title: "zzz".to_owned(), titled: u64::MAX });
    let last = bob.send(&id);
    for other in [&alice, &carol] {
        other.receive(&last).unwrap();
        assert_eq!(title(other), "zzz");
    }
    let lost = alice.store.write(|tx| GroupState::load(tx, &id)?.call(tx, "another"));
    assert!(matches!(lost, Err(Error::TitleStays)), "nobody would take it: {lost:?}");
    assert_eq!(title(&alice), "zzz");
    assert_eq!(alice.store.read(|tx| GroupState::unsent(tx, &id)).unwrap(), 0, "nothing is said of it");
    let update = carol.stage(&id, &Change::Update);
    carol.confirm(&id);
    for other in [&alice, &bob] {
        other.receive(&update.message).unwrap();
    }
    alice.store.write(|tx| GroupState::load(tx, &id)?.call(tx, "another")).unwrap();
    let renamed = alice.send(&id);
    for other in [&bob, &carol] {
        other.receive(&renamed).unwrap();
    }
    assert_eq!([&alice, &bob, &carol].map(title), ["another"; 3]);
}

fn record_key(tx: &Tx<'_>, id: &GroupId) -> Result<Option<[u8; 32]>> {
    crate::group::record::attributes_key(tx, id)
}

#[test]
fn a_member_takes_no_other_members_name_and_is_removed_alone() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    // Carol's leaf is not known to anybody yet: nothing is there to be overwritten.
    let carol = person("carol", &issuer);
    let addition = alice.add(&id, &[&carol]);
    for other in [&bob, &mallory] {
        other.receive(&addition).unwrap();
    }
    let taken = [alice.leaf(&id), carol.leaf(&id)];
    let entry =
        |leaf_key| RosterEntry { leaf_key, link: claim_to(&mallory, &id, &leaf_key), profile_key: None };
    let roster = taken.map(entry).to_vec();
    mallory
        .push(&id, &Content::Introduction { title: String::new(), titled: 0, roster, attributes_key: None });
    bob.receive(&mallory.send(&id)).unwrap();
    let shown = bob.members(&id);
    let of = |leaf_key| shown.iter().find(|member| member.leaf_key == leaf_key).unwrap().user.as_ref();
    assert_eq!((of(taken[0]), of(taken[1])), (Some(&alice.user), None));
    assert_eq!(bob.named(&id, &mallory.user), [mallory.leaf(&id)], "whom a removal of hers would remove");
}

#[test]
fn a_name_that_was_not_confirmed_names_nobody_to_be_removed() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    assert!(alice.members(&id).iter().any(|member| member.user.as_ref() == Some(&bob.user)));
    assert_eq!(alice.named(&id, &bob.user), []);
    alice.knows(&[&bob]);
    assert_eq!(alice.named(&id, &bob.user), [bob.leaf(&id)]);
}

#[test]
fn two_admins_that_rename_at_once_end_with_one_title_everywhere() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let naming = alice.stage(&id, &Change::Admins(vec![alice.pseudonym(&id), bob.pseudonym(&id)]));
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&naming.message).unwrap();
    }
    let call = |it: &Person, title: &str| {
        it.store.write(|tx| GroupState::load(tx, &id)?.call(tx, title)).unwrap();
        it.send(&id)
    };
    let (one, two) = (call(&alice, "huts"), call(&bob, "peaks"));
    alice.receive(&two).unwrap();
    bob.receive(&one).unwrap();
    for renaming in [&two, &one] {
        mallory.receive(renaming).unwrap();
    }
    let titles = [&alice, &bob, &mallory].map(|it| it.store.read(|tx| crate::group::title(tx, &id)).unwrap());
    assert_eq!(titles, ["peaks"; 3]);
    let refused = mallory.store.write(|tx| GroupState::load(tx, &id)?.call(tx, "mine"));
    assert!(matches!(refused, Err(Error::NotAdmin)));
}

#[test]
fn what_members_say_of_their_accounts_counts_when_the_as_shows_it() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let hints = || alice.store.read(crate::group::hints).unwrap();
    for (speaker, name) in [(&bob, "robert"), (&mallory, "alicia")] {
        let name: UserName = format!("{name}@example.org").parse().unwrap();
        let mut account = speaker.account();
        account.user = name.clone();
        let credential = ClientCredential {
            user: name.clone(),
            client_key: account.client_key().public_key(),
            not_before: 0,
            not_after: u64::MAX,
            issuer_key: issuer.public_key(),
        };
        account.credential = Some(credential.issue(&issuer));
        speaker
            .store
            .write(|tx| {
                keep_identity(tx, &name);
                account.save(tx)
            })
            .unwrap();
        let said = speaker.say(&id, "I am called something else");
        alice.receive(&said).unwrap();
        let hint = MemberNews { user: speaker.user.clone(), name: Some(name.clone()) };
        assert_eq!(hints(), [hint]);
        // The lookup of the new name shows the same identity.
        alice.store.write(|tx| crate::group::was_renamed(tx, &speaker.user, &name)).unwrap();
        let told = alice.events().into_iter().any(
            |event| matches!(event, Event::MemberRenamed { user, name: new, .. } if user == speaker.user && new == name),
        );
        assert!(told, "{name}");
        assert!(hints().is_empty());
    }
}

#[test]
fn the_end_and_the_reset_of_a_members_account_are_told_once_when_the_as_shows_them() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    bob.store.write(crate::group::tell_groups_of_end).unwrap();
    alice.receive(&bob.send(&id)).unwrap();
    assert!(alice.events().is_empty(), "the AS was not asked");
    let hint = MemberNews { user: bob.user.clone(), name: None };
    assert_eq!(alice.store.read(crate::group::hints).unwrap(), [hint]);
    // Nobody has the name, but that may be between an end and a reset.
    let is_absent = || alice.store.write(|tx| crate::group::absent(tx, &bob.user)).unwrap();
    let days_pass = || {
        let sql = "UPDATE member_news SET absent = absent - 3 * 24 * 60 * 60, due = 0";
        alice.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    };
    is_absent();
    assert!(alice.store.read(crate::group::hints).unwrap().is_empty(), "not at once again");
    days_pass();
    alice.store.write(|tx| crate::group::reappeared(tx, &bob.user)).unwrap();
    is_absent();
    assert!(alice.events().is_empty(), "the user was there again");
    for _ in 0..2 {
        days_pass();
        is_absent();
    }
    alice.store.write(|tx| crate::group::was_reset(tx, &mallory.user, None)).unwrap();
    let stranger = "carol@example.org".parse().unwrap();
    alice.store.write(|tx| crate::group::was_reset(tx, &stranger, None)).unwrap();
    let events = alice.events();
    let [Event::MemberGone { user: gone, .. }, Event::MemberReset { user: reset, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((gone, reset), (&bob.user, &mallory.user));
}

#[test]
fn a_member_whom_the_as_has_not_shown_for_a_month_is_told_once_as_missing() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], _) = three(&issuer);
    let look_in_vain = || alice.store.write(|tx| crate::group::not_shown(tx, &bob.user, tx.now())).unwrap();
    let days_pass = |days: u64| {
        let sql = "UPDATE gone_members SET since = since - ?1 * 24 * 60 * 60";
        alice.store.write(|tx| Ok(tx.sql().execute(sql, [days])?)).unwrap();
    };
    look_in_vain();
    days_pass(29);
    look_in_vain();
    alice.store.write(|tx| crate::group::reappeared(tx, &bob.user)).unwrap();
    look_in_vain();
    days_pass(29);
    look_in_vain();
    assert!(alice.events().is_empty(), "the user was there in between");
    for _ in 0..2 {
        days_pass(1);
        look_in_vain();
    }
    let events = alice.events();
    let [Event::MemberMissing { user, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(user, &bob.user);
}

/// A link by which a leaf and a client say that they are one, and the client to be a user's, as no AS does.
fn made_up(id: &GroupId, user: &str, client: &SigningKey, leaf: &SigningKey) -> IdentityLink {
    let issuer = SigningKey::generate();
    let credential = ClientCredential {
        user: user.parse().unwrap(),
        client_key: client.public_key(),
        not_before: 0,
        not_after: u64::MAX,
        issuer_key: issuer.public_key(),
    };
    IdentityLink::sign(client, credential.issue(&issuer), Some(id), leaf)
}

fn some_profile_key() -> SharedProfileKey {
    SharedProfileKey { edition: Edition::default(), key: ProfileKey::generate() }
}

fn rows(person: &Person, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    person.store.read(|tx| Ok(tx.sql().query_row(&sql, [], |row| row.get(0))?)).unwrap()
}

#[test]
fn a_member_has_nobody_looked_up_for_leaves_that_are_not_in_the_group() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let kept = || ["links", "profiles", "member_news"].map(|table| rows(&bob, table));
    let unconfirmed = || bob.store.read(crate::group::unconfirmed).unwrap();
    let before = (kept(), unconfirmed());
    let entry = |number: u32| {
        let (client, leaf) = (SigningKey::generate(), SigningKey::generate());
        let link = made_up(&id, &format!("x@{number}.example"), &client, &leaf);
        RosterEntry { leaf_key: leaf.public_key(), link, profile_key: Some(some_profile_key()) }
    };
    let mut roster: Vec<_> = (0..20).map(entry).collect();
    // One is about a member that is another client.
    let leaf_key = alice.leaf(&id);
    let link = claim_to(&mallory, &id, &leaf_key);
    roster.push(RosterEntry { leaf_key, link, profile_key: Some(some_profile_key()) });
    mallory
        .push(&id, &Content::Introduction { title: String::new(), titled: 0, roster, attributes_key: None });
    bob.receive(&mallory.send(&id)).unwrap();
    assert_eq!((kept(), unconfirmed()), before);
}

#[test]
fn a_profile_key_is_kept_of_the_user_that_a_leaf_is_known_to_be() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let leaf = bob.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf)).unwrap();
    let (client, leaf_key) = (bob.account().client_key(), leaf.public_key());
    let known = made_up(&id, &bob.user.to_string(), &client, &leaf);
    let other = made_up(&id, "x@made-up.example", &client, &leaf);
    let later = alice.store.now() + 86_400;
    alice.store.write(|tx| Ok(tx.sql().execute("UPDATE links SET due = ?1", [later])?)).unwrap();
    let teller = carol.account().client_key().public_key();
    let tells = |link: &IdentityLink| {
        let key = some_profile_key();
        let by = (&teller, false);
        alice.store.write(|tx| links::told_profile_key(tx, &id, &leaf_key, link, Some(&key), by)).unwrap();
        let asks = !alice.store.read(crate::group::unconfirmed).unwrap().is_empty();
        (rows(&alice, "profiles"), asks)
    };
    let before = rows(&alice, "profiles");
    assert_eq!(tells(&other), (before, false), "the same client under another name");
    assert_eq!(tells(&known), (1, true));
}

#[test]
fn a_member_that_names_another_user_with_each_message_is_looked_up_a_few_times_and_then_ever_later() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let leaf = bob.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf)).unwrap();
    let (client, leaf_key) = (bob.account().client_key(), leaf.public_key());
    let is_due = || !alice.store.read(crate::group::unconfirmed).unwrap().is_empty();
    let ask_in_vain = || {
        let client_key = client.public_key();
        let asked = |tx: &Tx<'_>| crate::group::was_asked(tx, &client_key, &bob.user, InVain::NotShown);
        alice.store.write(asked).unwrap();
    };
    let says = |number: u32| {
        let link = made_up(&id, &format!("x@{number}.example"), &client, &leaf);
        alice
            .store
            .write(|tx| {
                links::shown(tx, &id, &leaf_key, &link)?;
                let key = some_profile_key();
                links::told_profile_key(tx, &id, &leaf_key, &link, Some(&key), (&leaf_key, true))
            })
            .unwrap();
    };
    let mut asked = 0;
    for number in 0..10 {
        says(number);
        assert_eq!(rows(&alice, "profiles"), 1, "of the name that counts");
        if is_due() {
            asked += 1;
            ask_in_vain();
            assert!(!is_due());
        }
    }
    assert_eq!((asked, rows(&alice, "member_news")), (EAGER, 0));
    let time_passes = || {
        alice.store.write(|tx| Ok(tx.sql().execute("UPDATE links SET due = 0", [])?)).unwrap();
    };
    for tried in EAGER..MOST_LOOKS {
        time_passes();
        assert!(is_due(), "{tried}");
        ask_in_vain();
    }
    time_passes();
    assert!(!is_due(), "it ends");
    says(10);
    time_passes();
    assert!(is_due(), "it told news");
    ask_in_vain();
    says(11);
    assert!(!is_due(), "but not at once");
    alice.knows(&[&bob]);
    ask_in_vain();
    let tried = "SELECT max(tried) FROM links";
    let tried: i64 = alice.store.read(|tx| Ok(tx.sql().query_row(tried, [], |row| row.get(0))?)).unwrap();
    assert_eq!(tried, 0, "the AS showed the client after all");
}

#[test]
fn a_member_whose_as_is_away_for_long_is_looked_up_once_a_day_at_least() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let client_key = bob.account().client_key().public_key();
    let leaf = bob.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf)).unwrap();
    let link = made_up(&id, "x@made-up.example", &bob.account().client_key(), &leaf);
    alice.store.write(|tx| links::shown(tx, &id, &leaf.public_key(), &link)).unwrap();
    let nowhere = "x@made-up.example".parse().unwrap();
    let pause = |in_vain| {
        let ask = |tx: &Tx<'_>| {
            crate::group::was_asked(tx, &client_key, &nowhere, in_vain)?;
            let due = "SELECT max(due) FROM links WHERE client_key = ?1";
            let due: u64 = tx.sql().query_row(due, [client_key.as_bytes()], |row| row.get(0))?;
            Ok::<_, Error>(due.saturating_sub(tx.now()))
        };
        alice.store.write(ask).unwrap()
    };
    let day = 24 * 60 * 60;
    let pauses: Vec<u64> = (0..3 * MOST_LOOKS).map(|_| pause(InVain::OutOfReach)).collect();
    let soon = pauses.iter().filter(|pause| **pause < day - 60).count();
    assert!(soon < 10 && pauses.iter().all(|pause| *pause <= day), "{pauses:?}");
    alice.store.write(|tx| Ok(tx.sql().execute("UPDATE links SET due = 0", [])?)).unwrap();
    assert_eq!(alice.store.read(crate::group::unconfirmed).unwrap().len(), 1);
    assert!(pause(InVain::NotShown) <= 60, "the outage counts for nothing");
    // Once the client is in no group any more, it can wait.
    alice.stage(&id, &Change::Remove(vec![leaf.public_key()]));
    alice.confirm(&id);
    let pauses: Vec<u64> = (0..MOST_LOOKS).map(|_| pause(InVain::OutOfReach)).collect();
    assert!(pauses.iter().all(|pause| *pause <= day), "{pauses:?}");
    let last = pause(InVain::OutOfReach);
    assert!((29 * day..=30 * day).contains(&last), "{last}");
}

#[test]
fn what_a_client_says_of_its_account_has_the_as_asked_a_few_times_at_once_and_then_ever_later() {
    let Trio { alice, bob, .. } = Trio::with_bob();
    let hints = || alice.store.read(crate::group::hints).unwrap().len();
    let in_vain = |how| {
        alice.store.write(|tx| crate::group::asked_in_vain(tx, &bob.user, how)).unwrap();
    };
    let says = |number: u32| {
        let name = format!("x@{number}.example").parse().unwrap();
        alice.store.write(|tx| hint(tx, &bob.user, Some(&name))).unwrap();
    };
    let time_passes = || {
        alice.store.write(|tx| Ok(tx.sql().execute("UPDATE member_news SET due = 0", [])?)).unwrap();
    };
    let mut asked = 0;
    for number in 0..10 {
        says(number);
        if hints() == 1 {
            asked += 1;
            in_vain(InVain::NotShown);
        }
    }
    assert_eq!((asked, hints()), (EAGER, 0));
    time_passes();
    in_vain(InVain::NotShown);
    assert_eq!(rows(&alice, "member_news"), 0, "it ends");

    says(0);
    for tried in 0..=MOST_LOOKS {
        time_passes();
        assert_eq!(hints(), 1, "{tried}");
        in_vain(InVain::OutOfReach);
    }
    assert_eq!(rows(&alice, "member_news"), 0, "it ends, too");

    // An end that was told of waits for an AS that is away.
    alice.store.write(|tx| hint(tx, &bob.user, None)).unwrap();
    for tried in 0..2 * MOST_LOOKS {
        time_passes();
        assert_eq!(hints(), 1, "{tried}");
        in_vain(InVain::OutOfReach);
    }
    for (how, is_heard) in [(InVain::OutOfReach, false), (InVain::OutOfReach, true), (InVain::NotShown, true)]
    {
        let pauses: Vec<_> = (0..2 * MOST_LOOKS).map(|before| how.pause(before, 60, is_heard)).collect();
        assert!(pauses.is_sorted() && pauses[0] < pauses[1] && pauses[1] < pauses[9], "{pauses:?}");
    }
}

#[test]
fn links_of_members_that_left_are_kept_up_to_a_bound_and_those_of_members_always() {
    let issuer = SigningKey::generate();
    let alice = person("alice", &issuer);
    let id = alice.create();
    let departed: Vec<PublicKey> = (0..links::DEPARTED + 5).map(|_| PublicKey::new(rand::random())).collect();
    alice
        .store
        .write(|tx| {
            let group = GroupState::load(tx, &id)?;
            let own = group.leaf.public_key();
            // The oldest link of all.
            links::take_number(tx, &id, &own, 1)?;
            let (client, leaf) = (SigningKey::generate(), SigningKey::generate());
            let (link, leaf_key) = (made_up(&id, "x@gone.example", &client, &leaf), leaf.public_key());
            links::told(tx, &id, &leaf_key, &link)?;
            let key = some_profile_key();
            links::told_profile_key(tx, &id, &leaf_key, &link, Some(&key), (&leaf_key, true))?;
            departed.iter().try_for_each(|leaf_key| links::take_number(tx, &id, leaf_key, 1).map(drop))?;
            links::forget_departed(tx, &group)?;
            // The number came before, as far as it is known.
            let is_kept = |leaf_key: &PublicKey| {
                Ok::<_, Error>(links::take_number(tx, &id, leaf_key, 1)? == links::Place::Before)
            };
            assert!(is_kept(&own)?);
            let kept: Vec<bool> = departed.iter().map(is_kept).collect::<Result<_>>()?;
            assert_eq!(kept.iter().filter(|kept| **kept).count(), links::DEPARTED);
            assert!(!kept[4] && kept[5], "the oldest went");
            assert!(links::client(tx, &id, &leaf_key)?.is_none());
            Ok(())
        })
        .unwrap();
    assert_eq!(rows(&alice, "profiles"), 0, "nobody names that user any more");
}

/// The domain is the name of no host: its AS is out of reach, and nothing is sent.
#[tokio::test]
async fn an_as_that_is_out_of_reach_is_asked_ever_more_seldom_and_ends_no_hint() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let [eve, nobody] =
        ["eve@xn--a.example", "bob@xn--a.example"].map(|name| name.parse::<UserName>().unwrap());
    let (session, client) = (alice.session(), bob.account().client_key());
    let counted = |table: &str, user: &UserName| -> Option<(u32, u32)> {
        let sql = format!("SELECT tried, unreached FROM {table} WHERE user = ?1");
        let find = |tx: &Tx<'_>| -> Result<Option<(u32, u32)>> {
            let mut statement = tx.sql().prepare(&sql)?;
            let mut found = statement.query_map([user.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(found.next().transpose()?)
        };
        alice.store.read(find).unwrap()
    };
    // A client says to be of there.
    let leaf = bob.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf)).unwrap();
    let link = made_up(&id, "bob@xn--a.example", &client, &leaf);
    alice.store.write(|tx| links::shown(tx, &id, &leaf.public_key(), &link)).unwrap();
    session.confirm_identities().await.unwrap();
    assert_eq!(counted("links", &nobody), Some((0, 1)));
    // Somebody said that its account ends.
    alice.store.write(|tx| hint(tx, &eve, None)).unwrap();
    for _ in 0..2 * EAGER {
        let due = "UPDATE member_news SET due = 0";
        alice.store.write(|tx| Ok(tx.sql().execute(due, [])?)).unwrap();
        session.ask_about_members().await.unwrap();
    }
    assert_eq!(counted("member_news", &eve), Some((0, 2 * EAGER)));
    // A lookup showed the client, long ago.
    let confirms = |tx: &Tx<'_>| {
        keep_identity(tx, &nobody);
        tx.sql().execute(
            "INSERT INTO identities (client_key, user) VALUES (?1, ?2)",
            rusqlite::params![client.public_key().as_bytes(), nobody.to_string()],
        )?;
        Ok(())
    };
    alice.store.write(confirms).unwrap();
    assert_eq!(counted("member_news", &nobody), None);
    session.ask_about_members().await.unwrap();
    assert_eq!(counted("member_news", &nobody), Some((0, 1)));
    let to_look_up = alice.store.read(|tx| crate::group::not_seen_since(tx, tx.now())).unwrap();
    assert_eq!(to_look_up, [], "it has its pauses from now on");
}

#[test]
fn of_members_that_were_looked_up_those_come_first_that_are_in_the_most_groups() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], _) = three(&issuer);
    let other = alice.create();
    alice.add(&other, &[&mallory]);
    let looked_up = |tx: &Tx<'_>| {
        let nobody: UserName = "aaron@example.org".parse().unwrap();
        [&bob.user, &mallory.user, &nobody].into_iter().for_each(|user| keep_identity(tx, user));
        Ok(())
    };
    alice.store.write(looked_up).unwrap();
    let users = || alice.store.read(crate::group::users_of_members).unwrap();
    assert_eq!(users(), [mallory.user.clone(), bob.user.clone()]);
    // No lookup shows any more which of them is whose device: they are members all the same.
    alice.store.write(|tx| Ok(tx.sql().execute("DELETE FROM identities", [])?)).unwrap();
    assert_eq!(users(), [bob.user.clone(), mallory.user.clone()]);
}

#[test]
fn a_card_tells_how_far_its_users_identity_has_come_once_the_client_is_confirmed() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    bob.receive(&alice.send(&id)).unwrap();
    let looked_up = |tx: &Tx<'_>| {
        keep_identity(tx, &bob.user);
        Ok(())
    };
    let leaf_key = bob.leaf(&id);
    let claims = || -> Vec<(String, Vec<u8>)> {
        let find = |tx: &Tx<'_>| -> Result<Vec<(String, Vec<u8>)>> {
            let mut statement = tx.sql().prepare("SELECT user, state FROM eid_claims")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        };
        alice.store.read(find).unwrap()
    };
    let learn = || {
        let cards = bob.shown(&id).attributes;
        alice.store.write(|tx| GroupState::load(tx, &id)?.learn(tx, &cards)).unwrap();
    };

    bob.store.write(|tx| Ok(tx.sql().execute("UPDATE eids SET epoch = 5", [])?)).unwrap();
    learn();
    assert!(claims().is_empty(), "whether he is Bob is not known");
    alice.store.write(looked_up).unwrap();
    alice.knows(&[&bob]);
    alice.store.write(crate::group::hear_states).unwrap();
    let eid = EidState { incarnation: 0, epoch: 5, transcript: Transcript::new([0; 32]) };
    assert_eq!(claims(), [(bob.user.to_string(), encode(&eid))]);
    assert!(alice.store.read(crate::group::told_states).unwrap().is_empty());

    // He goes on, and says so with the next commit.
    bob.store.write(|tx| Ok(tx.sql().execute("UPDATE eids SET epoch = 6", [])?)).unwrap();
    learn();
    assert_eq!(claims(), [(bob.user.to_string(), encode(&EidState { epoch: 6, ..eid }))]);

    // Nobody else speaks for him, and a state counts for its leaf only.
    let (bobs, carols) = (bob.account().client_key(), carol.account().client_key());
    let is_his = |state: &CardState| state.is_by(&bobs.public_key(), &id, &leaf_key);
    assert!(is_his(&CardState::sign(&bobs, &id, &leaf_key, eid)));
    assert!(!is_his(&CardState::sign(&carols, &id, &leaf_key, eid)));
    assert!(!is_his(&CardState::sign(&bobs, &id, &alice.leaf(&id), eid)));
    let other = GroupId::new([7; 16], "example.org".parse().unwrap());
    assert!(!is_his(&CardState::sign(&bobs, &other, &leaf_key, eid)));
    let changed = EidState { epoch: 9, ..eid };
    assert!(!is_his(&CardState { eid: changed, ..CardState::sign(&bobs, &id, &leaf_key, eid) }));

    // All members know the key by which a card of his leaf is sealed.
    let key = alice.store.read(|tx| record_key(tx, &id)).unwrap().unwrap();
    let card = bob.shown(&id).attributes.remove(0);
    let card = sealed::open(&key, &leaf_key, card.attributes.as_bytes()).unwrap();
    let heard_by_card_of = |client: &SigningKey| {
        let mut card: Card = decode(&card, "a card").unwrap();
        card.state = Some(CardState::sign(client, &id, &leaf_key, changed));
        let sealed = sealed::seal(&key, &leaf_key, &encode(&card)).unwrap();
        let cards = [LeafAttributes { leaf_key, attributes: Attributes::new(sealed) }];
        alice.store.write(|tx| GroupState::load(tx, &id)?.learn(tx, &cards)).unwrap();
        claims() == [(bob.user.to_string(), encode(&changed))]
    };
    assert!(!heard_by_card_of(&carols));
    assert!(heard_by_card_of(&bobs));
}
