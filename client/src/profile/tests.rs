//! Profiles as lookups show them, and keys to them as devices tell them.

use super::*;
use crate::{options::Options, store::Store};
use postern_protocol::{Payload, key::SigningKey, profile::Profile};

struct World {
    store: Store,
    _directory: tempfile::TempDir,
    phone: SigningKey,
    founding: Transcript,
    bob: UserName,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Store::create(directory.path(), &Options::default()).unwrap(),
            _directory: directory,
            phone: SigningKey::generate(),
            founding: Transcript::new([1; 32]),
            bob: "bob@example.org".parse().unwrap(),
        }
    }

    fn signed(&self, incarnation: u32, version: u64, name: &str) -> SignedProfile {
        let profile = Profile {
            incarnation,
            version,
            discoverable: true,
            display_name: name.to_owned(),
            text: String::new(),
            picture: None,
            sealed: Payload::default(),
        };
        SignedProfile::sign(&self.founding, profile, &self.phone)
    }

    /// A lookup shows a profile of Bob, whose identity is of this incarnation.
    fn see(&self, shown: &SignedProfile, incarnation: u32) {
        let clients = [self.phone.public_key()];
        self.store
            .write(|tx| {
                let sql = "SELECT EXISTS (SELECT 1 FROM eids)";
                let is_new = !tx.sql().query_row(sql, [], |row| row.get::<_, bool>(0))?;
                tx.sql().execute(
                    "INSERT OR REPLACE INTO eids (user, pending, founder, founding, incarnation, epoch, transcript,
                                                  public_group, seen, verified)
                     VALUES (?1, 0, ?2, ?2, ?3, 0, ?2, x'', 0, 0)",
                    params![self.bob.to_string(), self.founding.as_bytes(), incarnation],
                )?;
                seen(tx, &self.bob, shown, &self.founding, &clients, is_new)
            })
            .unwrap();
    }

    fn under(&self, version: u64, key: &ProfileKey, content: &ForContacts) -> SignedProfile {
        let sealed = sealing::seal(key, &self.founding, content).unwrap();
        let profile = Profile { sealed, ..self.signed(0, version, "Bob").profile };
        SignedProfile::sign(&self.founding, profile, &self.phone)
    }

    fn told(&self, shared: &SharedProfileKey, source: Source) -> bool {
        self.store.write(|tx| keep_key(tx, &self.bob, shared, source)).unwrap()
    }

    fn for_contacts(&self) -> Option<ForContacts> {
        self.store.read(|tx| profile(tx, &self.bob)).unwrap().for_contacts
    }

    fn name(&self) -> String {
        self.store.read(|tx| profile(tx, &self.bob)).unwrap().display_name
    }

    fn changes(&self) -> usize {
        let events = self.store.read(crate::event::pending).unwrap();
        events.iter().filter(|(_, event)| matches!(event, Event::DisplayName { .. })).count()
    }

    /// One of Bob's devices tells a version of his profile. Whether the AS is to be asked for it.
    fn claims(&self, teller: &SigningKey, version: u64) -> bool {
        let teller = teller.public_key();
        self.store.write(|tx| claimed(tx, &self.bob, &teller, 0, version)).unwrap()
    }

    /// A lookup shows a profile of Bob, or none. Whether there is to be another one, and how often something was told to be kept
    /// back by now.
    fn looks(&self, shown: Option<&SignedProfile>) -> (bool, usize) {
        if let Some(shown) = shown {
            self.see(shown, 0);
        }
        let clients = [self.phone.public_key()];
        self.store.write(|tx| check_claim(tx, &self.bob, &clients)).unwrap();
        let again = self.store.read(|tx| is_to_be_looked_for(tx, &self.bob)).unwrap();
        let events = self.store.read(crate::event::pending).unwrap();
        let is_told = |event: &Event| matches!(event, Event::Ignored { reason } if reason == KEPT_BACK);
        (again, events.iter().filter(|(_, event)| is_told(event)).count())
    }
}

#[test]
fn a_profile_counts_if_a_device_of_its_user_signed_it_and_never_goes_back() {
    let world = World::new();
    world.see(&world.signed(0, 3, "Bob"), 0);
    assert_eq!((world.name().as_str(), world.changes()), ("Bob", 0));
    world.see(&world.signed(0, 4, "Bobby"), 0);
    assert_eq!((world.name().as_str(), world.changes()), ("Bobby", 1));
    let honest = world.signed(0, 5, "Mallory");
    let changed = Profile { display_name: "Mallory!".into(), ..honest.profile.clone() };
    for forged in [
        world.signed(0, 3, "Bob"),
        world.signed(0, 4, "Mallory"),
        world.signed(1, 1, "Mallory"),
        SignedProfile { profile: changed, ..honest.clone() },
        SignedProfile::sign(&Transcript::new([2; 32]), honest.profile.clone(), &world.phone),
        SignedProfile::sign(&world.founding, honest.profile.clone(), &SigningKey::generate()),
    ] {
        world.see(&forged, 0);
        assert_eq!((world.name().as_str(), world.changes()), ("Bobby", 1), "{forged:?}");
    }
    // After a reset versions begin anew.
    world.see(&world.signed(1, 0, "Robert"), 1);
    assert_eq!((world.name().as_str(), world.changes()), ("Robert", 2));
}

#[test]
fn the_last_version_that_there_is_holds_nobody_up_once_its_device_was_removed() {
    let mut world = World::new();
    world.see(&world.signed(0, 1, "Bob"), 0);
    world.see(&world.signed(0, u64::MAX, "Mallory"), 0);
    assert_eq!(world.name(), "Mallory", "the device was Bob's");
    world.phone = SigningKey::generate();
    world.see(&world.signed(0, 2, "Bob"), 0);
    assert_eq!((world.name().as_str(), world.changes()), ("Bob", 2));
    world.see(&world.signed(0, 1, "Bobby"), 0);
    assert_eq!(world.name(), "Bob", "of devices that are there no version goes back");
}

#[test]
fn another_identity_of_the_name_begins_without_a_profile() {
    let mut world = World::new();
    world.see(&world.signed(0, 7, "Bob"), 0);
    world.store.write(|tx| forget(tx, &world.bob)).unwrap();
    assert_eq!(world.name(), "");
    world.founding = Transcript::new([2; 32]);
    world.see(&world.signed(0, 1, "Bartholomew"), 0);
    assert_eq!(world.name(), "Bartholomew");
}

/// The word of the member of a group with this number.
fn told_by(number: u8, is_vouched: bool, is_itself: bool) -> Source {
    let leaf_key = PublicKey::new([number; 32]);
    Source::Told(Teller { leaf_key, is_vouched, is_itself, is_own_leaf: is_itself })
}

fn key(epoch: u64) -> SharedProfileKey {
    let edition = Edition { incarnation: 0, epoch, number: 1 };
    SharedProfileKey { edition, key: ProfileKey::generate() }
}

#[test]
fn a_key_that_its_user_gave_is_replaced_by_a_later_one_of_the_user_only() {
    let world = World::new();
    let (first, second, third) = (key(1), key(2), key(3));
    let somebody = told_by(1, true, true);
    assert!(world.told(&second, somebody) && world.told(&third, somebody), "nothing is known");
    assert!(world.told(&second, Source::User), "the user knows better");
    assert!(!world.told(&third, somebody) && !world.told(&first, Source::User));
    assert!(!world.told(&second, Source::User), "it is known");
    assert!(world.told(&third, Source::User));
    let secrets = world.store.read(|tx| lookup_secrets(tx, &world.bob)).unwrap();
    assert_eq!(secrets, [third.key.lookup_secret()]);
    // After a reset editions begin anew.
    world.store.write(|tx| forget(tx, &world.bob)).unwrap();
    assert!(world.told(&first, Source::User));
}

#[test]
fn no_key_that_somebody_else_told_takes_the_place_of_the_users_own() {
    let world = World::new();
    let secrets = || world.store.read(|tx| lookup_secrets(tx, &world.bob)).unwrap();
    let secret = |shared: &SharedProfileKey| shared.key.lookup_secret();
    let (card, honest) = (key(1), key(2));
    let wrong: Vec<_> = (10..20).map(|number| (number, key(u64::MAX))).collect();
    assert!(world.told(&card, told_by(1, false, false)));
    // Members that say to be Bob, before the AS showed its keys.
    for (number, wrong) in &wrong {
        world.told(wrong, told_by(*number, false, true));
    }
    assert_eq!(secrets().len(), MOST_TOLD);
    // Once it did: a card with Bob's link and a wrong key, and at last Bob.
    let in_card = key(u64::MAX);
    assert!(world.told(&in_card, told_by(30, true, false)));
    assert!(world.told(&honest, told_by(1, true, true)));
    assert_eq!(secrets()[..2], [secret(&honest), secret(&in_card)]);
    assert!(!world.told(&card, told_by(1, true, false)), "what Bob said himself stays");
    for (number, wrong) in &wrong {
        world.told(wrong, told_by(*number, true, false));
        assert_eq!(secrets()[0], secret(&honest), "{number}");
    }
    assert_eq!(secrets().len(), MOST_TOLD);
    // A wrong one keeps his name from nobody.
    let named = ForContacts { display_name: "Bobby".into(), text: String::new() };
    world.see(&world.under(1, &honest.key, &named), 0);
    assert_eq!(world.for_contacts(), Some(named));
    assert!(world.told(&honest, Source::User));
    assert_eq!(secrets(), [secret(&honest)]);
}

#[test]
fn no_key_that_others_told_of_a_leaf_takes_the_place_of_the_one_in_its_card() {
    let world = World::new();
    let secrets = || world.store.read(|tx| lookup_secrets(tx, &world.bob)).unwrap();
    let (card, said) = (key(1), key(2));
    let leaf_key = PublicKey::new([1; 32]);
    let in_card = Source::Told(Teller { leaf_key, is_vouched: true, is_itself: false, is_own_leaf: true });
    assert!(world.told(&card, in_card));
    for number in 10..20 {
        world.told(&key(u64::MAX), told_by(number, true, false));
        assert_eq!(secrets()[0], card.key.lookup_secret(), "{number}");
    }
    assert_eq!(secrets().len(), MOST_TOLD);
    assert!(
        !world.told(&key(3), told_by(1, true, false)),
        "what its device tells of another leaf is not its card"
    );
    assert!(world.told(&said, told_by(1, true, true)));
    assert_eq!(secrets()[0], said.key.lookup_secret());
}

#[test]
fn the_name_for_contacts_is_shown_once_there_is_a_key_and_stays_while_another_key_is_on_its_way() {
    let world = World::new();
    let (old, new) = (key(1), key(2));
    let named = |name: &str| ForContacts { display_name: name.into(), text: String::new() };
    world.see(&world.under(1, &old.key, &named("Bobby")), 0);
    assert_eq!((world.for_contacts(), world.changes()), (None, 0));
    world.told(&old, Source::User);
    assert_eq!((world.for_contacts(), world.changes()), (Some(named("Bobby")), 1));
    world.see(&world.under(2, &new.key, &named("Bobby")), 0);
    assert_eq!((world.for_contacts(), world.changes()), (Some(named("Bobby")), 1), "nothing changed");
    world.told(&new, Source::User);
    assert_eq!(world.changes(), 1);
    world.see(&world.under(3, &new.key, &named("Rob")), 0);
    assert_eq!((world.for_contacts(), world.changes()), (Some(named("Rob")), 2));
}

#[test]
fn a_later_version_that_a_device_tells_is_asked_for_once() {
    let world = World::new();
    world.see(&world.signed(0, 3, "Bob"), 0);
    let is_asked = |version| world.claims(&world.phone, version);
    assert!(!is_asked(3), "it was seen");
    assert!(is_asked(4));
    assert!(!is_asked(4));
    assert!(is_asked(5));
}

#[test]
fn a_version_that_two_lookups_do_not_show_is_kept_back_and_that_is_told_once() {
    let world = World::new();
    let (old, new) = (world.signed(0, 3, "Bob"), world.signed(0, 4, "Robert"));
    assert_eq!(world.looks(Some(&old)), (false, 0), "nobody told of another");
    assert!(world.claims(&world.phone, 4));
    assert_eq!(world.looks(Some(&old)), (true, 0), "it may have been under way");
    for _ in 0..3 {
        assert_eq!(world.looks(Some(&old)), (false, 1));
        assert!(!world.claims(&world.phone, 4));
    }
    assert_eq!(world.looks(Some(&new)), (false, 1));
    // Nobody keeps back what the second lookup shows.
    assert!(world.claims(&world.phone, 5));
    assert_eq!(world.looks(Some(&new)), (true, 1));
    assert_eq!(world.looks(Some(&world.signed(0, 5, "Rob"))), (false, 1));
    // An AS that shows none at all, and one that shows what nobody signed, keep it back, too.
    assert!(world.claims(&world.phone, 6));
    let theirs = world.signed(0, 6, "Mallory").profile;
    let forged = SignedProfile::sign(&world.founding, theirs, &SigningKey::generate());
    assert_eq!(world.looks(None), (true, 1));
    assert_eq!(world.looks(Some(&forged)), (false, 2));
}

#[test]
fn what_a_device_told_that_was_removed_since_is_kept_back_by_nobody() {
    let world = World::new();
    let (bob, tablet) = (world.signed(0, 3, "Bob"), SigningKey::generate());
    world.see(&bob, 0);
    assert!(world.claims(&tablet, u64::MAX >> 1));
    assert!(!world.claims(&world.phone, 4), "the AS is to be asked already");
    for _ in 0..3 {
        assert_eq!(world.looks(Some(&bob)), (false, 0));
    }
    assert!(world.claims(&world.phone, 4), "it holds up no other's");
}

#[test]
fn the_version_that_a_device_tells_of_another_incarnation_has_nobody_asked_and_holds_up_no_other() {
    let world = World::new();
    let bob = world.signed(1, 3, "Bob");
    world.see(&bob, 1);
    let tablet = SigningKey::generate().public_key();
    for incarnation in [0, 2, 7] {
        for version in [1, 4, u64::MAX] {
            let is_asked = |tx: &Tx<'_>| claimed(tx, &world.bob, &tablet, incarnation, version);
            assert!(!world.store.write(is_asked).unwrap(), "{incarnation} {version}");
        }
    }
    let is_sought = world.store.read(|tx| is_to_be_looked_for(tx, &world.bob)).unwrap();
    assert!(!is_sought, "nothing is looked for");
    let tells = |tx: &Tx<'_>| claimed(tx, &world.bob, &world.phone.public_key(), 1, 4);
    assert!(world.store.write(tells).unwrap());
    assert!(world.store.read(|tx| is_to_be_looked_for(tx, &world.bob)).unwrap());
}
