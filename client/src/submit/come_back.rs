//! Following a group, and coming back into one that this device cannot follow any more (DS-7): after commits were lost,
//! or after the DS was restored to an earlier state (QS-12).

use std::{collections::BTreeSet, time::Duration};

use postern_protocol::{
    ds::GroupId, mls::DeliveryAddress, name::UserName, problem::ProblemType, qs::QueueKind,
};

use super::{ATTEMPTS, Fate};
use crate::{
    clock::Deadline,
    error::{Error, Result, goes_on},
    event::Event,
    group::{self, Differences, GroupState, Kind, strayed},
    identity, mailbox,
    server::Api,
    session::Session,
    store::{Step, Store, Tx},
};

/// How long changes of a group that are on their way from another homeserver are waited for.
const ON_THE_WAY: Duration = Duration::from_secs(3);
/// The same in all, however many of them come: a member can commit without end.
const ALL_ON_THE_WAY: Duration = Duration::from_secs(30);
/// The most users about whom the AS is asked in vain in one attempt to come back, or in.
const MOST_ASKED_IN_VAIN: usize = 12;
/// The most users about whom the AS is asked in one attempt, also if it confirms whatever is asked. Beyond them a device that is to
/// come in goes on with its next attempt, since who is confirmed is asked about no more; of one that comes back a person judges.
const MOST_ASKED: usize = 100;

/// Users about whom the AS was asked in an attempt to come back, or in.
#[derive(Debug, Default)]
pub(super) struct Asked {
    users: BTreeSet<UserName>,
    /// How many of them it did not show to be whom strangers say they are.
    in_vain: usize,
}

impl Asked {
    /// Whether the AS is to be asked about a user: once, and no more where it was asked in vain often. A server and a member can
    /// show any number of made-up strangers, and a lookup costs a token. A user that is confirmed is asked about once for good,
    /// which each member of a group is at some time. But an AS that is in league with them confirms any number, and takes its time.
    fn takes(&mut self, user: &UserName) -> bool {
        let may_ask = self.in_vain < MOST_ASKED_IN_VAIN && self.users.len() < MOST_ASKED;
        may_ask && self.users.insert(user.clone())
    }
}

/// A wait for changes of a group: for a while, which begins anew with each epoch that comes, and for so long in all.
struct Wait {
    pause: Duration,
    /// The end of the while.
    next: Deadline,
    end: Deadline,
    /// The last epoch that came.
    epoch: Option<u64>,
}

impl Wait {
    fn new(pause: Duration, all: Duration) -> Self {
        Self { pause, next: Deadline::after(pause), end: Deadline::after(all), epoch: None }
    }

    /// The rest of the wait of a device that is in this epoch; zero when it is over.
    fn left(&mut self, epoch: u64) -> Duration {
        if self.epoch != Some(epoch) {
            (self.next, self.epoch) = (Deadline::after(self.pause), Some(epoch));
        }
        self.next.left().min(self.end.left())
    }
}

impl Session {
    /// Makes sure that this device follows the group; where it does not, tries to come back unless it
    /// did so lately.
    ///
    /// # Errors
    /// [`Error::CannotFollow`].
    pub(super) async fn be_current(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        // It was no refusal of what the caller wants.
        let of_the_way_in = |error: Error| if error.is_final() { Error::CannotFollow } else { error };
        if self.store.read(|tx| group::is_entering(tx, id))? {
            self.enter(step, id).await.map_err(of_the_way_in)?;
        }
        let state = |tx: &Tx<'_>| {
            let is_to_go = GroupState::load(tx, id)?.is_to_go();
            Ok((strayed::state(tx, id)?, strayed::may_try(tx, id)?, is_to_go))
        };
        let tries = match self.store.read(state)? {
            (strayed::State::Follows | strayed::State::Behind, ..) | (strayed::State::Doubtful, _, false) => {
                return Ok(());
            }
            (strayed::State::Doubtful, ..) => true,
            // Nobody hears what is said in an epoch that the DS does not have any more.
            (strayed::State::Strayed | strayed::State::Lost, may_try, _) => may_try,
            (strayed::State::ByHand, ..) => false,
        };
        if tries {
            self.come_back(step, id).await.map_err(of_the_way_in)?;
        }
        match self.store.read(|tx| strayed::state(tx, id))? {
            strayed::State::Strayed | strayed::State::ByHand => Err(Error::CannotFollow),
            _ => Ok(()),
        }
    }

    /// Looks whether this device still follows a group, and comes back if not.
    ///
    /// # Errors
    /// Where it is not known for good that it cannot come back, the next step tries again; else a later
    /// one does.
    pub(crate) async fn come_back(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let done = match self.store.read(|tx| strayed::state(tx, id))? {
            strayed::State::Doubtful | strayed::State::Behind | strayed::State::Lost => {
                self.look(step, id).await
            }
            _ => self.rejoin(step, id, &Differences::default()).await,
        };
        if let Err(Error::Strangers(differences)) = &done {
            // Not silently: a person decides whether to take the group as it is now.
            return self.store.write(|tx| {
                strayed::leave_to_person(tx, id)?;
                Event::Strangers {
                    group: id.clone(),
                    strangers: differences.strangers.clone(),
                    admins: differences.admins.clone(),
                    removed: differences.removed.clone(),
                    coming_in: false,
                }
                .record(tx)
            });
        }
        if let Err(error) = &done
            && error.is_final()
        {
            self.store.write(|tx| {
                let members = match GroupState::load(tx, id) {
                    Err(Error::NotMember) => return Ok(()),
                    group => group?.size(),
                };
                strayed::failed(tx, id, members, error, &self.options)
            })?;
        }
        done
    }

    /// Compares a group with what the DS has of it: this device cannot follow where commits are
    /// missing, and cannot commit where the DS waits for a proposal that this device does not have. A DS that was
    /// restored to an earlier state (QS-12) is behind this device, or went another way since.
    async fn look(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let known = match self.store.read(|tx| GroupState::load(tx, id)) {
            Err(Error::NotMember) => None,
            group => Some(group?.epoch()),
        };
        let current = match self.fetch_current(id).await {
            Err(error) if error.refusal().is_some_and(|problem| problem.kind == ProblemType::NotAllowed) => {
                return if self.learns_of_its_removal(step, id).await? { Ok(()) } else { Err(error) };
            }
            current => current?,
        };
        let epoch = GroupState::epoch_of(&current)?;
        // All that led there is in the queue, unless it was lost.
        self.drain(step, QueueKind::Group).await?;
        let is_behind = |group: &GroupState| {
            let has_proposals = group.pending_proposals() >= current.proposals.len();
            !group.is_to_go() && (group.epoch() < epoch || group.epoch() == epoch && !has_proposals)
        };
        if self.misses_what_is_on_the_way(step, id, is_behind).await?
            && self.store.write(|tx| strayed::wait(tx, id))?
        {
            return Ok(());
        }
        let follows = self.store.write(|tx| {
            let group = match GroupState::load(tx, id) {
                Err(Error::NotMember) => return Ok(true),
                group => group?,
            };
            // This device knew no later epoch than the DS then had, and each epoch has one tree.
            let was_restored = known.is_some_and(|known| known > epoch)
                || group.epoch() == epoch && !group.has_tree(&current.ratchet_tree)?;
            let follows = !was_restored
                && (group.epoch() > epoch
                    || group.epoch() == epoch && group.pending_proposals() >= current.proposals.len());
            let reason = match follows {
                true if !group.is_to_go() => {
                    strayed::clear(tx, id)?;
                    group.hear_of_epoch(tx, epoch)?;
                    return Ok(true);
                }
                true => "the server wants to remove this device, which is still in use",
                false if was_restored => "the server was restored to an earlier state of the group",
                false => "messages of the group were lost",
            };
            strayed::note(tx, id, (strayed::State::Strayed, group.size()), reason, &self.options)?;
            Ok(false)
        })?;
        let may_try = self.store.read(|tx| strayed::may_try(tx, id))?;
        if follows || !may_try { Ok(()) } else { self.rejoin(step, id, &Differences::default()).await }
    }

    /// Whether this device, which is in a group no more as the DS says, learns so by the commit that removed it: that came, or
    /// is on its way from another homeserver.
    async fn learns_of_its_removal(&self, step: &Step<'_>, id: &GroupId) -> Result<bool> {
        self.drain(step, QueueKind::Group).await?;
        if self.misses_what_is_on_the_way(step, id, |_| true).await? {
            return self.store.write(|tx| strayed::wait(tx, id));
        }
        self.store.read(|tx| match GroupState::load(tx, id) {
            Err(Error::NotMember) => Ok(true),
            group => group.map(|_| false),
        })
    }

    /// Waits while this device is behind a group at another homeserver, whose messages may come later than its answers: for
    /// some seconds, which begin anew with each commit that comes, and for [`ALL_ON_THE_WAY`] at most. Returns whether it still
    /// is, and may catch up; false for a group at the own homeserver, where all that an answer tells of is in the queue.
    pub(super) async fn misses_what_is_on_the_way(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        is_behind: impl Fn(&GroupState) -> bool,
    ) -> Result<bool> {
        if *id.domain() == self.api.origin {
            return Ok(false);
        }
        let mut wait = Wait::new(ON_THE_WAY, ALL_ON_THE_WAY);
        loop {
            let missing = self.store.read(|tx| {
                let strayed =
                    matches!(strayed::state(tx, id)?, strayed::State::Strayed | strayed::State::ByHand);
                let group = match GroupState::load(tx, id) {
                    Err(Error::NotMember) => return Ok(None),
                    group => group?,
                };
                Ok((!strayed && is_behind(&group)).then(|| group.epoch()))
            })?;
            let Some(epoch) = missing else { return Ok(false) };
            let left = wait.left(epoch);
            if left.is_zero() {
                return Ok(true);
            }
            let dequeued = self.poll(QueueKind::Group, left).await?;
            self.process(step, QueueKind::Group, &dequeued).await?;
        }
    }

    /// Comes back into a group by external commit (DS-7), for a client that cannot follow any more; or comes in, where another
    /// device of this user handed the group over.
    ///
    /// # Errors
    /// [`Error::Strangers`] where the group differs by more than a person accepted.
    pub(crate) async fn rejoin(&self, step: &Step<'_>, id: &GroupId, accepted: &Differences) -> Result<()> {
        let is_to_come_in = |tx: &Tx<'_>| {
            Ok(strayed::state(tx, id)? == strayed::State::Follows && group::is_due_to_enter(tx, id)?)
        };
        if self.store.read(is_to_come_in)? {
            return self.enter_accepting(step, id, accepted).await;
        }
        // Messages that can still be read are read now: afterwards none of them can be.
        self.drain(step, QueueKind::Group).await?;
        // The address of before may be gone, or known to lead to a device that is to be removed.
        let delivery = self.new_address().await?;
        let done = self.rejoin_at(step, id, accepted, &delivery).await;
        self.store.write(|tx| match GroupState::load(tx, id) {
            Ok(group) if group.delivery_address() == Some(delivery.address) => Ok(()),
            _ => mailbox::revoke_later(tx, &delivery.address),
        })?;
        done
    }

    async fn rejoin_at(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        accepted: &Differences,
        delivery: &DeliveryAddress,
    ) -> Result<()> {
        let mut asked = Asked::default();
        for _ in 0..ATTEMPTS {
            // The answer to an earlier one may have been lost.
            if self.store.read(|tx| GroupState::awaits(tx, id, Kind::Rejoin))? {
                match self.settle(step, id).await?.of(Kind::Rejoin) {
                    Some(Fate::Accepted(_)) => return Ok(()),
                    Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                    Some(Fate::Over) => return Err(Error::NotMember),
                    // Somebody committed in between: once more from there.
                    Some(Fate::Late) | None => {}
                }
                if self.store.read(|tx| GroupState::load(tx, id)?.is_taken(tx))? {
                    return Ok(());
                }
            }
            let known = self.store.read(|tx| GroupState::load(tx, id)?.latest_known(tx))?;
            let current = self.fetch_current(id).await?;
            // Messages that came meanwhile are read, too: only those are lost that come until the DS has the commit.
            self.drain(step, QueueKind::Group).await?;
            let rejoin = |tx: &Tx<'_>| {
                let group = GroupState::load(tx, id)?;
                group.rejoin(tx, known, &current, accepted, delivery)
            };
            match self.store.write(rejoin) {
                Err(Error::Strangers(differences)) => {
                    if !ask_about(&self.api, &self.store, &differences, &mut asked).await? {
                        return Err(Error::Strangers(differences));
                    }
                    self.drain(step, QueueKind::Group).await?;
                    self.store.write(rejoin)?;
                }
                done => done?,
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }
}

/// Asks the AS about strangers: first about the users of whom one may be a further device, which is no stranger then. About the
/// others a person judges, who is told whether they are confirmed. Returns false where nobody is left to ask about.
pub(super) async fn ask_about(
    api: &Api,
    store: &Store,
    differences: &Differences,
    asked: &mut Asked,
) -> Result<bool> {
    let unverified = differences.strangers.iter().filter(|member| !member.verified);
    let others = unverified.filter_map(|member| member.user.as_ref());
    let mut is_news = false;
    for user in differences.users_to_ask_about().iter().chain(others) {
        if !asked.takes(user) {
            continue;
        }
        is_news = true;
        goes_on(identity::look_up(api, store, user).await.map(drop))?;
        let of_user = differences.strangers.iter().filter(|member| member.user.as_ref() == Some(user));
        let mut clients = of_user.filter_map(|member| member.client_key);
        let is_confirmed = store.read(|tx| {
            clients.try_fold(false, |found, client| Ok(found || identity::confirmed(tx, &client)?.is_some()))
        })?;
        if !is_confirmed {
            asked.in_vain += 1;
        }
    }
    Ok(is_news)
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::SigningKey;

    use super::*;
    use crate::{event::Member, server::tests::Home};

    fn user(number: usize) -> UserName {
        format!("user{number}@home.example").parse().unwrap()
    }

    fn stranger(number: usize) -> Member {
        let [leaf_key, client_key] = [(); 2].map(|()| SigningKey::generate().public_key());
        Member { leaf_key, client_key: Some(client_key), user: Some(user(number)), verified: false }
    }

    #[test]
    fn commits_that_keep_coming_make_no_wait_longer_than_it_is_in_all() {
        let hour = Duration::from_secs(60 * 60);
        let mut endless = Wait::new(hour, Duration::ZERO);
        assert!((0..10).all(|epoch| endless.left(epoch).is_zero()));
        let mut wait = Wait::new(hour, 2 * hour);
        assert!(!wait.left(7).is_zero());
        // The while is over, and all of it is not: a commit has it begin anew.
        wait.next = Deadline::after(Duration::ZERO);
        assert!(wait.left(7).is_zero());
        assert!(!wait.left(8).is_zero());
        wait.end = Deadline::after(Duration::ZERO);
        assert!(wait.left(9).is_zero());
    }

    #[tokio::test]
    async fn the_as_is_asked_in_vain_about_a_dozen_strangers_however_many_there_are() {
        let home = Home::of_problem(ProblemType::NotFound);
        let mut differences = Differences::default();
        differences.strangers.extend((0..100).map(stranger));
        let mut asked = Asked::default();
        for is_news in [true, false] {
            let asks = ask_about(&home.api, &home.store, &differences, &mut asked).await.unwrap();
            assert_eq!((asks, asked.users.len()), (is_news, MOST_ASKED_IN_VAIN));
        }
        assert!(home.asked() > 0);
    }

    #[tokio::test]
    async fn the_as_is_asked_about_a_hundred_strangers_in_one_attempt_also_if_it_confirms_all() {
        let home = Home::of_problem(ProblemType::NotFound);
        let mut differences = Differences::default();
        differences.strangers.extend((0..3 * MOST_ASKED).map(stranger));
        // Such an AS showed them so before, whatever it answers now.
        let confirms = |tx: &Tx<'_>| -> Result<()> {
            for member in &differences.strangers {
                let (client_key, user) = (member.client_key.unwrap(), member.user.clone().unwrap());
                let sql = "INSERT INTO identities (client_key, user) VALUES (?1, ?2)";
                tx.sql().execute(sql, rusqlite::params![client_key.as_bytes(), user.to_string()])?;
            }
            Ok(())
        };
        home.store.write(confirms).unwrap();
        let mut asked = Asked::default();
        for is_news in [true, false] {
            let asks = ask_about(&home.api, &home.store, &differences, &mut asked).await.unwrap();
            assert_eq!((asks, asked.users.len(), asked.in_vain), (is_news, MOST_ASKED, 0));
        }
    }

    #[test]
    fn each_user_is_asked_about_once_and_those_that_are_confirmed_do_not_count_as_asked_in_vain() {
        let mut asked = Asked::default();
        assert!((0..50).all(|number| asked.takes(&user(number))));
        assert!(!asked.takes(&user(0)));
        asked.in_vain = MOST_ASKED_IN_VAIN;
        assert!(!asked.takes(&user(50)));
    }
}
