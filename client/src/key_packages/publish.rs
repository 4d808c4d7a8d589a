//! Publication of this device's KeyPackages: keeps some at the QS for friends to fetch, each with a
//! leaf key and a delivery address of its own, and one of last resort; publishes again before they
//! run out or run old.

use postern_protocol::{
    mls::Pseudonym,
    problem::ProblemType,
    qs::{CountKeyPackages, PublishKeyPackages, QueueKind},
};

use super::{
    own::make_key_package,
    stock::{self, LastTimes, Publication},
};
use crate::{
    account::Account,
    clock::is_recent,
    contact::{self, Friendship},
    error::{Error, Result},
    mailbox::{Queue, add_addresses, fresh_address},
    server::Api,
    store::{Store, Tx},
};

/// How many are published at a time, and how few may be left.
const STOCK: usize = 20;
const LOW: u32 = 5;
const DAY: u64 = 24 * 60 * 60;
/// Seconds for which a package has to be good yet to count. Members that are away read of an addition later: until
/// messages are deleted, which is after 60 days at most (`operator.settings.message_days`), and two days of slack for
/// clocks and the ends of days.
const GOOD_FOR: u64 = 62 * DAY;
/// Seconds after which all are replaced: their lifetime of 84 days, less [`GOOD_FOR`] and a day.
const RENEW_AFTER: u64 = 21 * DAY;
/// Seconds before another publication is made, after one that the QS refused.
const RETRY_AFTER: u64 = 60 * 60;

/// Publishes if it is time to.
pub(crate) async fn publish_if_due(store: &Store, api: &Api) -> Result<()> {
    let (friendship, outstanding, last) =
        store.read(|tx| Ok((Friendship::load(tx)?, stock::outstanding(tx)?, stock::last_times(tx)?)))?;
    let outstanding = match outstanding {
        Some((_, Some(refused))) if is_recent(refused, RETRY_AFTER, store.now()) => return Ok(()),
        // The QS takes it never, or would hand nothing of it out.
        Some((_, refused))
            if refused.is_some() || store.read(|tx| stock::expires_before(tx, good(tx)))? =>
        {
            store.write(stock::give_up)?;
            None
        }
        Some((publication, _)) => Some(publication),
        None if is_due(store, api, &friendship, last.as_ref()).await? => None,
        None => return Ok(()),
    };
    let Publication { addresses, last_resort_address, key_packages, last_resort } = match outstanding {
        Some(publication) => publication,
        None => store.write(|tx| prepare(tx, &friendship))?,
    };
    let queue = store.read(|tx| Queue::load(tx, QueueKind::Group))?;
    add_addresses(api, &queue, addresses, vec![last_resort_address]).await?;
    let body = PublishKeyPackages {
        friendship_token: friendship.token(),
        stock_id: friendship.stock_id,
        key_packages,
        last_resort: Some(last_resort),
        // Later, an unknown token was replaced by another device, or no device of this user was
        // here for long.
        create: last.is_none(),
    };
    match api.publish_key_packages(&body, &friendship.secrets.owner()).await {
        // The next run starts anew. The other device's letter is read by then, if there is one.
        Err(error) if error.problem() == Some(ProblemType::NotFound) && last.is_some() => {
            return store.write(contact::doubt);
        }
        Err(error) if error.refusal().is_some() => {
            store.write(stock::refused)?;
            return Err(error);
        }
        answer => answer?,
    };
    store.write(stock::published)
}

/// Publishes with the next errands under another friendship: `first`, which this device made and nobody published under
/// yet, or one that another device did.
pub(crate) fn publish_elsewhere(tx: &Tx<'_>, first: bool) -> Result<()> {
    stock::give_up(tx)?;
    if first { stock::unpublished(tx) } else { stock::publish_anew(tx) }
}

/// Publishes with the next errands what takes the place of all that is there.
pub(crate) fn publish_again(tx: &Tx<'_>) -> Result<()> {
    stock::give_up(tx)?;
    stock::publish_anew(tx)
}

/// Makes it time to ask the QS how many are left.
pub(crate) fn forget_count(tx: &Tx<'_>) -> Result<()> {
    stock::counted(tx, 0)
}

async fn is_due(store: &Store, api: &Api, friendship: &Friendship, last: Option<&LastTimes>) -> Result<bool> {
    let Some(last) = last else { return Ok(true) };
    // KeyPackages that were published by a clock that was ahead are good for nobody before that time.
    if !is_recent(last.published, RENEW_AFTER, store.now()) {
        return Ok(true);
    }
    // Only the QS knows which ones friends fetched and did not use: it is asked once a day.
    let good = store.read(|tx| stock::unused(tx, good(tx)))?;
    if good > LOW && is_recent(last.counted, DAY, store.now()) {
        return Ok(false);
    }
    let count = CountKeyPackages { friendship_token: friendship.token(), stock_id: friendship.stock_id };
    let remaining = match api.count_key_packages(&count, &friendship.secrets.owner()).await {
        Err(error) if error.problem() == Some(ProblemType::NotFound) => 0,
        answer => answer?.remaining,
    };
    store.write(|tx| stock::counted(tx, tx.now()))?;
    Ok(remaining.min(good) <= LOW)
}

/// The time until which a package has to be good to count.
fn good(tx: &Tx<'_>) -> u64 {
    tx.now().saturating_add(GOOD_FOR)
}

/// Makes a stock. Its keys are kept before anything is sent.
fn prepare(tx: &Tx<'_>, friendship: &Friendship) -> Result<Publication> {
    let account = Account::load(tx)?;
    stock::begin(tx)?;
    let make = |last_resort| {
        let address = fresh_address()?;
        let delivery = account.delivery_at(address);
        let made = make_key_package(
            tx,
            &account,
            &friendship.secrets.friend,
            &delivery,
            Pseudonym::random(),
            last_resort,
        )?;
        stock::keep(tx, &made, &address, last_resort)?;
        Ok::<_, Error>((address, made.package))
    };
    let (addresses, key_packages) =
        (0..STOCK).map(|_| make(false)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (last_resort_address, last_resort) = make(true)?;
    let publication = Publication { addresses, last_resort_address, key_packages, last_resort };
    stock::keep_publication(tx, &publication)?;
    Ok(publication)
}
