//! Pushes that deliveries made due (QS-10): Web Push (RFC 8030) to the subscriptions of queues' owners. A push carries
//! nothing of the message: its content is the owner's own. It is sent after the message is in the queue, and is in
//! memory only: a server that is killed does not send it, and the message waits for the owner all the same. The
//! database decides which deliveries make a push due.

mod application_server;
mod hosts;
mod places;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use backon::{ExponentialBuilder, Retryable};
use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use postern_protocol::{
    P256PublicKey, QueueId,
    push::{Push, PushSubscription},
};
use tokio::{select, time::sleep};
use tokio_postgres::Row;
use url::Url;
use web_push_native::{Auth, WebPushBuilder, p256::PublicKey};

use crate::{
    config::PushConfig,
    home::Home,
    metrics::{Counters, Instruments},
    outgoing,
};
pub use application_server::AddApplicationServerKeyOutcome;
use application_server::{ApplicationServerKey, ApplicationServerKeys};
use hosts::{Host, Hosts, Standing};
use places::{Occupant, Place, Places};

/// Time for which a push service keeps a push that its user agent does not fetch: the longest that
/// the large ones accept.
const TIME_TO_LIVE: Duration = Duration::from_secs(28 * 24 * 60 * 60);
/// The topic of every push, by which the push service keeps only the latest of those that wait (RFC 8030 §5.4).
const TOPIC: &str = "messages";
/// Pause after a push: those that become due for the same queue meanwhile go as one.
const PAUSE: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest and the longest pause before a push is repeated; each is up to twice as long, at random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The longest pause that a push service may ask for (`Retry-After`).
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// Part of the queues with pushes, one in so many, whose push goes to a host that was not tried yet, and as large a part of
/// those to hosts that do not answer. The others have the rest.
const UNPROVEN_PART: usize = 4;

/// Sends pushes, or nothing if the operator named no contact for push services. Cheap to clone.
#[derive(Clone)]
pub struct Pusher {
    sender: Option<Sender>,
    figures: Counters<1>,
}

#[derive(Clone)]
struct Sender(Arc<Shared>);

struct Shared {
    application_server_keys: ApplicationServerKeys,
    local_endpoints: bool,
    client: reqwest::Client,
    home: Home,
    hosts: Hosts,
    /// Queues for which a push is under way or waits, at most. Pushes for further ones are dropped.
    most_waiting: usize,
    /// Places of pushes to hosts that were not tried yet.
    untried: Places,
    /// Places of pushes to hosts that do not answer.
    failing: Places,
    /// The number of the next delivery.
    deliveries: AtomicU64,
    /// Each queue that has a task, with the push that became due since the task took the last.
    queues: Mutex<HashMap<QueueId, Option<Due>>>,
    figures: Counters<1>,
}

/// A push that is due.
struct Due {
    push: Push,
    /// The number of the delivery that made it due, among those since the start.
    delivery: u64,
}

/// The reason why a push was not sent.
#[derive(Debug)]
enum Failure {
    /// The subscription has ended, or never was valid.
    Gone,
    /// The subscription was made for another key.
    OtherKey,
    /// The push service refuses the push for good.
    Refused(StatusCode),
    /// The push service may accept it later, perhaps after the time that it named.
    Passing(Option<Duration>),
    /// Too many pushes wait for hosts that are not known to answer, or this one gave way to another delivery's.
    TooMany,
}

impl Pusher {
    /// Loads the keys for push services, if the operator has set up Web Push.
    ///
    /// # Errors
    /// A database that does not answer, a key that does not open under the master key.
    pub async fn load(config: &PushConfig, home: &Home) -> anyhow::Result<Self> {
        let figures = Counters::new(["outcome"]);
        ["sent", "over", "failed", "dropped"].into_iter().for_each(|outcome| figures.begin([outcome.into()]));
        let Some(contact) = &config.contact else { return Ok(Self { sender: None, figures }) };
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if !config.local_endpoints {
            client = client.https_only(true).dns_resolver(Arc::new(outgoing::PublicAddresses::default()));
        }
        let unproven = config.waiting.div_ceil(UNPROVEN_PART);
        let sender = Sender(Arc::new(Shared {
            application_server_keys: ApplicationServerKeys::load(contact, home).await?,
            local_endpoints: config.local_endpoints,
            client: client.build().context("cannot make the HTTP client for pushes")?,
            home: home.clone(),
            hosts: Hosts::new(config),
            most_waiting: config.waiting,
            untried: Places::new(unproven),
            failing: Places::new(unproven),
            deliveries: AtomicU64::default(),
            queues: Mutex::default(),
            figures: figures.clone(),
        }));
        Ok(Self { sender: Some(sender), figures })
    }

    /// Lets the figures of pushes be seen.
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters("postern_pushes", "Pushes, by what became of them", &self.figures);
    }

    /// Queues for which a push is under way or waits.
    pub fn waiting(&self) -> usize {
        let queues = |sender: &Sender| sender.0.queues.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.sender.as_ref().map_or(0, queues)
    }

    /// False if this server sends no pushes.
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// The key that subscriptions are made for (RFC 8292 §4).
    pub fn public_key(&self) -> Option<P256PublicKey> {
        self.sender.as_ref().and_then(|sender| sender.0.application_server_keys.published())
    }

    /// Makes a key for push services if one is due, and loads those in the database.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn renew_keys(&self) -> anyhow::Result<()> {
        match &self.sender {
            Some(sender) => sender.0.application_server_keys.renew(&sender.0.home).await,
            None => Ok(()),
        }
    }

    /// Sends, some time soon, the pushes that a committed delivery made due: the column `pushes` of its row, in the
    /// form of `postern.take_pushes`.
    pub fn send_due(&self, row: &Row) {
        let due: Option<Vec<&[u8]>> = row.get("pushes");
        let (Some(sender), Some(due)) = (&self.sender, due) else { return };
        let delivery = sender.0.deliveries.fetch_add(1, Ordering::Relaxed);
        for push in due {
            match Push::from_bytes(push) {
                Ok(push) => sender.send_one(Due { push, delivery }),
                Err(error) => tracing::error!("cannot read a push that the database made: {error}"),
            }
        }
    }
}

impl Sender {
    fn send_one(&self, Due { push, delivery }: Due) {
        let queue_id = push.queue_id;
        let mut queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let full = queues.len() >= self.0.most_waiting;
        match queues.entry(queue_id) {
            Entry::Occupied(mut waiting) => {
                let urgency = waiting.get().as_ref().map_or(push.urgency, |earlier| earlier.push.urgency);
                let urgency = urgency.max(push.urgency);
                waiting.insert(Some(Due { push: Push { urgency, ..push }, delivery }));
            }
            Entry::Vacant(_) if full => {
                self.0.figures.add(["dropped".into()], 1);
                tracing::warn!("too many pushes wait: one is dropped");
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Some(Due { push, delivery }));
                tokio::spawn(self.clone().send_all(queue_id));
            }
        }
    }

    /// Sends pushes until none is due for the queue.
    async fn send_all(self, queue_id: QueueId) {
        while let Some(due) = self.take(&queue_id) {
            let sent = self.send(&due).await;
            let outcome = match &sent {
                Ok(()) => "sent",
                Err(Failure::Gone | Failure::OtherKey) => "over",
                Err(Failure::TooMany) => "dropped",
                Err(Failure::Refused(_) | Failure::Passing(_)) => "failed",
            };
            self.0.figures.add([outcome.into()], 1);
            match sent {
                Ok(()) => {}
                Err(Failure::Gone) => self.forget(&due.push).await,
                Err(failure) => tracing::warn!("gave up on a push: {failure}"),
            }
            // A dropped push does not keep its queue among those with one.
            if outcome != "dropped" {
                sleep(PAUSE).await;
            }
        }
    }

    /// Sends a push, and repeats it while that may help.
    async fn send(&self, Due { push, delivery }: &Due) -> Result<(), Failure> {
        let (url, _) = self.open(push).map_err(|_| Failure::Gone)?;
        // By the port, too: nobody has a push service left alone by naming another one there.
        let port = url.port_or_known_default().unwrap_or_default();
        let name = format!("{}:{port}", url.host_str().unwrap_or_default());
        let host = self.0.hosts.get(&name).ok_or(Failure::TooMany)?;
        let standing = host.standing();
        let occupant = Arc::default();
        let mut held = (standing, self.place(standing, *delivery, &occupant)?);
        let attempts = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(10)
            .with_factor(3.0)
            .with_jitter();
        let sending = (|| self.attempt(push, &host, &occupant))
            .retry(attempts)
            .when(|failure| {
                // A push that is to be repeated moves to where its host stands now, if there is a place.
                let standing = host.standing();
                matches!(failure, Failure::Passing(_))
                    && (standing == held.0
                        || self
                            .place(standing, *delivery, &occupant)
                            .map(|place| held = (standing, place))
                            .is_ok())
            })
            .adjust(|failure, delay| match failure {
                Failure::Passing(Some(after)) => delay.map(|delay| delay.max(*after)),
                _ => delay,
            });
        select! {
            sent = sending => sent,
            () = occupant.gives_way() => Err(Failure::TooMany),
        }
    }

    /// A place for a push of a delivery to a host of this standing, if it needs one.
    ///
    /// # Errors
    /// [`Failure::TooMany`].
    fn place(
        &self,
        standing: Standing,
        delivery: u64,
        occupant: &Arc<Occupant>,
    ) -> Result<Option<Place<'_>>, Failure> {
        let places = match standing {
            Standing::Proven => return Ok(None),
            Standing::Unknown => &self.0.untried,
            Standing::Failing => &self.0.failing,
        };
        places.take(delivery, occupant).map(Some).ok_or(Failure::TooMany)
    }

    /// Takes the push that is due for a queue; if there is none, the queue's task ends.
    fn take(&self, queue_id: &QueueId) -> Option<Due> {
        let mut queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let due = queues.get_mut(queue_id).and_then(Option::take);
        if due.is_none() {
            queues.remove(queue_id);
        }
        due
    }

    /// Sends a push once for each of this server's keys, until the push service takes one.
    async fn attempt(&self, push: &Push, host: &Host, occupant: &Occupant) -> Result<(), Failure> {
        for key in self.0.application_server_keys.now() {
            match self.attempt_with(push, host, occupant, &key).await {
                Err(Failure::OtherKey) => {}
                sent => return sent,
            }
        }
        Err(Failure::Gone)
    }

    async fn attempt_with(
        &self,
        push: &Push,
        host: &Host,
        occupant: &Occupant,
        key: &ApplicationServerKey,
    ) -> Result<(), Failure> {
        let mut request = self.request(push, key).map_err(|_| Failure::Gone)?;
        let permit = self.0.hosts.permit(host).await.map_err(|pause| Failure::Passing(Some(pause)))?;
        if permit.time.is_some() {
            *request.timeout_mut() = permit.time;
        }
        let asking = occupant.ask();
        let begun = Instant::now();
        let answer = self.0.client.execute(request).await;
        drop((asking, permit));
        let Ok(answer) = answer else {
            host.failed(Instant::now());
            return Err(Failure::Passing(None));
        };
        host.answered(begun.elapsed());
        let retry_after = || {
            let seconds = answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
        };
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::Gone),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::OtherKey),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Passing(retry_after()))
            }
            status if status.is_server_error() => Err(Failure::Passing(retry_after())),
            status => Err(Failure::Refused(status)),
        }
    }

    /// A push's subscription, and the URL that it names.
    ///
    /// # Errors
    /// A subscription that does not open, a URL that no push may go to.
    fn open(&self, push: &Push) -> anyhow::Result<(Url, PushSubscription)> {
        let subscription = PushSubscription::open(&push.queue_id, &push.key, &push.subscription)?;
        let url = Url::parse(&subscription.endpoint)?;
        anyhow::ensure!(outgoing::is_allowed(&url, self.0.local_endpoints), "not a push service's URL");
        Ok((url, subscription))
    }

    /// The request that wakes a client.
    ///
    /// # Errors
    /// As [`Self::open`], and a subscription that nothing can be encrypted to.
    fn request(&self, push: &Push, key: &ApplicationServerKey) -> anyhow::Result<reqwest::Request> {
        let (url, subscription) = self.open(push)?;
        let user_agent = PublicKey::from_sec1_bytes(subscription.p256dh.as_bytes())?;
        let auth = Auth::clone_from_slice(subscription.auth.as_bytes());
        let request = WebPushBuilder::new(url.as_str().parse()?, user_agent, auth)
            .with_valid_duration(TIME_TO_LIVE)
            .build(subscription.content.into_bytes())
            .map_err(|_| anyhow!("nothing can be encrypted to it"))?;
        let mut request = reqwest::Request::try_from(request)?;
        let headers = request.headers_mut();
        headers.insert("urgency", HeaderValue::from_static(push.urgency.as_str()));
        headers.insert("topic", HeaderValue::from_static(TOPIC));
        headers.insert(AUTHORIZATION, self.0.application_server_keys.authorization(key, &url)?);
        Ok(request)
    }

    async fn forget(&self, push: &Push) {
        let (queue_id, subscription) =
            (push.queue_id.as_bytes().as_slice(), push.subscription.as_bytes().as_slice());
        let sql = "SELECT outcome FROM qs.drop_push_subscription($1, $2)";
        if let Err(error) = self.0.home.database.query_one(sql, &[&queue_id, &subscription]).await {
            tracing::warn!("a push subscription that is over could not be dropped: {error}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone | Self::OtherKey => f.write_str("the subscription is over"),
            Self::Refused(status) => write!(f, "the push service answers {status}"),
            Self::Passing(_) => f.write_str("the push service does not answer"),
            Self::TooMany => f.write_str("too many wait for push services that do not answer"),
        }
    }
}
