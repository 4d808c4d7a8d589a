//! Coming into a group that another device of this user handed over (DS-7).

use postern_protocol::{
    ds::{CurrentGroup, GroupId},
    qs::QueueKind,
};

use super::{
    ATTEMPTS, Fate,
    come_back::{self, Asked},
};
use crate::{
    elsewhere,
    error::{Error, Result, UNPAID_RETRY},
    event::Event,
    group::{self, Differences, GroupHandover, GroupState, Kind, PendingEntry, strayed},
    mailbox::{Queue, add_addresses},
    session::Session,
    store::{Step, Tx},
};

impl Session {
    /// Comes into a group that another device of this user handed over (DS-7).
    ///
    /// # Errors
    /// A later attempt may come to another end, whatever it is.
    pub(crate) async fn enter(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        self.enter_accepting(step, id, &Differences::default()).await
    }

    /// Comes into a group that differs from what another device of this user told of it by no more than a person accepted.
    ///
    /// # Errors
    /// As [`Self::enter`]; [`Error::Strangers`] where it differs by more.
    pub(super) async fn enter_accepting(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        accepted: &Differences,
    ) -> Result<()> {
        // Boxed: whatever a device does in a group may contain it.
        let done = Box::pin(self.come_in(step, id, accepted)).await;
        if let Err(error) = &done {
            self.store.write(|tx| note(tx, id, error))?;
        }
        done
    }

    async fn come_in(&self, step: &Step<'_>, id: &GroupId, accepted: &Differences) -> Result<()> {
        if self.store.read(|tx| strayed::state(tx, id))? != strayed::State::Follows {
            return Ok(());
        }
        let Some(entry) = self.store.write(|tx| group::entry(tx, id))? else { return Ok(()) };
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        add_addresses(&self.api, &queue, vec![entry.delivery.address], Vec::new()).await?;
        // Where it is in already, in a place of its own, it leaves that with the same commit. What can still be
        // read there is read now.
        self.settle(step, id).await?;
        self.drain(step, QueueKind::Group).await?;
        let mut asked = Asked::default();
        let has_to_leave = |tx: &Tx<'_>| match GroupState::load(tx, id) {
            Ok(group) => Ok(!group.is_leaving() && !group::is_entering(tx, id)?),
            Err(Error::NotMember | Error::UnknownGroup(_)) => Ok(false),
            Err(error) => Err(error),
        };
        if self.store.read(has_to_leave)? {
            self.look_before_leaving(&entry, accepted, &mut asked).await?;
            self.store.write(|tx| GroupState::load(tx, id)?.stage_leaving(tx))?;
            if let Some(Fate::Refused(problem)) = self.settle(step, id).await?.of(Kind::Leave) {
                self.store.write(|tx| group::give_up_entry(tx, id))?;
                return Err(problem.clone().into());
            }
        }
        let mut met = None;
        for _ in 0..ATTEMPTS {
            if self.store.read(|tx| GroupState::awaits(tx, id, Kind::Rejoin))? {
                match self.settle(step, id).await?.of(Kind::Rejoin) {
                    Some(Fate::Accepted(_)) => return Ok(()),
                    Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                    Some(Fate::Late | Fate::Over) | None => {}
                }
                if !self.store.read(|tx| group::is_entering(tx, id))? {
                    return Ok(());
                }
            }
            let current = self.fetch_handed_over(&entry.handover).await?;
            met = match self.store.write(|tx| GroupState::enter(tx, &entry, &current, accepted)) {
                Err(Error::Strangers(differences)) => Some(self.ask_about(differences, &mut asked).await?),
                done => done.map(|()| None)?,
            };
        }
        Err(met.map_or(Error::Contended(ATTEMPTS), Error::Strangers))
    }

    /// Looks whether this device would come in, before it leaves the place of its own that it has in the group: once it has
    /// proposed that, the others remove it, whether it comes into the other place or not.
    async fn look_before_leaving(
        &self,
        entry: &PendingEntry,
        accepted: &Differences,
        asked: &mut Asked,
    ) -> Result<()> {
        let mut met = None;
        for _ in 0..ATTEMPTS {
            let current = self.fetch_handed_over(&entry.handover).await?;
            match self.store.trial(|tx| GroupState::enter(tx, entry, &current, accepted)) {
                Err(Error::Strangers(differences)) => met = Some(self.ask_about(differences, asked).await?),
                done => return done,
            }
        }
        Err(met.map_or(Error::Contended(ATTEMPTS), Error::Strangers))
    }

    /// Fetches a group that this device is to come into. If that is refused the group is gone, or this user is in it no more, or
    /// with another key: another device says if there is a way, or did ([`group::go_by_next`]).
    async fn fetch_handed_over(&self, handover: &GroupHandover) -> Result<CurrentGroup> {
        let (fetch, user) = handover.fetch_info();
        let ds = self.ds(&handover.id)?;
        elsewhere::noted(&ds, ds.fetch_group_info(&handover.id, &fetch, &user).await)
    }

    /// Asks the AS about strangers: another device of a member, who may be this user, is no stranger if it confirms that.
    ///
    /// # Errors
    /// [`Error::Strangers`] where nobody is left to ask about.
    async fn ask_about(&self, differences: Box<Differences>, asked: &mut Asked) -> Result<Box<Differences>> {
        if come_back::ask_about(&self.api, &self.store, &differences, asked).await? {
            Ok(differences)
        } else {
            Err(Error::Strangers(differences))
        }
    }
}

/// Takes note of an attempt to come into a group that failed: the next one comes later, unless it is others who came first, or
/// somebody is away. A DS that shows what nobody can read, or no group at all, else has a device spend its tokens on it. One that
/// nobody paid for is none: the next one comes no later for it.
fn note(tx: &Tx<'_>, id: &GroupId, error: &Error) -> Result<()> {
    let is_noted = !group::entries_due(tx)?.contains(id);
    if !is_noted && error.is_unpaid() {
        return group::postpone_entry(tx, id, UNPAID_RETRY);
    }
    if is_noted || !error.leads_nowhere() {
        return Ok(());
    }
    // A member may have come of whom another device of this user is about to tell: that is no news for a person.
    if let Error::Strangers(differences) = error {
        group::go_by_latest(tx, id)?;
        if group::met_strangers(tx, id)? {
            Event::Strangers {
                group: id.clone(),
                strangers: differences.strangers.clone(),
                admins: differences.admins.clone(),
                removed: differences.removed.clone(),
                coming_in: true,
            }
            .record(tx)?;
        }
    } else if group::is_before_told(error) {
        group::go_by_next(tx, id)?;
    } else if group::is_elsewhere(error) {
        strayed::doubt(tx, id)?;
    }
    // The commit that was sent may be accepted yet: its address stays.
    if !error.is_final() || GroupState::awaits(tx, id, Kind::Rejoin)? {
        return group::put_off_entry(tx, id);
    }
    group::entry_failed(tx, id)
}

#[cfg(test)]
mod tests {
    use postern_api::Side;
    use postern_protocol::{
        Address,
        credential::ClientCredential,
        ds::{GroupIdReserved, MessageAccepted},
        key::SigningKey,
        problem::{Problem, ProblemType},
    };
    use rusqlite::params;

    use super::*;
    use crate::{
        account::Account,
        group::Change,
        options::Options,
        store::{Store, encode},
    };

    #[test]
    fn a_ds_whose_answers_nobody_can_read_is_asked_ever_more_seldom() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let problem = Problem::new(ProblemType::HomeserverUnreachable);
        let refused: Error = Problem::new(ProblemType::NotFound).into();
        let away: Error = postern_api::Error::Relay { side: Side::Pipe, problem }.into();
        let malformed = Error::Mls { what: "a group", reason: "its tree is malformed".to_owned() };
        let unpaid: Error = Problem::new(ProblemType::AllowanceUsedUp).into();
        let lost: Error = Problem::new(ProblemType::TokenSpent).into();
        for (error, waits, counts) in [
            (refused, true, true),
            (Error::unexpected("no group"), true, true),
            (malformed, true, true),
            (unpaid, true, false),
            (lost, false, false),
            (Error::Contended(ATTEMPTS), false, false),
            (away, false, false),
        ] {
            store.write(|tx| Ok(tx.sql().execute("DELETE FROM entries", [])?)).unwrap();
            let sql = "INSERT INTO entries (group_id, handovers, attempts, due) VALUES (?1, x'80', 3, 0)";
            store.write(|tx| Ok(tx.sql().execute(sql, [id.to_mls()])?)).unwrap();
            assert_eq!(store.read(group::entries_due).unwrap(), std::slice::from_ref(&id));
            // The second time nothing is noted again of the same attempt.
            for _ in 0..2 {
                store.write(|tx| note(tx, &id, &error)).unwrap();
            }
            assert_eq!(store.read(group::entries_due).unwrap().is_empty(), waits, "{error}");
            let attempts = "SELECT attempts FROM entries";
            let attempts: u32 =
                store.read(|tx| Ok(tx.sql().query_row(attempts, [], |row| row.get(0))?)).unwrap();
            assert_eq!(attempts, 3 + u32::from(counts), "{error}");
            // An entry that was due before errands began was tried by them, and makes no poll any shorter.
            let next = store.read(|tx| group::next_entry(tx, 1)).unwrap();
            assert_eq!(next.is_some(), waits, "{error}");
        }
    }

    #[test]
    fn of_strangers_where_it_is_to_come_in_the_user_is_told_once_and_not_at_once() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let sql = "INSERT INTO entries (group_id, handovers, attempts, due) VALUES (?1, x'80', 0, 0)";
        store.write(|tx| Ok(tx.sql().execute(sql, [id.to_mls()])?)).unwrap();
        let mut waited = 0;
        let mut meets = || {
            store.write(|tx| Ok(tx.sql().execute("UPDATE entries SET due = 0", [])?)).unwrap();
            let strangers = Error::Strangers(Box::default());
            store.write(|tx| note(tx, &id, &strangers)).unwrap();
            assert!(store.read(group::entries_due).unwrap().is_empty(), "it waits");
            let events = store.read(crate::event::pending).unwrap();
            let told = events.iter().filter(|(_, event)| matches!(event, Event::Strangers { .. })).count();
            let attempts = "SELECT attempts FROM entries";
            let attempts: u32 =
                store.read(|tx| Ok(tx.sql().query_row(attempts, [], |row| row.get(0))?)).unwrap();
            if told == 0 {
                waited += 4u64.pow(attempts - 1);
            }
            told
        };
        assert_eq!([(); 9].map(|()| meets()), [0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert!(waited > 20 * 60, "another device had {waited} s to tell of who came");
    }

    #[test]
    fn a_server_that_refuses_every_other_attempt_does_not_keep_from_the_user_that_strangers_are_there() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let sql = "INSERT INTO entries (group_id, handovers, attempts, due) VALUES (?1, x'80', 0, 0)";
        store.write(|tx| Ok(tx.sql().execute(sql, [id.to_mls()])?)).unwrap();
        let fails = |error: &Error| {
            store.write(|tx| Ok(tx.sql().execute("UPDATE entries SET due = 0", [])?)).unwrap();
            store.write(|tx| note(tx, &id, error)).unwrap();
        };
        for _ in 0..7 {
            fails(&Problem::new(ProblemType::NotFound).into());
            fails(&Error::Strangers(Box::default()));
        }
        let events = store.read(crate::event::pending).unwrap();
        assert!(events.iter().any(|(_, event)| matches!(event, Event::Strangers { .. })));
    }

    #[test]
    fn a_commit_that_may_be_accepted_yet_keeps_the_address_that_it_names() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let has_address = |is_outstanding: bool| {
            let refused: Error = Problem::new(ProblemType::NotFound).into();
            let fails = |tx: &Tx<'_>| -> Result<bool> {
                let sql = "INSERT OR REPLACE INTO entries (group_id, handovers, address, attempts, due)
                           VALUES (?1, x'80', zeroblob(32), 0, 0)";
                tx.sql().execute(sql, [id.to_mls()])?;
                if is_outstanding {
                    let sql = "INSERT INTO submissions (group_id, kind, epoch, body) VALUES (?1, ?2, 3, x'')";
                    tx.sql().execute(sql, params![id.to_mls(), Kind::Rejoin as i64])?;
                }
                note(tx, &id, &refused)?;
                Ok(tx.sql().query_row("SELECT address IS NOT NULL FROM entries", [], |row| row.get(0))?)
            };
            store.write(fails).unwrap()
        };
        assert!(!has_address(false), "the next attempt has another one");
        assert!(has_address(true));
    }

    /// The account of a user whom an AS gave a credential.
    fn account() -> Account {
        let user = "bob@x.example".parse().unwrap();
        let mut account = Account::new("http://127.0.0.1:1".to_owned(), user).unwrap();
        let issuer = SigningKey::generate();
        let credential = ClientCredential {
            user: account.user.clone(),
            client_key: account.client_key().public_key(),
            not_before: 0,
            not_after: u64::MAX,
            issuer_key: issuer.public_key(),
        };
        account.credential = Some(credential.issue(&issuer));
        account
    }

    /// The words of two other devices of a group: one as the DS has it, and the other in an epoch that the DS lost.
    fn told_before_and_in_the_lost_time(id: &GroupId) -> [Vec<GroupHandover>; 2] {
        let [phone, laptop] = [account(), account()];
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let reserved =
            GroupIdReserved { group_id: id.clone(), server_key: SigningKey::generate().public_key() };
        let delivery = phone.delivery_at(Address::generate().unwrap());
        let makes = |tx: &Tx<'_>| {
            phone.save(tx)?;
            GroupState::create(tx, &reserved, "climbing", &delivery)?;
            let accepted = MessageAccepted::in_epoch(0);
            GroupState::load(tx, id)?.confirm(tx, Kind::Creation, &accepted)?;
            let before = group::handover(tx)?;
            laptop.save(tx)?;
            GroupState::load(tx, id)?.stage_commit(tx, &Change::Update)?;
            GroupState::load(tx, id)?.confirm(tx, Kind::Commit, &accepted)?;
            Ok([before, group::handover(tx)?])
        };
        store.write(makes).unwrap()
    }

    /// Both letters came before the first attempt.
    #[test]
    fn where_a_restored_ds_refuses_what_was_told_last_the_next_attempt_is_by_what_was_told_of_before() {
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let account = account();
        let [before, lost] = told_before_and_in_the_lost_time(&id);
        let malformed = Error::Mls { what: "a group", reason: "its tree is malformed".to_owned() };
        let refused = |kind| Error::from(Problem::new(kind));
        for (error, falls_back) in [
            (refused(ProblemType::NotFound), true),
            (refused(ProblemType::NotAllowed), true),
            (malformed, false),
        ] {
            let home = tempfile::tempdir().unwrap();
            let tablet = Store::create(home.path(), &Options::default()).unwrap();
            let learns = |tx: &Tx<'_>| {
                account.save(tx)?;
                [&lost, &before].into_iter().try_for_each(|groups| group::take_over(tx, groups))
            };
            tablet.write(learns).unwrap();
            let told = || {
                let entry = tablet.write(|tx| group::entry(tx, &id)).unwrap();
                encode(&entry.expect("it is to come in").handover)
            };
            assert!(told() == encode(&lost[0]), "the latest first");
            tablet.write(|tx| note(tx, &id, &error)).unwrap();
            assert_eq!(told() == encode(&before[0]), falls_back, "{error}");
        }
    }
}
