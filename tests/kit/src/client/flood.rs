//! Neighbours that do too much: requests that come to a homeserver all the while, whatever it answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_protocol::{
    DeliveryId, LaneInstance, MlsMessage, Payload,
    encoding::Encoding,
    federation::{Deliveries, Delivery, NumberedDelivery},
    key::SigningKey,
    oblivious::REQUEST_MEDIA_TYPE,
    qs::QueuePayload,
};
use tokio::{
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Call, Capsule, Payer, Way, fresh_address};
use crate::World;

/// Requests that are under way at once.
const STREAMS: usize = 4;
/// The same in a flood of thousands in a second.
const MOST_STREAMS: usize = 16;
/// Requests in a second of one stream, where more streams can be had.
const OF_A_STREAM: usize = 50;
/// Requests of a flood in a second, and of one of large ones, which this process has to make and to sign.
const PER_SECOND: u64 = 200;
const LARGE_PER_SECOND: u64 = 8;
/// The domain of the homeserver that floods others.
const FLOODER: &str = "flood.example";
/// Addresses of a delivery.
const ADDRESSES: usize = 300;
/// Tokens of somebody who asks all the while.
const TOKENS: usize = 9000;

/// Requests of one kind for one homeserver.
pub struct Flood {
    way: Way,
    per_second: u64,
    make: Box<dyn Fn() -> Call + Send + Sync>,
}

/// The capsules that come to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capsules {
    /// The signer is nobody that the homeserver knows.
    OfStrangers,
    /// A neighbour's, which do not open.
    Spoilt,
    /// A neighbour's, each with a request that is answered.
    Sound,
}

impl Flood {
    /// Capsules for the gateway of the first server.
    pub async fn of_capsules(world: &World, capsules: Capsules) -> Self {
        let key = match capsules {
            Capsules::OfStrangers => SigningKey::generate(),
            Capsules::Spoilt | Capsules::Sound => trusted(world).await,
        };
        let body = match capsules {
            Capsules::Sound => asking(world).await.sealed,
            Capsules::OfStrangers | Capsules::Spoilt => vec![7; 60_000],
        };
        let domain = world.domain().clone();
        let make = move || {
            let call = Call::post("/gateway").with_bytes(REQUEST_MEDIA_TYPE, body.clone());
            call.signed_by(&key).at(&domain)
        };
        Self { way: world.way(0), per_second: PER_SECOND, make: Box::new(make) }
    }

    /// Deliveries to addresses that nobody has, paid for as long as there are tokens.
    pub async fn of_deliveries(world: &World) -> Self {
        Self::of_delivery(world, &[1000], vec![1; ADDRESSES], PER_SECOND).await
    }

    /// The same with as many addresses, and nearly as many bytes, as a request can have.
    pub async fn of_large_deliveries(world: &World) -> Self {
        // An address takes 34 bytes, and the number of its payload one. All get a small payload, and one a large one: each
        // payload counts for each of its addresses.
        let large = Deliveries::MOST_BYTES - Deliveries::MOST_ADDRESSES * 35 - 10_000;
        let mut parts = vec![1; Deliveries::MOST_ADDRESSES];
        parts[0] = 2;
        Self::of_delivery(world, &[100, large], parts, LARGE_PER_SECOND).await
    }

    /// So many requests in a second instead.
    pub fn at(self, per_second: u64) -> Self {
        Self { per_second, ..self }
    }

    /// One delivery of messages of so many bytes each, over and over.
    async fn of_delivery(world: &World, messages: &[usize], parts: Vec<u16>, per_second: u64) -> Self {
        let (key, domain) = (trusted(world).await, world.domain().clone());
        let payer = Payer::register(&world.way(0), world.domain(), "flooder").await;
        world.lift_allowances().await;
        payer.stock(TOKENS).await;
        let payload = |bytes: &usize| {
            let message = QueuePayload::Message(MlsMessage::new(vec![7; *bytes]));
            Payload::new(Encoding::Cbor.encode(&message))
        };
        let delivery = Delivery {
            group_id: [7; 16],
            addresses: parts.iter().map(|_| fresh_address()).collect(),
            parts,
            payloads: messages.iter().map(payload).collect(),
            urgencies: vec![2; messages.len()],
        };
        let make = move || {
            let id = DeliveryId::new(rand::random());
            let deliveries = Deliveries {
                lane: 0,
                instance: LaneInstance::new(rand::random()),
                first: 1,
                before: None,
                deliveries: vec![NumberedDelivery { id, delivery: delivery.clone() }],
            };
            let call = Call::post("/qs/deliveries").with(&deliveries).signed_by(&key).at(&domain);
            match payer.held() {
                0 => call,
                _ => payer.paid(call),
            }
        };
        Self { way: world.way(0), per_second, make: Box::new(make) }
    }
}

/// Floods of one kind that come to one homeserver at a time: the machine has as much to do whichever it is. Dropping it
/// ends them.
pub struct Floods {
    to: Arc<AtomicUsize>,
    _streams: JoinSet<()>,
}

impl Floods {
    /// Begins with the first one.
    pub fn start(floods: Vec<Flood>) -> Self {
        let per_second = floods[0].per_second;
        let number = (per_second as usize / OF_A_STREAM).clamp(STREAMS, MOST_STREAMS);
        let (to, floods, mut streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(floods), JoinSet::new());
        for _ in 0..number {
            let (to, floods) = (to.clone(), floods.clone());
            streams.spawn(async move {
                let mut pace = pace(Duration::from_micros(1_000_000 * number as u64 / per_second));
                loop {
                    pace.tick().await;
                    let flood = &floods[to.load(Ordering::Relaxed)];
                    let _ = flood.way.try_send(&(flood.make)()).await;
                }
            });
        }
        Self { to, _streams: streams }
    }

    /// They come to the homeserver of this number from now on.
    pub fn turn_to(&self, number: usize) {
        self.to.store(number, Ordering::Relaxed);
    }
}

/// People of a homeserver ask another one something, ten times a second in each stream, until this is dropped.
pub async fn asking_elsewhere(home: &World, elsewhere: &World) -> JoinSet<()> {
    let payer = Payer::register(&home.way(0), home.domain(), "asking").await;
    home.lift_allowances().await;
    payer.stock(TOKENS).await;
    let capsule = asking(elsewhere).await.call(format!("/relay/{}", elsewhere.domain()));
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (way, payer, capsule) = (home.way(0), payer.clone(), capsule.clone());
        streams.spawn(async move {
            let mut pace = pace(Duration::from_millis(100));
            while payer.held() > 0 {
                pace.tick().await;
                let _ = way.try_send(&payer.paid(capsule.clone())).await;
            }
        });
    }
    streams
}

/// The pace of a stream. What was missed, because the machine was busy, is not made up for.
fn pace(period: Duration) -> Interval {
    let mut pace = interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// A sealed request that is answered to anybody.
async fn asking(world: &World) -> Capsule {
    let asked = Call::get("/qs/keys").at(world.domain()).wire();
    Capsule::seal(&world.gateway_keys().await, &asked)
}

/// The key of a homeserver that the operator trusts.
async fn trusted(world: &World) -> SigningKey {
    let key = SigningKey::generate();
    let sql = "SELECT operator.trust_homeserver_key($1, $2)";
    let public_key = key.public_key();
    let public_key = public_key.as_bytes().as_slice();
    world.admin.execute(sql, &[&FLOODER, &public_key]).await.expect("the operator may");
    key
}
