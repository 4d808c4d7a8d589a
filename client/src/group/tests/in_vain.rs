//! Welcomes by which a device does not come in: it gives up the leaves that they brought.

use rusqlite::params;

use super::{
    super::{join_at_last, join_later},
    coming_in::{comes_in, is_in, takes_welcome, waiting},
    devices::{bring_in, device_of},
    *,
};

/// A device that an admin added by a KeyPackage which it had in stock, as a user of its own.
struct Added {
    device: Person,
    leaf_key: PublicKey,
    /// The address to which the messages for that leaf go.
    address: Address,
    welcome: Welcome,
    tree: WelcomeTree,
}

impl Added {
    fn by(admin: &Person, device: Person, id: &GroupId, is_last_resort: bool, others: &[&Person]) -> Self {
        let (leaf_key, address, welcome, tree) = add(admin, &device, id, is_last_resort, others);
        Self { device, leaf_key, address, welcome, tree }
    }

    fn has(&self, table: &str, column: &str, value: &[u8]) -> bool {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {column} = ?1)");
        self.device.store.read(|tx| Ok(tx.sql().query_row(&sql, [value], |row| row.get(0))?)).unwrap()
    }

    fn is_revoked(&self, address: &Address) -> bool {
        self.has("revocations", "address", address.as_bytes())
    }

    /// Whether the device has nothing of the KeyPackage any more, and its address leads nowhere.
    fn gave_up(&self) -> bool {
        let tables = [("stock", "leaf_key"), ("leaf_keys", "public_key")];
        let kept = tables.map(|(table, column)| self.has(table, column, self.leaf_key.as_bytes()));
        let is_revoked = self.is_revoked(&self.address);
        assert_eq!(kept, [!is_revoked; 2], "all of it, or nothing");
        is_revoked
    }
}

fn add(
    admin: &Person,
    device: &Person,
    id: &GroupId,
    is_last_resort: bool,
    others: &[&Person],
) -> (PublicKey, Address, Welcome, WelcomeTree) {
    let leaf_key = device.offer_to(admin);
    let addition = admin.stage(id, &Change::Add(vec![leaf_key]));
    admin.confirm(id);
    for other in others {
        other.receive(&addition.message).unwrap();
    }
    let find = |tx: &Tx<'_>| -> Result<Address> {
        let mut leaves = rules::leaves(&GroupState::load(tx, id)?.mls).into_values();
        let leaf = leaves.find(|leaf| leaf.leaf_key == leaf_key).expect("it is there");
        Ok(leaf.delivery.expect("it has one").address)
    };
    let address = admin.store.read(find).unwrap();
    let sql = "INSERT INTO stock (leaf_key, address, reference, expires, last_resort, current)
               VALUES (?1, ?2, x'', 1 << 40, ?3, 1)";
    let row = params![leaf_key.as_bytes(), address.as_bytes(), is_last_resort];
    device.store.write(|tx| Ok(tx.sql().execute(sql, row)?)).unwrap();
    (leaf_key, address, addition.welcome.unwrap(), admin.tree(id))
}

/// Bob's tablet, which waits with a Welcome to the group: Carol is there, of whom it was not told.
fn waits(alice: &Person, bob: &Person, id: &GroupId, issuer: &SigningKey, is_last_resort: bool) -> Added {
    let (tablet, groups) = (device_of(bob, issuer), bob.store.read(handover).unwrap());
    tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
    bob.receive(&alice.add(id, &[&person("carol", issuer)])).unwrap();
    let added = Added::by(alice, tablet, id, is_last_resort, &[bob]);
    takes_welcome(&added.device, &added.welcome, added.tree.clone());
    assert_eq!(waiting(&added.device), 1);
    assert!(!added.gave_up(), "it may join by it yet");
    added
}

#[test]
fn a_device_that_came_in_by_itself_gives_up_the_leaf_of_a_welcome_that_waited() {
    let issuer = SigningKey::generate();
    for is_last_resort in [false, true] {
        let ([alice, bob, _], id) = three(&issuer);
        let added = waits(&alice, &bob, &id, &issuer, is_last_resort);
        let tablet = &added.device;
        let groups = bob.store.read(handover).unwrap();
        tablet.store.write(|tx| take_over(tx, &groups)).unwrap();
        comes_in(tablet, &id, &alice.shown(&id), &Differences::default()).unwrap();
        assert!(!added.gave_up(), "the server may refuse its commit");
        tablet.confirm(&id);
        assert!(is_in(tablet, &id));
        assert_eq!(waiting(tablet), 0);
        // Other groups may have one of last resort.
        assert_eq!(added.gave_up(), !is_last_resort);
        let own = tablet.store.read(|tx| Ok(GroupState::load(tx, &id)?.delivery_address())).unwrap();
        assert!(!added.is_revoked(&own.expect("it has one")));
    }
}

#[test]
fn a_device_gives_up_the_leaf_of_a_welcome_that_comes_once_it_is_in() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let added = Added::by(&alice, device_of(&bob, &issuer), &id, false, &[&bob]);
    let tablet = &added.device;
    bring_in(tablet, &bob, &id, &alice.shown(&id));
    tablet.events();
    assert!(!added.gave_up());
    let (members, leaf) = (tablet.members(&id).len(), tablet.leaf(&id));
    takes_welcome(tablet, &added.welcome, added.tree.clone());
    assert!(matches!(&tablet.events()[..], [Event::Ignored { .. }]), "its user is told");
    assert!(added.gave_up());
    assert_eq!((tablet.members(&id).len(), tablet.leaf(&id)), (members, leaf), "it is where it was");
}

#[test]
fn a_device_whose_user_has_it_stay_out_gives_up_the_leaf_of_a_welcome_that_waited() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let added = waits(&alice, &bob, &id, &issuer, false);
    assert!(added.device.store.write(|tx| crate::group::stay_out(tx, &id)).unwrap());
    assert!(added.gave_up());
}

#[test]
fn of_two_welcomes_that_waited_a_device_joins_by_one_and_gives_up_the_leaf_of_the_other() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    let first = Added::by(&alice, device_of(&bob, &issuer), &id, false, &[&bob]);
    let tablet = &first.device;
    let (_, address, welcome, tree) = add(&alice, tablet, &id, false, &[&bob]);
    for welcome in [&first.welcome, &welcome] {
        tablet.store.write(|tx| join_later(tx, &id, welcome)).unwrap();
    }
    let joins = |welcome: &Welcome, tree: &WelcomeTree| {
        tablet.store.write(|tx| Ok(join_at_last(tx, welcome, Some(tree)).is_ok())).unwrap()
    };
    assert!(joins(&first.welcome, &first.tree));
    assert!(!joins(&welcome, &tree));
    assert!(is_in(tablet, &id) && !first.is_revoked(&first.address));
    assert!(first.is_revoked(&address));
}
