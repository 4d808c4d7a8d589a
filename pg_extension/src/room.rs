//! The room in a queue (QS-11): whether it takes a letter, and where its owner is told of one that was
//! not put in.
//!
//! A queue is bounded in messages and in bytes, with a reserve for handshakes (commits, proposals,
//! Welcomes), without which its reader can follow no group. Of all that, each address has a bounded
//! share, so that one group cannot fill the queue for the others. A queue that is nearly empty counts
//! nobody: only one that fills up is worth it. The counts are in the queue's row, sealed under a key
//! that is in PostgreSQL's shared memory and nowhere else: a dump joins no address to a queue, and a
//! restart of PostgreSQL begins the counts anew.

use aws_lc_rs::hmac;
use postern_protocol::{
    QueueId,
    address::Lookup,
    label::Label,
    qs::QueueKind,
    sealed::{SealError, SealingKey},
};

use crate::{chains, queues::Policy};

/// Load of a queue that is full: of messages or of bytes, whichever is more.
const FULL: i64 = 1 << 20;
/// Part of an address's share (one in so many) up to which a queue counts nobody.
const UNCOUNTED: i64 = 4;
/// Number of addresses that are counted: the others hold less than those.
const PLACES: usize = 32;
/// Number of places that a sealed record is filled up to a multiple of: its length tells little.
const PLACES_STEP: usize = 8;
/// Number of markers that name an address, until the owner has acknowledged them all. One more names none.
const MAX_MARKERS: u8 = 64;

/// The part of an address's lookup by which it is counted.
type Tag = [u8; 8];

/// The bounds of a queue.
#[derive(Clone, Copy)]
pub struct Quota {
    all: Limit,
    /// With the reserve for handshakes.
    handshakes: Limit,
    /// Load up to which nobody is counted.
    uncounted: i64,
}

#[derive(Clone, Copy)]
struct Limit {
    messages: i64,
    bytes: i64,
    /// Load that one address may have brought once the queue began to count.
    share: i64,
}

impl Quota {
    /// Bounds in messages and KiB; `reserve` for handshakes, and `share` of an address, in percent.
    pub fn new(messages: i64, kib: i64, reserve: i64, share: i64) -> Self {
        let share = FULL * share / 100;
        // In whole messages, so that an address has its share to the last of them.
        let one = (FULL / messages.max(1)).max(1);
        let uncounted = share / UNCOUNTED / one * one;
        let all = Limit { messages, bytes: kib * 1024, share: share - uncounted };
        let with_reserve = |amount: i64| amount + (amount.saturating_mul(reserve) + 99) / 100;
        let handshakes = Limit {
            messages: with_reserve(all.messages),
            bytes: with_reserve(all.bytes),
            share: with_reserve(all.share),
        };
        Self { all, handshakes, uncounted }
    }

    /// The load of so many messages and bytes.
    fn load(&self, messages: i64, bytes: i64) -> i64 {
        let part = |amount: i64, limit: i64| amount.saturating_mul(FULL) / limit.max(1);
        part(messages, self.all.messages).max(part(bytes, self.all.bytes))
    }
}

/// The word that something is missing: see [`postern_protocol::qs::Lost`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// It names the address.
    Address,
    /// It names none, because there are too many.
    Any,
}

/// The state of a locked queue, as its row has it.
pub struct Standing<'a> {
    pub id: &'a QueueId,
    pub kind: QueueKind,
    pub next_seq: i64,
    /// Sequence number up to which messages were acknowledged or expired, and are gone.
    pub removed_seq: i64,
    /// Numbers after that which no message has.
    pub skipped: i64,
    /// Bytes of the messages that wait, sealed.
    pub bytes: i64,
    /// Sequence number of the last marker.
    pub last_marker: i64,
    /// The sealed [`Shares`]; empty if nothing is counted.
    pub shares: &'a [u8],
}

/// The room of a locked queue, while a delivery takes some of it.
pub struct Room<'a> {
    policy: &'a Policy,
    quota: &'a Quota,
    id: QueueId,
    kind: QueueKind,
    next_seq: i64,
    removed_seq: i64,
    skipped: i64,
    bytes: i64,
    last_marker: i64,
    /// None where there is no shared memory to keep their key in.
    shares: Option<Shares>,
    /// Whether the row has to be given other shares.
    changed: bool,
}

impl<'a> Room<'a> {
    pub fn new(policy: &'a Policy, queue: &Standing<'_>) -> Self {
        let quota = policy.quota(queue.kind);
        let empty = queue.next_seq - 1 - queue.skipped <= queue.removed_seq;
        let mut room = Self {
            policy,
            quota,
            id: *queue.id,
            kind: queue.kind,
            next_seq: queue.next_seq,
            removed_seq: queue.removed_seq,
            skipped: queue.skipped,
            // An empty queue has none, whatever was counted.
            bytes: if empty { 0 } else { queue.bytes },
            last_marker: queue.last_marker,
            shares: None,
            changed: false,
        };
        let Some(secret) = chains::secret() else { return room };
        let pending = room.markers_wait();
        if queue.kind == QueueKind::Contact || pending || room.is_crowded() {
            let mut shares = Shares::open(&secret, queue.id, queue.shares).unwrap_or_default();
            shares.begin(policy.today, queue.removed_seq, pending);
            room.shares = Some(shares);
            room.follow_reader();
        } else {
            room.shares = Some(Shares::default());
            room.changed = !queue.shares.is_empty();
        }
        room
    }

    /// Puts a letter of so many bytes, sealed, for this address into the queue; false if there is no
    /// room for it.
    pub fn take(&mut self, address: &Lookup, bytes: usize, is_handshake: impl FnOnce() -> bool) -> bool {
        let (tag, bytes) = (tag(address), bytes as i64);
        let load = self.quota.load(1, bytes).max(1);
        let counted = self.used() + load > self.quota.uncounted;
        let place = self.shares.as_ref().and_then(|shares| shares.place(tag));
        let held = place.filter(|_| counted).map_or(0, |place| place.load);
        let (waiting, waiting_bytes) = (self.waiting(), self.bytes);
        let fits = |limit: &Limit| {
            waiting < limit.messages && waiting_bytes + bytes <= limit.bytes && held < limit.share
        };
        let fits = fits(&self.quota.all) || fits(&self.quota.handshakes) && is_handshake();
        let is_deposit = self.kind == QueueKind::Contact;
        if !fits || is_deposit && place.is_some_and(|place| !place.takes_deposit(self)) {
            return false;
        }
        let (seq, removed_seq) = (self.next_seq, self.removed_seq);
        if let Some(shares) = &mut self.shares {
            if counted || is_deposit {
                let place = shares.place_mut(tag, removed_seq);
                if counted {
                    place.load += load;
                }
                if is_deposit {
                    place.count_deposit(seq, removed_seq);
                }
                self.changed = true;
            }
            // Whatever is lost from now on is missing at another place.
            if let Some(place) = shares.find(tag).filter(|place| place.marker != 0) {
                place.marker = 0;
                self.changed = true;
            }
        }
        self.put(bytes);
        true
    }

    /// Decides what to tell the owner about a letter to this address that was not put in; nothing if
    /// it was told already. The caller puts the marker in.
    pub fn mark(&mut self, address: &Lookup) -> Option<Marker> {
        let tag = tag(address);
        let (seq, removed_seq) = (self.next_seq, self.removed_seq);
        let told = match &self.shares {
            None => self.markers_wait(),
            Some(shares) => shares.unnamed || shares.place(tag).is_some_and(|place| place.is_told(self)),
        };
        if told {
            return None;
        }
        let marker = match &mut self.shares {
            None => Marker::Any,
            Some(shares) if shares.markers < MAX_MARKERS => {
                shares.place_mut(tag, removed_seq).marker = seq;
                shares.markers += 1;
                Marker::Address
            }
            Some(shares) => {
                shares.unnamed = true;
                Marker::Any
            }
        };
        self.last_marker = seq;
        self.changed |= self.shares.is_some();
        Some(marker)
    }

    /// Counts a message that goes into the queue.
    pub fn put(&mut self, bytes: i64) {
        self.next_seq += 1;
        self.bytes += bytes;
    }

    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }

    pub fn bytes(&self) -> i64 {
        self.bytes
    }

    pub fn last_marker(&self) -> i64 {
        self.last_marker
    }

    /// The shares to write into the queue's row; none if it has the right ones.
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn sealed_shares(&mut self) -> Result<Option<Vec<u8>>, SealError> {
        if !self.changed {
            return Ok(None);
        }
        let counts = self.kind == QueueKind::Contact || self.markers_wait() || self.is_crowded();
        let used = self.used();
        match (chains::secret(), &mut self.shares) {
            (Some(secret), Some(shares)) if counts => {
                shares.base = used;
                shares.seal(&secret, &self.id).map(Some)
            }
            _ => Ok(Some(Vec::new())),
        }
    }

    /// Number of messages that wait. Markers have room of their own.
    fn waiting(&self) -> i64 {
        // Some of the markers may be acknowledged.
        let markers = self.shares.as_ref().map_or(0, |shares| i64::from(shares.markers));
        let markers = markers.min((self.last_marker - self.removed_seq).max(0));
        self.next_seq - 1 - self.removed_seq - self.skipped - markers
    }

    fn used(&self) -> i64 {
        self.quota.load(self.waiting(), self.bytes)
    }

    /// Whether the queue is so full that it counts.
    fn is_crowded(&self) -> bool {
        self.used() > self.quota.uncounted
    }

    /// Whether the owner has a marker to read.
    fn markers_wait(&self) -> bool {
        self.last_marker > self.removed_seq
    }

    /// Takes from each address its part of what the owner acknowledged since the shares were written.
    /// An acknowledgement names no address.
    fn follow_reader(&mut self) {
        let (used, counted) = (self.used(), self.is_crowded());
        let Some(shares) = &mut self.shares else { return };
        let base = shares.base.max(1);
        if counted && used >= base {
            return;
        }
        for place in &mut shares.places {
            place.load = if counted { place.load * used / base } else { 0 };
        }
    }
}

/// The counts of a queue's addresses.
#[derive(Default)]
struct Shares {
    /// Day of the deposits that are counted, in days since 2000.
    day: i32,
    /// Load of the queue when this was written.
    base: i64,
    /// Number of markers since the owner had none to read.
    markers: u8,
    /// Whether one of them names no address.
    unnamed: bool,
    places: Vec<Place>,
}

/// The counts of one address.
#[derive(Default)]
struct Place {
    tag: Tag,
    /// Load that it brought while the queue counted.
    load: i64,
    /// Sequence number of the marker that names it; 0 once it brought something after that.
    marker: i64,
    /// Deposits of the day.
    deposits: u32,
    /// The ones that came since the owner had read all before.
    unread: u32,
    /// Sequence number of its last deposit.
    last: i64,
}

const HEAD_LEN: usize = 10;
const PLACE_LEN: usize = 36;

impl Shares {
    /// Opens a sealed record. Associated data is the queue's id; the plaintext is day (4), base (4), markers
    /// (1), unnamed (1), then for each place tag (8), load (4), marker (8), deposits (4), unread (4) and
    /// last (8), big endian; unused places are zero.
    ///
    /// # Errors
    /// [`SealError::Wrong`] if there is none, or one of before PostgreSQL's last start.
    fn open(secret: &[u8; 32], queue_id: &QueueId, sealed: &[u8]) -> Result<Self, SealError> {
        if sealed.is_empty() {
            return Err(SealError::Wrong);
        }
        let bytes = key(secret, queue_id)?.open(queue_id.as_bytes(), sealed)?;
        let (head, places) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(SealError::Wrong)?;
        let places = places.chunks_exact(PLACE_LEN).map(Place::from_bytes);
        Ok(Self {
            day: i32::from_be_bytes(field(head, 0)),
            base: i64::from(u32::from_be_bytes(field(head, 4))),
            markers: head[8],
            unnamed: head[9] != 0,
            places: places.filter(|place| place.tag != Tag::default()).collect(),
        })
    }

    fn seal(&self, secret: &[u8; 32], queue_id: &QueueId) -> Result<Vec<u8>, SealError> {
        let len = self.places.len().next_multiple_of(PLACES_STEP);
        let mut bytes = Vec::with_capacity(HEAD_LEN + len * PLACE_LEN);
        bytes.extend_from_slice(&self.day.to_be_bytes());
        bytes.extend_from_slice(&short(self.base));
        bytes.extend_from_slice(&[self.markers, u8::from(self.unnamed)]);
        self.places.iter().for_each(|place| place.write(&mut bytes));
        bytes.resize(HEAD_LEN + len * PLACE_LEN, 0);
        key(secret, queue_id)?.seal(queue_id.as_bytes(), &bytes)
    }

    /// Forgets what ended since this was written: another day's deposits, and markers if the owner has
    /// none to read.
    fn begin(&mut self, today: i32, removed_seq: i64, markers_wait: bool) {
        if self.day != today {
            self.day = today;
            for place in &mut self.places {
                (place.deposits, place.unread) = (0, 0);
                if place.marker <= removed_seq {
                    place.marker = 0;
                }
            }
        }
        if !markers_wait {
            (self.markers, self.unnamed) = (0, false);
        }
    }

    fn place(&self, tag: Tag) -> Option<&Place> {
        self.places.iter().find(|place| place.tag == tag)
    }

    fn find(&mut self, tag: Tag) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.tag == tag)
    }

    /// The place of an address; a new one takes the place of the address that counts least.
    fn place_mut(&mut self, tag: Tag, removed_seq: i64) -> &mut Place {
        let index = self.places.iter().position(|place| place.tag == tag).unwrap_or_else(|| {
            let new = Place { tag, ..Place::default() };
            if self.places.len() < PLACES {
                self.places.push(new);
                return self.places.len() - 1;
            }
            let weight = |place: &Place| (place.marker > removed_seq, place.load, place.deposits);
            let least = self.places.iter().enumerate().min_by_key(|(_, place)| weight(place));
            let index = least.map_or(0, |(index, _)| index);
            self.places[index] = new;
            index
        });
        &mut self.places[index]
    }
}

impl Place {
    fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            tag: field(bytes, 0),
            load: i64::from(u32::from_be_bytes(field(bytes, 8))),
            marker: i64::from_be_bytes(field(bytes, 12)),
            deposits: u32::from_be_bytes(field(bytes, 20)),
            unread: u32::from_be_bytes(field(bytes, 24)),
            last: i64::from_be_bytes(field(bytes, 28)),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.tag);
        bytes.extend_from_slice(&short(self.load));
        bytes.extend_from_slice(&self.marker.to_be_bytes());
        bytes.extend_from_slice(&self.deposits.to_be_bytes());
        bytes.extend_from_slice(&self.unread.to_be_bytes());
        bytes.extend_from_slice(&self.last.to_be_bytes());
    }

    /// Whether the owner was told that something of this address is missing here. That the address got
    /// enough for the day is told once, read or not: what strangers send for nothing costs the owner nothing.
    fn is_told(&self, room: &Room<'_>) -> bool {
        let spent = room.kind == QueueKind::Contact && !self.takes_deposit(room);
        self.marker > room.removed_seq || self.marker != 0 && spent
    }

    /// Whether the day's deposits are not used up. Reading what came makes room, some times a day.
    fn takes_deposit(&self, room: &Room<'_>) -> bool {
        let unread = if self.last <= room.removed_seq { 0 } else { self.unread };
        let (at_once, in_all) = room.policy.deposits_per_day;
        unread < at_once && self.deposits < in_all
    }

    fn count_deposit(&mut self, seq: i64, removed_seq: i64) {
        self.unread = if self.last <= removed_seq { 1 } else { self.unread.saturating_add(1) };
        self.deposits = self.deposits.saturating_add(1);
        self.last = seq;
    }
}

fn tag(address: &Lookup) -> Tag {
    field(address, 0)
}

/// The bytes at this place.
fn field<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[start..start + N]);
    field
}

fn short(load: i64) -> [u8; 4] {
    u32::try_from(load).unwrap_or(u32::MAX).to_be_bytes()
}

/// The key of a queue's shares: a key of its own seals few enough of them.
fn key(secret: &[u8; 32], queue_id: &QueueId) -> Result<SealingKey, SealError> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(Label::QUEUE_SHARES.as_bytes());
    context.update(queue_id.as_bytes());
    SealingKey::new(&field(context.sign().as_ref(), 0))
}
