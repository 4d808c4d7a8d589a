//! The old device's side of a link: it makes the rendezvous, shows the code, and adds who proves to know it.

use std::sync::Arc;

use postern_protocol::{Payload, PublicKey, key::SigningKey, qs::QueueKind, rendezvous::Side};

use super::{
    Done, Handover, LinkCode, Linking, Offer, Request, Stage, added, agreement, channel::Channel,
    code::Words, ends_it, give_up,
};
use crate::{
    error::{Error, LinkError, Result, goes_on},
    identity::eid::{self, NewDevice},
    session::Session,
    store::Tx,
};

/// A link that this device offers, until another one has come to it.
///
/// It is kept in the store: when it is dropped, offering a link again goes on with it.
pub struct LinkOffer {
    session: Arc<Session>,
    linking: Linking,
}

/// Offers a link, or goes on with the one that is under way.
pub(crate) async fn offer(session: &Arc<Session>) -> Result<LinkOffer> {
    let now = session.store.now();
    let goes_on = |linking: &Linking| linking.stage.is_owners() && linking.channel.ends > now;
    let under_way = session.store.read(Linking::find)?.filter(goes_on);
    let linking = match under_way {
        Some(linking) => linking,
        None => {
            let key = SigningKey::generate();
            let created = session.api.create_rendezvous(&key).await?;
            let ends = now + u64::from(created.minutes) * 60;
            let domain = session.account.user.domain().clone();
            let max_bytes = usize::try_from(created.max_payload_bytes).unwrap_or(usize::MAX);
            let channel = Channel::new(created.number, domain, &key, max_bytes, ends);
            let linking = Linking::new(Stage::Open { words: Words::random() }, channel);
            session.store.write(|tx| linking.save(tx))?;
            linking
        }
    };
    Ok(LinkOffer { session: session.clone(), linking })
}

impl LinkOffer {
    /// The code to type on the new device. `None` when the new device has come already.
    pub fn code(&self) -> Option<LinkCode> {
        match self.linking.stage {
            Stage::Open { words } => Some(LinkCode::new(self.linking.channel.number, words)),
            _ => None,
        }
    }

    /// Seconds until the offer ends, if nobody comes.
    pub fn ends_in(&self) -> u64 {
        self.linking.channel.ends.saturating_sub(self.session.store.now())
    }

    /// Waits for the new device, and adds it. Returns its client key (Ed25519).
    ///
    /// # Errors
    /// [`LinkError`](crate::LinkError), and refusals of the server: then the code is used up, and nothing was handed over,
    /// or the device that was added is removed again unless it shows up within a day. Passing errors lose nothing: offer
    /// again.
    pub async fn finish(self) -> Result<PublicKey> {
        let Self { session, linking } = self;
        let done = run(&session, linking).await;
        if done.as_ref().is_err_and(ends_it) {
            give_up(&session.store, &session.direct).await?;
        }
        done
    }

    /// Withdraws the offer: nobody can use the code any more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn withdraw(self) -> Result<()> {
        self.session.store.write(Linking::delete)?;
        self.linking.channel.end(&self.session.direct).await;
        Ok(())
    }
}

async fn run(session: &Session, mut linking: Linking) -> Result<PublicKey> {
    let (store, http) = (&*session.store, &session.direct);
    loop {
        let stage = linking.stage;
        let received = async {
            let linking = linking.clone().flush(store, http).await?;
            let payloads = linking.channel.receive(http, store.now()).await?;
            Ok((linking, payloads.into_iter().next()))
        };
        let (current, payload) = match received.await {
            // The guest ended it rather than confirm: it did not believe our confirmation.
            Err(Error::Link(LinkError::Over)) if stage == Stage::Answered => {
                return Err(LinkError::WrongCode.into());
            }
            received => received?,
        };
        linking = current;
        let Some(payload) = payload else { continue };
        linking = match linking.stage {
            Stage::Open { words } => linking.go_on(store, |tx, link| answer(tx, link, words, &payload))?,
            Stage::Answered => linking.go_on(store, |_, link| confirm(session, link, &payload))?,
            Stage::Offered => take_request(session, linking, &payload).await?,
            Stage::HandedOver { device } => {
                let linking = linking.go_on(store, |_, link| {
                    let done: Option<Done> = link.channel.open(&payload)?;
                    done.map(|Done {}| ()).ok_or_else(|| LinkError::Tampered.into())
                })?;
                store.write(|tx| {
                    added::expect(tx, &device, added::EXPECTED)?;
                    Linking::delete(tx)
                })?;
                linking.channel.end(http).await;
                return Ok(device);
            }
            Stage::Confirmed | Stage::Requested | Stage::TakenOver => return Err(Error::Damaged("a link")),
        };
    }
}

/// Answers the guest's half of the agreement with this side's, and its confirmation. The words are used up with that.
fn answer(tx: &Tx<'_>, link: &mut Linking, words: Words, half: &Payload) -> Result<()> {
    let channel = &mut link.channel;
    let (begun, own) = agreement::begin(Side::Owner, channel.number, channel.domain(), words);
    let agreed = begun.finish(half.as_bytes()).ok_or(LinkError::WrongCode)?;
    channel.received();
    channel.leave([own.as_slice(), agreed.own().confirmation()].concat());
    channel.agreed = Some(agreed);
    // It lives for its minutes again, once the guest has come.
    channel.ends = channel.ends.max(tx.now()) + LONGER;
    link.stage = Stage::Answered;
    Ok(())
}

/// Seconds that a rendezvous lives longer when the guest comes, at most. The server says when it is over.
const LONGER: u64 = 60 * 60;

/// Takes the guest's confirmation, and tells it who the user is.
fn confirm(session: &Session, link: &mut Linking, confirmation: &Payload) -> Result<()> {
    let channel = &mut link.channel;
    let theirs = channel.agreed.as_ref().ok_or(Error::Damaged("a link"))?.theirs();
    if !theirs.is_confirmed_by(confirmation.as_bytes()) {
        return Err(LinkError::WrongCode.into());
    }
    channel.received();
    channel.leave_message(&Offer { user: session.account.user.clone() })?;
    link.stage = Stage::Offered;
    Ok(())
}

/// Adds the device that asks for it to the user's identity, and hands everything over.
async fn take_request(session: &Session, linking: Linking, payload: &Payload) -> Result<Linking> {
    let store = &session.store;
    // Opened on a copy: until the device is added, this can be repeated.
    let request: Option<Request> = linking.channel.clone().open(payload)?;
    let Some(request) = request else { return Err(LinkError::Tampered.into()) };
    let device = parse_device(session, request.key_package.as_bytes())?;
    let handover = hand_over(session, &device, added::UNHEARD_OF).await?;
    linking.go_on(store, |_, link| {
        link.channel.received();
        link.channel.leave_message(&handover)?;
        link.stage = Stage::HandedOver { device: device.client_key };
        Ok(())
    })
}

/// A KeyPackage by which a device of this user asks to be added.
///
/// # Errors
/// [`Error::BadBlob`].
pub(crate) fn parse_device(session: &Session, key_package: &[u8]) -> Result<NewDevice> {
    let user = &session.account.user;
    session
        .store
        .read(|tx| Ok(eid::parse_device(tx, user, key_package)))?
        .ok_or(Error::BadBlob("link request"))
}

/// Reads what came of the groups, and adds a device to the user's identity, where it has so many seconds to show up. Returns
/// what it is to be handed.
pub(crate) async fn hand_over(session: &Session, device: &NewDevice, seconds: u64) -> Result<Handover> {
    let step = session.store.step().await?;
    // The groups are handed over as they are now: the device takes nobody in them of whom it was not told. A queue whose
    // promise the server broke keeps nobody from having another device.
    match Box::pin(session.drain(&step, QueueKind::Group)).await {
        Err(Error::Queue(_)) => {}
        drained => goes_on(drained)?,
    }
    session.store.write(|tx| added::expect(tx, &device.client_key, seconds))?;
    let welcome = eid::add(&session.api, &session.store, &session.account, device).await?;
    session.store.read(|tx| Handover::new(tx, welcome))
}
