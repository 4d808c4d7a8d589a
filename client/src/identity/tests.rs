//! An AS that forges, and readers that keep what they saw.

use std::sync::Mutex;

use openmls::prelude::{LeafNodeParameters, MlsGroup, MlsMessageBodyIn, RatchetTreeIn};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, GroupInfo, HpkePublicKey, IssuedCredential, MlsMessage, PublicKey, RatchetTree, Transcript,
    account::IdentityEnded,
    auth::{
        AuthenticationKeys, ClientRecord, CommitIdentity, CurrentIdentity, FoundingIdentity, SignedContact,
        UserRecord,
    },
    credential::ClientCredential,
    eid::{EidState, Founding, FreshnessTicket, SignedState},
    key::{PublishedKey, SigningKey},
    name::UserName,
    second_proof::RecoveryKey,
};
use tls_codec::{Deserialize as _, Serialize as _};

use super::{
    Seen,
    audit::audit,
    claims,
    eid::{self, Change, EidWelcome},
    known::{self, Which, accept_reset, compare, confirmed, own_state, set_verified},
    lookup::{self, Records, look_up},
    public_eid::PublicEid,
    silence,
};
use crate::{
    account::Account,
    contact::{Friendship, FriendshipSecrets},
    error::{Error, IdentityError, Result},
    event::{self, Event},
    mls::{self, CIPHERSUITE, LeafSigner},
    options::Options,
    store::{Store, Tx},
};

/// The end of the AS's key.
const FAR: u64 = 4_000_000_000;

fn alice() -> UserName {
    "alice@example.org".parse().unwrap()
}

/// One device, with a store of its own.
struct Device {
    store: Store,
    account: Account,
    _directory: tempfile::TempDir,
}

impl Device {
    fn new(name: &UserName) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let account = Account::new("http://127.0.0.1".to_owned(), name.clone()).unwrap();
        store
            .write(|tx| {
                account.save(tx)?;
                Friendship::join(FriendshipSecrets::generate()?).save(tx)
            })
            .unwrap();
        Self { store, account, _directory: directory }
    }

    fn key(&self) -> SigningKey {
        self.account.client_key()
    }

    fn public_key(&self) -> PublicKey {
        self.key().public_key()
    }

    fn write<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> T {
        self.store.write(work).unwrap()
    }

    fn enter(&mut self, group_id: Vec<u8>) {
        self.account.eid_group_id = Some(group_id);
        self.write(|tx| self.account.save(tx));
    }

    fn request(&self) -> Vec<u8> {
        self.write(|tx| eid::key_package(tx, &self.account.user, &self.key()))
    }

    fn make(&self, change: &Change<'_>) -> CommitIdentity {
        self.write(|tx| {
            eid::stage(tx, &self.account, change)?;
            Ok(eid::outstanding(tx)?.expect("it was made").commit)
        })
    }

    fn events(&self) -> Vec<Event> {
        self.write(event::pending).into_iter().map(|(_, event)| event).collect()
    }

    fn group(&self, tx: &Tx<'_>) -> MlsGroup {
        eid::load(tx, &self.account).unwrap()
    }

    /// What the AS keeps of the epoch that this device is in.
    fn described(&self) -> (GroupInfo, RatchetTree) {
        self.write(|tx| eid::describe(tx, &self.group(tx), &self.key()))
    }
}

/// One incarnation of one user's identity, as an AS keeps it.
#[derive(Clone)]
struct Log {
    founding: FoundingIdentity,
    commits: Vec<MlsMessage>,
    current: CurrentIdentity,
}

/// An AS with one user, who has some devices.
struct As {
    issuer: SigningKey,
    name: UserName,
    ended: Vec<(Log, Transcript)>,
    log: Log,
    clients: Vec<ClientRecord>,
    /// Changes what it answers.
    lie: Mutex<Option<Box<dyn Fn(&mut UserRecord) + Send + Sync>>>,
    asked: Mutex<Vec<Option<(u32, u64)>>>,
}

impl As {
    /// An AS at which a device has registered its user.
    fn with(device: &mut Device) -> Self {
        let log = found(device, &[]);
        let mut this = Self {
            issuer: SigningKey::generate(),
            name: device.account.user.clone(),
            ended: Vec::new(),
            log,
            clients: Vec::new(),
            lie: Mutex::default(),
            asked: Mutex::default(),
        };
        this.vouch_for(device);
        this
    }

    fn credential(&self, client_key: PublicKey, not_after: u64) -> IssuedCredential {
        ClientCredential {
            user: self.name.clone(),
            client_key,
            not_before: 0,
            not_after,
            issuer_key: self.issuer.public_key(),
        }
        .issue(&self.issuer)
    }

    fn vouch_for(&mut self, device: &Device) {
        let contact = SignedContact::sign(
            self.name.domain().clone(),
            Address::new([1; 32]),
            HpkePublicKey::new([2; 32]),
            &device.key(),
        );
        let credential = self.credential(device.public_key(), FAR);
        self.clients.push(ClientRecord { credential, contact: Some(contact) });
    }

    /// Accepts a commit, and tells the device.
    fn accept(&mut self, by: &Device, commit: &CommitIdentity) {
        by.write(|tx| eid::accepted(tx, &by.account, commit));
        self.append(by, commit);
    }

    fn append(&mut self, by: &Device, commit: &CommitIdentity) {
        self.log.commits.push(commit.commit.clone());
        self.log.current.group_info = commit.group_info.clone();
        self.log.current.state = commit.state.clone();
        self.log.current.ratchet_tree = by.described().1;
        let leaves = PublicEid::open(&self.log.current.group_info, &self.log.current.ratchet_tree).unwrap();
        let leaves = leaves.leaves(&self.name).unwrap();
        self.clients.retain(|client| {
            let client = ClientCredential::parse(&client.credential).unwrap();
            leaves.iter().any(|leaf| leaf.client_key == client.client_key)
        });
    }

    fn update(&mut self, by: &Device) {
        let commit = by.make(&Change::Update);
        self.accept(by, &commit);
    }

    /// Adds a device, which is pending.
    fn add(&mut self, by: &Device, device: &mut Device) -> EidWelcome {
        let new = by.write(|tx| Ok(eid::parse_device(tx, &self.name, &device.request())));
        let new = new.expect("it is a device of the user's");
        let commit = by.make(&Change::Add(&new));
        self.accept(by, &commit);
        let welcome = by.write(|tx| eid::granted(tx, &by.account, &device.public_key())).unwrap();
        let id = device.write(|tx| eid::join(tx, &device.account.user, &device.key(), &welcome));
        device.enter(id);
        welcome
    }

    /// Adds a device, which confirms itself.
    fn link(&mut self, by: &Device, device: &mut Device) {
        self.add(by, device);
        self.update(device);
        self.vouch_for(device);
        by.write(|tx| {
            let account = &by.account;
            let before = known::own(tx, &account.user)?;
            let commit = self.log.commits.last().unwrap();
            let mut public_eid = before.public_eid()?;
            public_eid.follow(&account.user, commit)?;
            let eid = before.eid.followed_by(commit.as_bytes());
            let kept = known::Kept { eid, public_group: public_eid.encode(), ..before };
            known::extend(tx, &account.user, Which::Accepted, &kept, &[(eid.epoch, eid.transcript)])?;
            eid::follow(tx, account, std::slice::from_ref(commit))
        });
    }

    /// Begins the user anew, with another device.
    fn reset(&mut self, device: &mut Device) {
        let end = self.log.current.state.eid.transcript;
        let mut ended: Vec<_> = self.ended.iter().map(|(_, end)| *end).collect();
        ended.push(end);
        let new = found(device, &ended);
        self.ended.push((std::mem::replace(&mut self.log, new), end));
        self.clients.clear();
        self.vouch_for(device);
    }

    fn lie(&self, lie: impl Fn(&mut UserRecord) + Send + Sync + 'static) {
        *self.lie.lock().unwrap() = Some(Box::new(lie));
    }

    fn be_honest(&self) {
        *self.lie.lock().unwrap() = None;
    }

    fn ticket(&self, eid: EidState, time: u64) -> FreshnessTicket {
        let current = &self.log.current;
        let group = PublicEid::open(&current.group_info, &current.ratchet_tree).unwrap();
        FreshnessTicket::issue(self.name.clone(), eid, group.tree_hash().unwrap(), time, &self.issuer)
    }

    fn honest(&self, since: Option<(u32, u64)>) -> UserRecord {
        let incarnation = u32::try_from(self.ended.len()).unwrap();
        let log =
            |of| if of == incarnation { Some(&self.log) } else { Some(&self.ended.get(of as usize)?.0) };
        let asked = since.and_then(|(of, after)| Some((log(of)?, after)));
        UserRecord {
            profile: None,
            name: self.name.clone(),
            incarnation,
            current: self.log.current.clone(),
            founding: asked.filter(|(_, after)| *after == 0).map(|(log, _)| log.founding.clone()),
            commits: asked
                .map(|(log, after)| log.commits.iter().skip(after as usize).cloned().collect())
                .unwrap_or_default(),
            more: false,
            clients: self.clients.clone(),
            ticket: self.ticket(self.log.current.state.eid, now()),
            ended: self.ended.iter().map(|(_, end)| *end).collect(),
        }
    }
}

impl Records for As {
    async fn keys(&self, _: &Store) -> Result<AuthenticationKeys> {
        let key = PublishedKey { public_key: self.issuer.public_key(), not_before: 0, not_after: FAR };
        Ok(AuthenticationKeys {
            domain: self.name.domain().clone(),
            root: None,
            keys: vec![key],
            certificates: Vec::new(),
            revoked: Vec::new(),
        })
    }

    async fn record(&self, _: &UserName, since: Option<(u32, u64)>) -> Result<UserRecord> {
        self.asked.lock().unwrap().push(since);
        let mut record = self.honest(since);
        if let Some(lie) = &*self.lie.lock().unwrap() {
            lie(&mut record);
        }
        Ok(record)
    }
}

fn now() -> u64 {
    crate::clock::Clock::default().now()
}

fn found(device: &mut Device, ended: &[Transcript]) -> Log {
    let (name, key) = (device.account.user.clone(), device.key());
    let previous = ended.last().map(|transcript| {
        let incarnation = u32::try_from(ended.len() - 1).unwrap();
        IdentityEnded { incarnation, transcript: *transcript }
    });
    let new = device.write(|tx| eid::create(tx, &name, &key, previous.as_ref()));
    device.enter(new.group_id);
    Log {
        founding: FoundingIdentity {
            group_info: new.group_info.clone(),
            ratchet_tree: new.ratchet_tree.clone(),
        },
        commits: Vec::new(),
        current: CurrentIdentity {
            group_info: new.group_info,
            ratchet_tree: new.ratchet_tree,
            founding: new.state.eid.transcript,
            founder: key.public_key(),
            state: new.state,
        },
    }
}

/// Alice with a phone, and Bob, who looks her up.
fn world() -> (Device, As, Device) {
    let mut phone = Device::new(&alice());
    let server = As::with(&mut phone);
    (phone, server, Device::new(&"bob@example.org".parse().unwrap()))
}

async fn sees(server: &As, reader: &Device) -> Result<Vec<PublicKey>> {
    let user = look_up(server, &reader.store, &alice()).await?;
    Ok(user.clients.iter().map(|client| client.client_key).collect())
}

/// The reason for which a reader refuses what a server shows.
async fn refusal(server: &As, reader: &Device) -> IdentityError {
    match look_up(server, &reader.store, &alice()).await {
        Err(Error::Identity(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn splits(reader: &Device) -> usize {
    reader.events().iter().filter(|event| matches!(event, Event::IdentitySplit { .. })).count()
}

fn is_confirmed(reader: &Device, device: &Device) -> bool {
    reader.write(|tx| confirmed(tx, &device.public_key())) == Some(alice())
}

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

/// Openmls takes an external commit from anybody, and a GroupInfo is all that one needs.
#[tokio::test]
async fn a_ghost_that_enters_by_itself_is_found() {
    let (_phone, mut server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let ghost = Device::new(&alice());
    let current = &mut server.log.current;
    let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(current.group_info.as_bytes()) else { panic!() };
    let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes()).unwrap();
    let key = ghost.key();
    let (commit, info, tree) = ghost.write(|tx| {
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .build_group(tx, info, mls::credential(alice().to_string().into_bytes(), key.public_key()))
            .unwrap()
            .leaf_node_parameters(LeafNodeParameters::default())
            .load_psks(tx.storage())
            .unwrap()
            .build(tx.rand(), tx.crypto(), &LeafSigner(&key), |_| true)
            .unwrap()
            .finalize(tx)
            .unwrap();
        let info = group.export_group_info(tx.crypto(), &LeafSigner(&key), false).unwrap();
        let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
        Ok((mls::message_bytes(&bundle.into_commit())?, mls::message_bytes(&info)?, tree))
    });
    let founding = Founding { founder: current.founder, transcript: current.founding };
    current.group_info = GroupInfo::new(info);
    current.ratchet_tree = RatchetTree::new(tree);
    let eid = current.state.eid.followed_by(&commit);
    current.state = SignedState::sign(&alice(), &founding, eid, &current.group_info, &key);
    server.log.commits.push(MlsMessage::new(commit));
    server.vouch_for(&ghost);
    assert_eq!(refusal(&server, &bob).await, IdentityError::Split);
    assert!(!is_confirmed(&bob, &ghost));
    assert_eq!(splits(&bob), 1);
}

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
    assert!(!bob.write(|tx| accept_reset(tx, &alice())), "nothing waits any more");
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
    assert_eq!(bob.events(), [Event::IdentityReset { user: alice() }]);
    assert!(!is_confirmed(&bob, &phone) && !is_confirmed(&bob, &laptop));
    let refused = bob.store.write(|tx| set_verified(tx, &alice(), true));
    assert!(matches!(refused, Err(Error::Identity(IdentityError::Reset))));

    assert!(bob.write(|tx| accept_reset(tx, &alice())));
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
        // What was left out is there after all.
        server.be_honest();
        sees(&server, &reader).await.unwrap();
        assert!(is_confirmed(&reader, &phone));
    }
    sees(&server, &bob).await.unwrap();
    assert_eq!(bob.write(|tx| known::known(tx, &alice())).unwrap().eid.epoch, 3);
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
    // What the one was shown is no way on for the other.
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

/// Eve with another user's device in her identity: every KeyPackage is public.
fn with_stolen_device(device: &Device) -> As {
    let mut eve = Device::new(&"eve@example.org".parse().unwrap());
    let mut server = As::with(&mut eve);
    let request = device.request();
    let key_package = eve.write(|tx| Ok(mls::parse_key_package(&request, tx.crypto()))).unwrap();
    let stolen = eid::NewDevice { client_key: device.public_key(), key_package };
    let commit = eve.make(&Change::Add(&stolen));
    server.accept(&eve, &commit);
    let (current, name) = (&mut server.log.current, server.name.clone());
    current.founder = device.public_key();
    let founding = Founding { founder: current.founder, transcript: current.founding };
    current.state = SignedState::sign(&name, &founding, current.state.eid, &current.group_info, &eve.key());
    server.vouch_for(device);
    server
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
async fn a_credential_may_begin_a_little_later_than_the_readers_clock_says() {
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
        assert_eq!(sees(&server, &bob).await.is_ok(), is_good, "{later}");
    }
}

#[tokio::test]
async fn silence_is_what_this_device_saw_and_no_forged_credential() {
    const DAY: u64 = 24 * 60 * 60;
    let (phone, mut server, _) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let look = async |server: &As| {
        let found = lookup::find(server, &phone.store, &alice()).await.unwrap();
        phone.write(|tx| silence::watch(tx, &found, &phone.public_key(), 90 * DAY))
    };
    let with_end = |server: &As, end| server.credential(laptop.public_key(), end);
    let passes = |days: u64| phone.write(|tx| silence::pass_time(tx, days * DAY));
    server.clients[1].credential = with_end(&server, now() + 90 * DAY);
    assert_eq!(look(&server).await, []);

    // A credential that ended long ago, and that nobody signed, beside the good one or in its place.
    let forged = ClientCredential {
        user: alice(),
        client_key: laptop.public_key(),
        not_before: 0,
        not_after: 1,
        issuer_key: server.issuer.public_key(),
    }
    .issue(&SigningKey::generate());
    let forged = ClientRecord { credential: forged, contact: None };
    let beside = forged.clone();
    server.lie(move |record| record.clients.push(beside.clone()));
    let refused = lookup::find(&server, &phone.store, &alice()).await.map(|found| found.user);
    assert!(matches!(refused, Err(Error::Identity(IdentityError::NotADevice))), "{refused:?}");
    server.lie(move |record| record.clients[1] = forged.clone());
    assert_eq!(look(&server).await, []);
    // One that ended, and that the AS did sign, is older than another that was seen.
    let old = with_end(&server, now() - 200 * DAY);
    server.lie(move |record| record.clients[1].credential = old.clone());
    assert_eq!(look(&server).await, []);

    // The AS shows none any more, and the last one that was seen has not ended for long.
    server.be_honest();
    let last = server.clients.pop().unwrap();
    assert_eq!(look(&server).await, []);
    passes(170);
    assert_eq!(look(&server).await, [], "its credential ended 80 days ago");
    server.clients.push(last.clone());
    assert_eq!(look(&server).await, [], "it was here again");
    server.clients.pop();
    assert_eq!(look(&server).await, []);
    passes(91);
    assert_eq!(look(&server).await, [], "the end of its credential was put off");
    passes(95);
    assert_eq!(look(&server).await, [laptop.public_key()]);
    server.clients.push(last);
    assert_eq!(look(&server).await, []);
}

#[tokio::test]
async fn a_device_that_was_away_itself_gives_the_others_time() {
    const DAY: u64 = 24 * 60 * 60;
    let (phone, mut server, _) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let look = async |server: &As| {
        let found = lookup::find(server, &phone.store, &alice()).await.unwrap();
        phone.write(|tx| silence::watch(tx, &found, &phone.public_key(), 90 * DAY))
    };
    assert_eq!(look(&server).await, []);
    phone.write(|tx| silence::pass_time(tx, FAR));
    server.clients.pop();
    assert_eq!(look(&server).await, [], "it may come tomorrow");
    phone.write(|tx| silence::pass_time(tx, 91 * DAY));
    assert_eq!(look(&server).await, [laptop.public_key()]);
}

/// The same device at the same moment, as if it went two ways.
fn fork(device: &Device) -> Device {
    let directory = tempfile::tempdir().unwrap();
    let [from, to] = [device.store.directory(), directory.path()].map(|path| path.join("client.sqlite"));
    let copied = rusqlite::Connection::open(from).unwrap().execute("VACUUM INTO ?1", [to.to_str().unwrap()]);
    copied.unwrap();
    let store = Store::open(directory.path(), &Options::default()).unwrap();
    let account = store.read(Account::load).unwrap();
    Device { store, account, _directory: directory }
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

#[tokio::test]
async fn of_two_devices_that_change_an_identity_at_once_one_wins_and_the_other_goes_on() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let (first, second) = (phone.make(&Change::Update), laptop.make(&Change::Update));
    server.accept(&phone, &first);
    assert_ne!(first.commit, second.commit);
    // The laptop was refused: it follows, and its own commit never happened.
    look_up(&server, &laptop.store, &alice()).await.unwrap();
    assert!(laptop.write(eid::outstanding).is_none());
    assert_eq!(laptop.write(own_state), phone.write(own_state));
    server.update(&laptop);
    look_up(&server, &phone.store, &alice()).await.unwrap();
    assert_eq!(laptop.write(own_state), phone.write(own_state));
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_in_the_log() {
    let (phone, mut server, _) = world();
    let commit = phone.make(&Change::Update);
    let twin = fork(&phone);
    twin.write(|tx| eid::accepted(tx, &twin.account, &commit));
    server.append(&twin, &commit);
    look_up(&server, &phone.store, &alice()).await.unwrap();
    assert!(phone.write(eid::outstanding).is_none());
    assert_eq!(phone.write(own_state), server.log.current.state.eid);
    // The answer comes after all.
    phone.write(|tx| eid::accepted(tx, &phone.account, &commit));
    assert_eq!(phone.write(own_state), server.log.current.state.eid);
    server.update(&phone);
}

#[test]
fn the_key_package_of_a_new_device_outlives_its_readers_patience() {
    let device = Device::new(&alice());
    let request = device.request();
    let found = device.write(|tx| Ok(eid::parse_device(tx, &alice(), &request))).expect("it can be added");
    let left = found.key_package.life_time().not_after() - now();
    assert!(left > 19 * 365 * 24 * 60 * 60, "{left} s");
    let begun = now() - found.key_package.life_time().not_before();
    assert!(begun > 100 * 24 * 60 * 60, "a reader's clock may be behind: {begun} s");
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
    assert!(!is_known());
    assert!(!is_confirmed(&bob, &phone));
    assert_eq!(bob.write(|tx| known::transcripts(tx, &alice(), Which::Accepted)), []);
}

#[test]
fn an_identity_survives_its_bytes() {
    let mut phone = Device::new(&alice());
    let mut server = As::with(&mut phone);
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let kept = phone.write(|tx| known::own(tx, &alice()));
    let read = PublicEid::decode(&kept.public_group).unwrap();
    assert_eq!(read.encode(), kept.public_group);
    assert_eq!(read.epoch(), 2);
    assert!(PublicEid::decode(&kept.public_group[1..]).is_none());
}
