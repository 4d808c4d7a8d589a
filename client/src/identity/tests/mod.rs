//! An AS that forges, and readers that keep what they saw.

mod devices;
mod histories;
mod kept_back;
mod lookups;
mod successions;

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
    name::{Domain, UserName},
    second_proof::RecoveryKey,
};
use tls_codec::{Deserialize as _, Serialize as _};

use super::{
    Seen,
    audit::audit,
    claims,
    eid::{self, Change, EidWelcome},
    handover, hidden,
    known::{self, Which, compare, confirmed, is_device, own_state, set_verified},
    lookup::{self, Records, accept_reset, look_up},
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

    /// The AS's record of the epoch that this device is in.
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
            begun: self.ended.iter().map(|(log, _)| log.current.founding).collect(),
            ended: self.ended.iter().map(|(_, end)| *end).collect(),
        }
    }
}

impl Records for As {
    async fn keys(&self, _: &Store, _: &Domain) -> Result<AuthenticationKeys> {
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

/// A ghost that lets itself into an identity: openmls takes an external commit from anybody, and a GroupInfo is all that
/// one needs. The AS takes it for a device of the user.
fn enters_by_itself(server: &mut As) -> Device {
    let ghost = Device::new(&server.name);
    let (name, key) = (server.name.clone(), ghost.key());
    let current = &mut server.log.current;
    let Some(MlsMessageBodyIn::GroupInfo(info)) = mls::parse(current.group_info.as_bytes()) else { panic!() };
    let tree = RatchetTreeIn::tls_deserialize_exact(current.ratchet_tree.as_bytes()).unwrap();
    let (commit, info, tree) = ghost.write(|tx| {
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .build_group(tx, info, mls::credential(name.to_string().into_bytes(), key.public_key()))
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
    current.state = SignedState::sign(&name, &founding, eid, &current.group_info, &key);
    server.log.commits.push(MlsMessage::new(commit));
    server.vouch_for(&ghost);
    ghost
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
