//! The new device's side of a link: it comes to the rendezvous with the code, and becomes a device of the user.

use std::{path::Path, sync::Arc};

use postern_api::Http;
use postern_protocol::{MlsMessage, key::SigningKey, name::Domain, problem::ProblemType, rendezvous::Side};

use super::{
    Done, Handover, LinkCode, Linking, Offer, Request, Stage, agreement, channel::Channel, ends_it, give_up,
};
use crate::{
    account::Account,
    error::{Error, LinkError, Result},
    identity::eid,
    options::Options,
    session, setup,
    store::{Store, Tx},
};

/// Bytes of a payload that every server takes.
const MAX_BYTES: usize = 8192;
/// Seconds for which a rendezvous may live, at most. The server says when it is over.
const LONGEST: u64 = 60 * 60;

/// Makes this a device of the user at whose old device the code is shown, or goes on with that.
pub(crate) async fn link(
    directory: &Path,
    server: &str,
    code: &LinkCode,
    options: &Options,
) -> Result<Arc<Store>> {
    let http = Http::new(server)?;
    let store = Arc::new(Store::create(directory, options)?);
    let step = store.step().await?;
    let (account, linking) = store.read(|tx| Ok((Account::find(tx)?, Linking::find(tx)?)))?;
    let taken_over = linking.filter(|linking| linking.stage == Stage::TakenOver);
    let account = match (account, taken_over) {
        (Some(account), Some(linking)) if !account.ready => {
            say_done(&store, &http, linking).await?;
            account
        }
        // It asked to be added, at most.
        (account, _) if account.as_ref().is_none_or(|account| account.eid_group_id.is_none()) => {
            match meet(&store, &http, server, code).await {
                // The keys of this device stay, for the case that the old one added them.
                Err(error) if ends_it(&error) => {
                    give_up(&store, &http).await?;
                    return Err(error);
                }
                account => account?,
            }
        }
        _ => return Err(Error::ClientExists(directory.to_owned())),
    };
    let api = session::api(&store, http, &account);
    setup::finish(&store, &api, account).await?;
    store.write(Linking::delete)?;
    drop(step);
    Ok(store)
}

/// From the code to everything that the old device hands over.
async fn meet(store: &Store, http: &Http, server: &str, code: &LinkCode) -> Result<Account> {
    let under_way = store
        .read(Linking::find)?
        .filter(|linking| linking.channel.number == code.number && linking.channel.ends > store.now());
    let mut linking = match under_way {
        Some(linking) => linking,
        None => {
            give_up(store, http).await?;
            agree(store, http, code).await?
        }
    };
    loop {
        linking = linking.flush(store, http).await?;
        let payloads = match linking.stage {
            Stage::TakenOver => Vec::new(),
            _ => linking.channel.receive(http, store.now()).await?,
        };
        for payload in payloads {
            linking = match linking.stage {
                Stage::Confirmed => linking.go_on(store, |tx, link| {
                    let offer: Option<Offer> = link.channel.open(&payload)?;
                    offer.map_or(Ok(()), |offer| request(tx, link, server, offer))
                })?,
                Stage::Requested => linking.go_on(store, |tx, link| {
                    let handover: Option<Handover> = link.channel.open(&payload)?;
                    handover.map_or(Ok(()), |handover| take_over(tx, link, handover))
                })?,
                _ => linking,
            };
        }
        if linking.stage == Stage::TakenOver {
            say_done(store, http, linking).await?;
            return store.read(Account::load);
        }
    }
}

/// Comes to the rendezvous and agrees on a secret. Nothing of that is kept before it is done: a try that breaks off is
/// used up.
async fn agree(store: &Store, http: &Http, code: &LinkCode) -> Result<Linking> {
    let domain: Domain = http.authentication_keys().await?.domain;
    let key = SigningKey::generate();
    http.join_rendezvous(code.number, &key, &domain).await.map_err(|error| match error.problem() {
        Some(ProblemType::NotFound) => LinkError::UnknownCode.into(),
        Some(ProblemType::RendezvousClosed) => LinkError::UsedCode.into(),
        _ => Error::from(error),
    })?;
    let mut channel =
        Channel::new(code.number, domain.clone(), &key, MAX_BYTES, store.now().saturating_add(LONGEST));
    let (begun, own) = agreement::begin(Side::Guest, code.number, &domain, code.words);
    channel.leave(own);
    while let Some(sent) = channel.send(http).await? {
        channel.sent(&sent);
    }
    let answer = loop {
        if let Some(answer) = channel.receive(http, store.now()).await?.into_iter().next() {
            break answer;
        }
    };
    channel.received();
    let agreed = answer.as_bytes().split_at_checked(HALF).and_then(|(half, confirmation)| {
        let agreed = begun.finish(half)?;
        agreed.theirs().is_confirmed_by(confirmation).then_some(agreed)
    });
    let Some(agreed) = agreed else {
        channel.end(http).await;
        return Err(LinkError::WrongCode.into());
    };
    channel.leave(agreed.own().confirmation().to_vec());
    channel.agreed = Some(agreed);
    let linking = Linking::new(Stage::Confirmed, channel);
    store.write(|tx| linking.save(tx))?;
    Ok(linking)
}

/// Bytes of one side's half of the agreement.
const HALF: usize = 33;

/// Makes this device's keys, unless they were made before, and asks to be added.
fn request(tx: &Tx<'_>, link: &mut Linking, server: &str, offer: Offer) -> Result<()> {
    let user = offer.user;
    // A device is linked at its user's home.
    if user.domain() != link.channel.domain() {
        return Err(LinkError::Tampered.into());
    }
    let account = match Account::find(tx)? {
        Some(account) if account.user == user => account,
        _ => Account::new(server.to_owned(), user)?,
    };
    account.save(tx)?;
    let key_package = eid::key_package(tx, &account.user, &account.client_key())?;
    link.channel.leave_message(&Request { key_package: MlsMessage::new(key_package) })?;
    link.stage = Stage::Requested;
    Ok(())
}

/// Becomes a device of the user, in the transaction that says so to the old one.
fn take_over(tx: &Tx<'_>, link: &mut Linking, handover: Handover) -> Result<()> {
    handover.take_over(tx, &mut Account::load(tx)?)?;
    link.channel.leave_message(&Done {})?;
    link.stage = Stage::TakenOver;
    Ok(())
}

/// Tells the old device that this one has it all. If the rendezvous is over, the old device will see it in the user's
/// identity.
async fn say_done(store: &Store, http: &Http, linking: Linking) -> Result<()> {
    match linking.flush(store, http).await {
        Ok(_) | Err(Error::Link(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
