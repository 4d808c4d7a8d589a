//! Asking the AS for a user, and what becomes of the answer: what goes on from what was seen is
//! kept, and what does not waits for a person.

use std::future::Future;

use postern_protocol::{
    PublicKey,
    auth::{AuthenticationKeys, UserRecord},
    name::{Domain, UserName},
    problem::ProblemType,
};

use super::{
    claims, eid, hidden, issuer,
    known::{self, Kept, Which},
    public_eid::Leaf,
    succession,
    verify::{Reader, Shown, VerifiedUser},
};
use crate::{
    account::{self, Account},
    clock::is_of_the_future,
    contact, elsewhere,
    error::{Error, IdentityError, Result},
    event::Event,
    group, profile,
    server::Api,
    store::{Store, Tx},
};

/// How often a lookup is tried again when another one of the same user ended before it.
const ATTEMPTS: u32 = 5;

/// An AS as a lookup asks it.
pub(crate) trait Records: Sync {
    /// The keys of a domain's AS, as this client trusts them.
    fn keys(&self, store: &Store, domain: &Domain)
    -> impl Future<Output = Result<AuthenticationKeys>> + Send;

    /// A user's record, with the commits of an incarnation since an epoch if that is asked for.
    fn record(
        &self,
        name: &UserName,
        since: Option<(u32, u64)>,
    ) -> impl Future<Output = Result<UserRecord>> + Send;
}

impl Records for Api {
    async fn keys(&self, store: &Store, domain: &Domain) -> Result<AuthenticationKeys> {
        issuer::authentication_keys(store, &elsewhere::api_for(self, domain)?).await
    }

    async fn record(&self, name: &UserName, since: Option<(u32, u64)>) -> Result<UserRecord> {
        let secrets = self.wallet.store().read(|tx| profile::lookup_secrets(tx, name))?;
        let mut secrets = secrets.iter();
        let api = elsewhere::api_for(self, name.domain())?;
        loop {
            let secret = secrets.next();
            let answer = match since {
                None => api.look_up_user(name, secret).await,
                Some((incarnation, after)) => api.look_up_user_since(name, secret, incarnation, after).await,
            };
            match answer {
                // Unknown to those that show this secret: perhaps not to those that show the next one.
                Err(error) if error.problem() == Some(ProblemType::NotFound) && secrets.len() > 0 => {}
                answer => return elsewhere::noted(&api, answer),
            }
        }
    }
}

/// A user as lookups showed it before.
#[derive(PartialEq, Eq)]
struct Before {
    accepted: Option<Kept>,
    pending: Option<Kept>,
}

/// A record next to what was seen before.
enum Judged {
    /// The user was not known.
    First(Shown),
    /// It goes on from an identity that is kept.
    GoesOn(Which, Shown),
    /// It is another identity, or (`split`) another history of the known one.
    Another { shown: Shown, split: bool },
}

/// A user who was seen under another name.
struct Former {
    /// The name under which the user is kept.
    user: UserName,
    /// Whether clients that are known gave the user the new name. Else those did that began the user anew: they count for
    /// nothing before a person accepts them, and until then the user stays where it is kept.
    is_proven: bool,
}

/// A lookup's result.
pub(super) struct Found {
    pub user: VerifiedUser,
    pub leaves: Vec<Leaf>,
    /// Ends of credentials that the AS signed of the user's clients, in seconds since 1970.
    pub credentials: Vec<(PublicKey, u64)>,
    /// Seconds since 1970.
    pub time: u64,
}

/// Asks the AS for a user and verifies the answer: the user's devices, every credential, every contact,
/// and that the identity goes on from what was seen of it before.
///
/// # Errors
/// [`IdentityError::Reset`] and [`IdentityError::Split`] until a person accepts what is shown by now; any
/// other [`IdentityError`] for a record that is invalid.
pub(crate) async fn look_up(api: &impl Records, store: &Store, name: &UserName) -> Result<VerifiedUser> {
    let keys = api.keys(store, name.domain()).await?;
    let found = hidden::noted(store, name, ask(api, &keys, store, name).await)?;
    Ok(found.user)
}

/// Asks and verifies as [`look_up`] does, and returns all that the AS says of the user's devices.
pub(super) async fn find(api: &impl Records, store: &Store, name: &UserName) -> Result<Found> {
    let keys = api.keys(store, name.domain()).await?;
    hidden::noted(store, name, ask(api, &keys, store, name).await)
}

async fn ask(api: &impl Records, keys: &AuthenticationKeys, store: &Store, name: &UserName) -> Result<Found> {
    for _ in 0..ATTEMPTS {
        let mut before = store.read(|tx| Before::load(tx, name))?;
        let mut judged = judge(api, keys, store.now(), (name, None), &before).await?;
        let mut former = None;
        if let Judged::First(shown) = &judged
            && let Some(old) = store.read(|tx| seen_as(tx, name, shown))?
        {
            // It goes on from what was seen under the other name, or is none.
            before = store.read(|tx| Before::load(tx, &old))?;
            judged = judge(api, keys, store.now(), (name, Some(&old)), &before).await?;
            former = Some(Former::of(api, name, old, &before, &judged).await?);
        }
        let taken = store.write(|tx| {
            let kept_as = former.as_ref().map_or(name, |former| &former.user);
            if Before::load(tx, kept_as)? != before {
                return Ok(None);
            }
            let taken = match &former {
                Some(Former { user, is_proven: false }) => {
                    // A device that its user's reset left out takes no name from those that began anew.
                    if Account::load(tx)?.user == *user {
                        return Ok(Some(Err(IdentityError::Reset)));
                    }
                    take(tx, user, Some(name), &before, judged)
                }
                Some(Former { user, is_proven: true }) => {
                    take_name(tx, user, name)?;
                    take(tx, name, None, &before, judged)
                }
                None => take(tx, name, None, &before, judged),
            };
            taken.map(Some)
        })?;
        if let Some(taken) = taken {
            return Ok(taken?);
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// The user whom a record showed under another name when this device saw it last: its identity, or one that a reset of the user
/// ended since, as the AS says.
fn seen_as(tx: &Tx<'_>, name: &UserName, shown: &Shown) -> Result<Option<UserName>> {
    if let Some(old) = known::named(tx, &shown.founding)? {
        return Ok(Some(old));
    }
    let old = known::begun_as(tx, shown.begun.iter().rev().take(succession::MOST_RESETS))?;
    Ok(old.filter(|old| old.domain() == name.domain()))
}

impl Former {
    /// Verifies that what a record shows under a `name` became of what was seen of the `user` before.
    ///
    /// # Errors
    /// [`IdentityError::OtherUser`] if it did not, and as [`succession::trace`].
    async fn of(
        api: &impl Records,
        name: &UserName,
        user: UserName,
        before: &Before,
        judged: &Judged,
    ) -> Result<Self> {
        let is_proven = match (judged, &before.accepted) {
            (Judged::GoesOn(which, _), _) => *which == Which::Accepted,
            (Judged::Another { shown, split: false }, Some(kept)) => {
                succession::trace(api, (name, &user), kept, shown).await?
            }
            (Judged::First(_) | Judged::Another { .. }, _) => return Err(IdentityError::OtherUser.into()),
        };
        Ok(Self { user, is_proven })
    }
}

impl Judged {
    fn shown(&self) -> &Shown {
        match self {
            Self::First(shown) | Self::GoesOn(_, shown) | Self::Another { shown, .. } => shown,
        }
    }
}

impl Before {
    fn load(tx: &Tx<'_>, name: &UserName) -> Result<Self> {
        let find = |which| known::find(tx, name, which);
        Ok(Self { accepted: find(Which::Accepted)?, pending: find(Which::Pending)? })
    }

    /// The time of the newest ticket. One of a time to come, which came while this clock and the AS's were ahead, counts for
    /// nothing: no other one would be newer before that time. What was seen of the identity counts all the same.
    fn seen(&self, now: u64) -> u64 {
        let seen = self.accepted.iter().chain(&self.pending).map(|kept| kept.seen);
        seen.filter(|seen| !is_of_the_future(*seen, now)).max().unwrap_or_default()
    }
}

/// Asks the AS and judges the answer. What goes on from the accepted identity is that one, whatever was
/// shown meanwhile. The user is asked for by its present name, and `was` kept under another one.
async fn judge(
    api: &impl Records,
    keys: &AuthenticationKeys,
    now: u64,
    (name, was): (&UserName, Option<&UserName>),
    before: &Before,
) -> Result<Judged> {
    let since = |kept: &Kept| Some((kept.eid.incarnation, kept.eid.epoch));
    let reader = Reader { name, was, keys, now, seen: before.seen(now) };
    let Some(accepted) = &before.accepted else {
        return Ok(Judged::First(reader.first(&api.record(name, None).await?)?));
    };
    let mut record = api.record(name, since(accepted)).await?;
    if let Some(shown) = reader.later(&record, accepted)? {
        return Ok(Judged::GoesOn(Which::Accepted, shown));
    }
    let split = !is_reset(accepted, &record);
    if let Some(pending) = &before.pending {
        record = api.record(name, since(pending)).await?;
        if let Some(shown) = reader.later(&record, pending)? {
            return Ok(Judged::GoesOn(Which::Pending, shown));
        }
    }
    Ok(Judged::Another { shown: reader.first(&record)?, split })
}

/// Whether a record shows that the known incarnation went on from what was seen, ended, and was followed
/// by another (AS-8).
fn is_reset(known: &Kept, record: &UserRecord) -> bool {
    let end = record.commits.iter().fold(known.eid, |state, commit| state.followed_by(commit.as_bytes()));
    let ended =
        usize::try_from(known.eid.incarnation).ok().and_then(|incarnation| record.ended.get(incarnation));
    record.incarnation > known.eid.incarnation && ended == Some(&end.transcript)
}

/// Lets a lookup take effect. What has to be told of a record that is not accepted is kept, too: so it
/// is a result, and no failure of the transaction. The user is kept by this `name`; those that began it anew call it
/// something else (`called`).
fn take(
    tx: &Tx<'_>,
    name: &UserName,
    called: Option<&UserName>,
    before: &Before,
    judged: Judged,
) -> Result<Result<Found, IdentityError>> {
    let kept = |shown: &Shown| Kept {
        founding: shown.founding,
        eid: shown.user.eid,
        public_group: shown.public_eid.encode(),
        former: shown.former_names(),
        called: called.cloned(),
        seen: shown.time.max(before.seen(tx.now())),
        verified: false,
    };
    let clients = |shown: &Shown| -> Vec<PublicKey> {
        shown.user.clients.iter().map(|client| client.client_key).collect()
    };
    if known::has_client_of_another(tx, name, judged.shown().credentials.iter().map(|(client, _)| *client))? {
        return Ok(Err(IdentityError::OtherUser));
    }
    group::reappeared(tx, name)?;
    match judged {
        Judged::First(shown) => {
            known::replace(tx, name, Which::Accepted, &kept(&shown))?;
            known::keep_clients(tx, name, Which::Accepted, &clients(&shown))?;
            claims::check(tx, name)?;
            see_profile(tx, name, &shown, true)?;
            Ok(Ok(shown.into()))
        }
        Judged::GoesOn(Which::Accepted, shown) => {
            if let Some(accepted) = &before.accepted {
                tell_of_devices(tx, name, accepted, &shown)?;
            }
            if before.pending.is_some() {
                // The records shown meanwhile were somebody else's.
                known::forget(tx, name, Which::Pending)?;
                known::doubt(tx, name)?;
                Event::IdentitySplit { user: name.clone() }.record(tx)?;
            }
            // The profile of a user that another device of this user handed over is the first one, and no change.
            let is_new = !known::has_clients(tx, name)? && profile::version(tx, name)? == 0;
            known::extend(tx, name, Which::Accepted, &kept(&shown), &shown.transcripts)?;
            known::keep_clients(tx, name, Which::Accepted, &clients(&shown))?;
            claims::check(tx, name)?;
            see_profile(tx, name, &shown, is_new)?;
            if let Some(account) = Account::find(tx)?.filter(|account| account.user == *name) {
                eid::follow(tx, &account, &shown.commits)?;
            }
            Ok(Ok(shown.into()))
        }
        Judged::GoesOn(Which::Pending, shown) => {
            known::extend(tx, name, Which::Pending, &kept(&shown), &shown.transcripts)?;
            known::keep_clients(tx, name, Which::Pending, &clients(&shown))?;
            let was_called = before.pending.as_ref().and_then(|pending| pending.called.as_ref());
            if called.is_some() && called != was_called {
                tell_of_reset(tx, name, called)?;
            }
            Ok(Err(IdentityError::Reset))
        }
        Judged::Another { shown, split } => {
            known::replace(tx, name, Which::Pending, &kept(&shown))?;
            known::keep_clients(tx, name, Which::Pending, &clients(&shown))?;
            known::doubt(tx, name)?;
            if split {
                Event::IdentitySplit { user: name.clone() }.record(tx)?;
                return Ok(Err(IdentityError::Split));
            }
            tell_of_reset(tx, name, called)?;
            Ok(Err(IdentityError::Reset))
        }
    }
}

/// Tells that a user was begun anew, and what those that did so call it by now, if that is something else.
fn tell_of_reset(tx: &Tx<'_>, user: &UserName, called: Option<&UserName>) -> Result<()> {
    Event::IdentityReset { user: user.clone(), name: called.cloned() }.record(tx)?;
    group::was_reset(tx, user, called)
}

/// Takes the identity that the AS shows by now as a user's: a person said that it is still the same. The user is named as it is
/// kept, or as those that began it anew call it. Returns the user's present name; `None` if nothing waits for that.
pub(crate) fn accept_reset(tx: &Tx<'_>, name: &UserName) -> Result<Option<UserName>> {
    let Some(user) = known::waiting_as(tx, name)? else { return Ok(None) };
    let pending = known::find(tx, &user, Which::Pending)?;
    known::accept_reset(tx, &user)?;
    let Some(called) = pending.and_then(|pending| pending.called) else { return Ok(Some(user)) };
    // Somebody else is known by that name meanwhile: the next lookup says who has it.
    if known::find(tx, &called, Which::Accepted)?.is_some() {
        return Ok(Some(user));
    }
    take_name(tx, &user, &called)?;
    Ok(Some(called))
}

/// Keeps a user, who may be this device's own, under the name that the user has by now (AS-9).
fn take_name(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    if Account::load(tx)?.user == *from {
        account::take_name(tx, from, to)?;
    } else {
        known::rename(tx, from, to)?;
        contact::moved(tx, from, to)?;
        group::was_renamed(tx, from, to)?;
    }
    Event::Renamed { from: from.clone(), to: to.clone() }.record(tx)
}

/// Takes note of the profile of a user whose identity is accepted, and may be `new`, or of its absence.
fn see_profile(tx: &Tx<'_>, name: &UserName, shown: &Shown, is_new: bool) -> Result<()> {
    let clients = Leaf::clients(&shown.leaves, &shown.names);
    if let Some(signed) = &shown.profile {
        profile::seen(tx, name, signed, &shown.founding.transcript, &clients, is_new)?;
    }
    profile::check_claim(tx, name, &clients)
}

/// Tells which devices a user has more and less than before.
fn tell_of_devices(tx: &Tx<'_>, name: &UserName, before: &Kept, shown: &Shown) -> Result<()> {
    let before = Leaf::clients(&before.public_eid()?.leaves(name)?, &shown.names);
    let after = Leaf::clients(&shown.leaves, &shown.names);
    for device in after.iter().filter(|device| !before.contains(device)) {
        Event::DeviceAdded { user: name.clone(), device: *device }.record(tx)?;
    }
    for device in before.iter().filter(|device| !after.contains(device)) {
        Event::DeviceRemoved { user: name.clone(), device: *device }.record(tx)?;
        group::was_removed(tx, name, device)?;
    }
    Ok(())
}

impl From<Shown> for Found {
    fn from(shown: Shown) -> Self {
        Self { user: shown.user, leaves: shown.leaves, credentials: shown.credentials, time: shown.time }
    }
}
