//! Errands: tasks that are due without anybody asking, such as reading a letter or fetching the
//! KeyPackages of users who are to be added. Every errand is a row in the store until it is done.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::Future,
    time::Duration,
};

use postern_protocol::{
    Address, PublicKey,
    ds::GroupId,
    name::{Domain, UserName},
    problem::ProblemType,
    qs::QueueKind,
};

use crate::{
    account::Account,
    contact, elsewhere,
    error::{Error, Result, goes_on},
    event::Event,
    group::{self, Change, GroupState, InVain, strayed},
    identity, invitations, key_packages, link,
    mailbox::{self, KINDS},
    profile, push,
    session::Session,
    store::{Step, Store, Tx},
};

impl Session {
    /// Runs the errands that are due. One errand that is refused does not keep the others from being run. Their future is boxed:
    /// nearly every call of the library contains it, and an application may hold many of those on a small stack.
    pub(crate) async fn errands(&self, step: &Step<'_>) -> Result<()> {
        Box::pin(self.run_errands(step)).await
    }

    async fn run_errands(&self, step: &Step<'_>) -> Result<()> {
        let (store, api) = (&*self.store, &self.api);
        goes_on(identity::renew_credential(store, api).await)?;
        goes_on(identity::upkeep(api, store, &self.options).await)?;
        goes_on(link::remove_absent(self).await)?;
        key_packages::drop_expired(store, group::is_leaf_key_in_use)?;
        goes_on(mailbox::revoke_addresses(store, api).await)?;
        goes_on(self.renew_addresses().await)?;
        goes_on(self.rotate_mailbox_keys(step).await)?;
        goes_on(contact::read_letters(store, api, &self.options).await)?;
        // Before the friendship is settled: it is another one then.
        goes_on(identity::remove_leaving(api, store).await)?;
        goes_on(contact::settle_friendship(store, api).await)?;
        // Before contacts are told the key: then the profile opens with it.
        goes_on(profile::settle(api, store).await)?;
        goes_on(key_packages::publish_if_due(store, api).await)?;
        goes_on(push::tell_server(store, api).await)?;
        goes_on(self.join_late().await)?;
        goes_on(self.look_for_restores().await)?;
        for group in store.read(strayed::due)? {
            goes_on(self.come_back(step, &group).await)?;
        }
        for group in store.read(group::entries_due)? {
            goes_on(self.enter(step, &group).await)?;
        }
        for group in store.read(group::unsettled)? {
            goes_on(self.go_on(step, &group).await)?;
        }
        for group in store.read(group::evictions)? {
            goes_on(self.evict(step, &group).await)?;
        }
        for group in store.read(group::with_outcasts)? {
            goes_on(self.cast_out(step, &group).await)?;
        }
        goes_on(self.commit_where_due(step).await)?;
        // Before deposits: where a token was replaced, a letter asks for the new one.
        goes_on(key_packages::fetch_key_packages(store, api).await)?;
        for group in store.read(invitations::waiting_groups)? {
            goes_on(self.add_invited(step, &group).await)?;
        }
        // After everything that changes who is in a group: a device on its way takes nobody of whom it was not told.
        goes_on(self.tell_own_devices().await)?;
        goes_on(contact::write_news(store, api).await)?;
        goes_on(contact::deliver_deposits(store, api).await)?;
        goes_on(contact::look_after_contacts(store, api, &self.options).await)?;
        goes_on(elsewhere::compare_keys(store, api).await)?;
        store.write(contact::forget_met)?;
        for group in store.read(group::waiting_groups)? {
            goes_on(self.introduce(step, &group).await)?;
        }
        goes_on(self.ask_about_members().await)?;
        goes_on(self.confirm_identities().await)
    }

    /// Renews the addresses that this device keeps, at each queue where it is time.
    async fn renew_addresses(&self) -> Result<()> {
        let (store, api) = (&*self.store, &self.api);
        for kind in KINDS {
            if store.read(|tx| mailbox::is_renewal_due(tx, kind))? {
                let kept = store.read(|tx| kept_addresses(tx, kind))?;
                mailbox::renew_addresses(store, api, kind, &kept).await?;
            }
        }
        Ok(())
    }

    /// Looks whether a homeserver of another domain where this device has groups was restored to an earlier state (QS-12), and
    /// notes that something of these groups may be lost.
    async fn look_for_restores(&self) -> Result<()> {
        let (store, api) = (&*self.store, &self.api);
        let domains = store.read(group::active)?.into_iter().map(|id| id.domain().clone());
        let others: BTreeSet<Domain> = domains.filter(|domain| *domain != api.origin).collect();
        goes_on(elsewhere::look_for_restores(store, api, others).await)?;
        if store.read(elsewhere::restored)?.is_empty() {
            return Ok(());
        }
        store.write(|tx| {
            for domain in elsewhere::restored(tx)? {
                strayed::lost_at(tx, &domain)?;
            }
            elsewhere::forget_restores(tx)
        })
    }

    /// How long until something is due that nobody asks for, after errands that began at a time (seconds since 1970). What was
    /// due by then was tried: it waits for a poll's usual time, since each poll costs a token.
    pub(crate) fn next_errand(&self, since: u64) -> Result<Option<Duration>> {
        self.store.read(|tx| {
            let due = [
                strayed::next_due(tx, since)?,
                group::next_entry(tx, since)?,
                group::next_eviction(tx, since)?,
            ];
            Ok(due.into_iter().flatten().min())
        })
    }

    /// Goes on with what was begun in a group: requests without an answer, what is to be said, leaving.
    async fn go_on(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        // The rest waits until this device is back.
        let state = self.store.read(|tx| strayed::state(tx, id))?;
        if !matches!(state, strayed::State::Strayed | strayed::State::ByHand) {
            self.deliver(step, id, None).await?;
            self.leave(step, id).await?;
        }
        Ok(())
    }

    /// Whether something is on its way that a later step has to finish. Reads the tables of all
    /// errands that wait for nobody but the server.
    pub(crate) fn has_errands(&self) -> Result<bool> {
        self.store.read(|tx| {
            let sql =
                "SELECT EXISTS (SELECT 1 FROM submissions) OR EXISTS (SELECT 1 FROM deposits)
                     OR EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM strayed WHERE state IN (1, 2, 5))
                     OR EXISTS (SELECT 1 FROM fetches) OR EXISTS (SELECT 1 FROM friendship_changes)
                     OR EXISTS (SELECT 1 FROM publications) OR EXISTS (SELECT 1 FROM revocations WHERE done IS NULL)
                     OR EXISTS (SELECT 1 FROM entries) OR EXISTS (SELECT 1 FROM welcomes)
                     OR EXISTS (SELECT 1 FROM identity_commits) OR EXISTS (SELECT 1 FROM leaving_devices)
                     OR EXISTS (SELECT 1 FROM groups WHERE introduce = 1 AND active = 1)";
            let others: bool = tx.sql().query_row(sql, [], |row| row.get(0))?;
            Ok(others
                || !group::evictions(tx)?.is_empty()
                || !group::with_outcasts(tx)?.is_empty()
                || !identity::claimed(tx)?.is_empty()
                || !contact::senders_of_letters(tx)?.is_empty()
                || !contact::receivers_of_news(tx)?.is_empty())
        })
    }

    /// Commits where it is this device's turn to: so that a device that only listens is not taken
    /// for gone (DS-10), and proposals take effect though nobody says anything.
    async fn commit_where_due(&self, step: &Step<'_>) -> Result<()> {
        for group in self.store.read(|tx| group::due(tx, &self.options))? {
            let update = |tx: &Tx<'_>, group: &GroupState| {
                Ok(group.is_due(tx, &self.options)?.then_some(Change::Update))
            };
            let done = self.commit(step, &group, update).await;
            if done.as_ref().is_err_and(|error| error.refusal().is_some()) {
                // As if it was done: not with every step.
                self.store.write(|tx| group::committed(tx, &group))?;
            }
            goes_on(done)?;
        }
        Ok(())
    }

    /// Tells this user's other devices of groups that they are not in.
    async fn tell_own_devices(&self) -> Result<()> {
        let due = self.store.read(group::to_tell)?;
        if due.is_empty() {
            return Ok(());
        }
        let user = self.store.read(Account::load)?.user.clone();
        let own = identity::look_up(&self.api, &self.store, &user).await?;
        self.store.write(|tx| {
            for (device, handover) in &due {
                let client = own.clients.iter().find(|client| client.client_key == *device);
                let contact = client.and_then(|client| client.contact.as_ref());
                match contact {
                    Some(contact) => {
                        contact::write_group(tx, device, contact, handover)?;
                        group::told(tx, &handover.id, device)?;
                    }
                    None => group::not_told(tx, &handover.id, device)?,
                }
            }
            Ok(())
        })
    }

    /// Shuts devices that were removed from this user out of a group. Where that fails it is tried again, until they are
    /// out or this device is.
    async fn evict(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let done = self.shut_out(step, id).await;
        self.store.write(|tx| match &done {
            Ok(()) | Err(Error::NotMember | Error::UnknownGroup(_)) => group::evicted(tx, id),
            Err(error) if error.is_final() => group::eviction_failed(tx, id, error),
            Err(_) => Ok(()),
        })?;
        done
    }

    async fn shut_out(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let state = self.store.read(|tx| strayed::state(tx, id))?;
        // A device that comes back learns the cards with that.
        if !matches!(state, strayed::State::Strayed | strayed::State::ByHand) {
            self.learn_cards(id).await?;
        }
        self.commit(step, id, group::evict).await?;
        // Devices that were users of their own went; the user's key is another matter.
        self.commit(step, id, group::evict).await
    }

    /// Removes members from a group that are no devices of their users any more.
    async fn cast_out(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        casting_out(&self.store, id, Box::pin(self.put_out(step, id))).await
    }

    async fn put_out(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let (asked, unanswered) = self.ask_about_suspects(id).await?;
        self.commit(step, id, |tx, group| group::cast_out_if_asked(tx, group, &unanswered, &asked)).await?;
        let is_left = |tx: &Tx<'_>| group::cast_out(tx, &GroupState::load(tx, id)?, &unanswered);
        if self.store.read(is_left)?.is_none() {
            return Ok(());
        }
        // Somebody came in meanwhile. Nobody puts it off by coming in once more.
        let (_, unanswered) = self.ask_about_suspects(id).await?;
        self.commit(step, id, |tx, group| group::cast_out(tx, group, &unanswered)).await
    }

    /// Asks the DS and the AS who the members are of whom some are to be removed, or may be. Returns the leaves of all members
    /// of the group, and the users whose AS did not answer.
    async fn ask_about_suspects(&self, id: &GroupId) -> Result<(HashSet<PublicKey>, BTreeSet<UserName>)> {
        if self.store.read(|tx| group::has_suspects(tx, &GroupState::load(tx, id)?))? {
            self.learn_cards(id).await?;
        }
        let mut unanswered = BTreeSet::new();
        for user in self.store.read(|tx| group::users_of_suspects(tx, &GroupState::load(tx, id)?))? {
            let found = identity::look_up(&self.api, &self.store, &user).await;
            let says_something =
                |error: &Error| error.refusal().is_some() || matches!(error, Error::Identity(_));
            if found.as_ref().is_err_and(|error| !says_something(error)) {
                unanswered.insert(user);
            }
            goes_on(found.map(drop))?;
        }
        let asked = self.store.read(|tx| Ok(GroupState::load(tx, id)?.leaf_keys().collect()))?;
        Ok((asked, unanswered))
    }

    /// Adds the clients that a group waits for and whose KeyPackages are at hand. If not all may come in together, each is tried
    /// alone: none keeps the others out by what its KeyPackage says.
    pub(crate) async fn add_invited(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let added = self.commit(step, id, group::add_invited).await;
        match self.why_not_added(id, &added)? {
            Some(why) => self.add_each(step, id, (&why, is_invalid(&added))).await?,
            None => added?,
        }
        // Not before: a device that cannot follow the group would judge by who was in it once.
        for invited in self.invited(id)?.into_iter().filter(|it| !it.is_free) {
            let why = "somebody in the group has the pseudonym of their KeyPackage, or an admin had it";
            self.withdraw(id, &invited.client_key, why)?;
        }
        Ok(())
    }

    /// Adds those who are invited one by one, since they do not come in together: that failed, for this reason.
    async fn add_each(&self, step: &Step<'_>, id: &GroupId, (why, was_invalid): (&str, bool)) -> Result<()> {
        let invited: Vec<_> = self.invited(id)?.into_iter().filter(|it| it.is_free).collect();
        let is_admin = self.store.read(|tx| {
            let group = GroupState::load(tx, id)?;
            Ok(group.is_admin(&group.leaf.public_key()))
        })?;
        let is_one_of_them = is_admin && invited.len() > 1;
        for invited in invited {
            let client_key = invited.client_key;
            if !is_one_of_them {
                self.refused(id, &client_key, (why, was_invalid))?;
                continue;
            }
            let alone =
                self.commit(step, id, |tx, group| group::add_invited_client(tx, group, &client_key)).await;
            match self.why_not_added(id, &alone)? {
                Some(why) => self.refused(id, &client_key, (&why, is_invalid(&alone)))?,
                None => alone?,
            }
        }
        Ok(())
    }

    /// The clients that are invited and whose KeyPackages are at hand. KeyPackages that expired are forgotten.
    fn invited(&self, id: &GroupId) -> Result<Vec<group::Invited>> {
        self.store.write(|tx| group::invited(tx, &GroupState::load(tx, id)?))
    }

    /// The reason why those who are invited cannot be added, if a commit that was to add them failed for one.
    fn why_not_added(&self, id: &GroupId, added: &Result<()>) -> Result<Option<String>> {
        let Err(error) = added else { return Ok(None) };
        self.store.write(|tx| Ok(group::why_not_added(tx, id, error)))
    }

    /// Ends an invitation, after an attempt to keep it failed for this reason. Where the DS found something invalid in the
    /// commit, another KeyPackage is tried once before: the one at hand may have become too old for the group.
    fn refused(&self, id: &GroupId, client_key: &PublicKey, (why, was_invalid): (&str, bool)) -> Result<()> {
        let tries_another = was_invalid
            && self.store.write(|tx| {
                let tries = group::try_another_key_package(tx, id, client_key)?;
                if tries && let Some(user) = invitations::waits_for_client(tx, client_key)? {
                    let what = "is not added yet, and another KeyPackage is asked for";
                    Event::ignored(format!("{user} {what}: {why}")).record(tx)?;
                }
                Ok(tries)
            })?;
        if tries_another { Ok(()) } else { self.withdraw(id, client_key, why) }
    }

    /// Ends an invitation that cannot be kept.
    fn withdraw(&self, id: &GroupId, client_key: &PublicKey, why: impl std::fmt::Display) -> Result<()> {
        self.store.write(|tx| {
            let user = invitations::waits_for_client(tx, client_key)?;
            let who = user.map_or_else(|| "who is invited".to_owned(), |user| user.to_string());
            group::withdraw_invitation(tx, id, client_key)?;
            Event::ignored(format!("{who} cannot be added: {why}")).record(tx)
        })
    }

    /// Tells newcomers the group's title and who is in it.
    async fn introduce(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        self.store.write(|tx| group::introduce(tx, &GroupState::load(tx, id)?))?;
        self.deliver(step, id, None).await
    }

    /// Asks the AS about members that say to be called something else, or to end, and from time to time
    /// about all others (AS-11).
    pub(crate) async fn ask_about_members(&self) -> Result<()> {
        let (store, api) = (&*self.store, &self.api);
        for hint in store.read(group::hints)? {
            let asked = hint.name.as_ref().unwrap_or(&hint.user);
            let found = identity::look_up(api, store, asked).await;
            if found.as_ref().is_err_and(Error::is_passing) {
                goes_on(found)?;
                store.write(|tx| group::asked_in_vain(tx, &hint.user, InVain::OutOfReach))?;
                continue;
            }
            match (&found, &hint.name) {
                (Err(error), None) if error.is_of_nobody() => {
                    store.write(|tx| group::absent(tx, &hint.user))?;
                }
                (Err(error), None) if error.problem() == Some(ProblemType::NotFound) => {
                    store.write(|tx| group::still_there(tx, &hint.user))?;
                }
                (Ok(_), None) => store.write(|tx| group::still_there(tx, &hint.user))?,
                (Ok(_), Some(name)) if *name == hint.user => store.write(|tx| {
                    if profile::is_to_be_looked_for(tx, &hint.user)? {
                        group::asked_in_vain(tx, &hint.user, InVain::NotShown)
                    } else {
                        group::forget_hint(tx, &hint.user)
                    }
                })?,
                // The lookup told of the name, if it is the same user's: then there is no hint any more.
                (Ok(_), Some(_)) | (Err(_), _) => {
                    store.write(|tx| group::asked_in_vain(tx, &hint.user, InVain::NotShown))?;
                }
            }
        }
        let pause = self.options.look_up_every.as_secs();
        let since = store.now().saturating_sub(pause);
        for user in store.read(|tx| group::not_seen_since(tx, since))? {
            match identity::look_up(api, store, &user).await {
                Err(error) if error.problem() == Some(ProblemType::NotFound) => {
                    store.write(|tx| group::not_shown(tx, &user, tx.now().saturating_add(pause)))?;
                }
                Err(error) if error.is_passing() => {
                    goes_on::<()>(Err(error))?;
                    store.write(|tx| group::out_of_reach(tx, &user))?;
                }
                found => goes_on(found.map(drop))?,
            }
        }
        Ok(())
    }

    /// Asks the AS about members that were not confirmed yet, each user once, and compares what their cards tell.
    pub(crate) async fn confirm_identities(&self) -> Result<()> {
        let mut asked: HashMap<UserName, (bool, InVain)> = HashMap::new();
        for (client_key, user) in self.store.read(group::unconfirmed)? {
            let (is_shown, in_vain) = if let Some(outcome) = asked.get(&user) {
                *outcome
            } else {
                let found = identity::look_up(&self.api, &self.store, &user).await;
                let is_out_of_reach = found.as_ref().is_err_and(Error::is_passing);
                let in_vain = if is_out_of_reach { InVain::OutOfReach } else { InVain::NotShown };
                let outcome = (found.is_ok(), in_vain);
                goes_on(found.map(drop))?;
                asked.insert(user.clone(), outcome);
                outcome
            };
            self.store.write(|tx| {
                group::was_asked(tx, &client_key, &user, in_vain)?;
                if is_shown { group::doubt(tx, &user, &client_key) } else { Ok(()) }
            })?;
        }
        if self.store.read(group::told_states)?.is_empty() {
            return Ok(());
        }
        self.store.write(group::hear_states)
    }
}

/// Whether the DS found something invalid in a commit.
fn is_invalid(committed: &Result<()>) -> bool {
    committed.as_ref().is_err_and(|error| error.problem() == Some(ProblemType::InvalidMls))
}

/// Awaits an attempt to remove from a group those members that are no devices of their users any more, and notes its end. A removed
/// device of which this one hears meanwhile is looked for next.
pub(crate) async fn casting_out(
    store: &Store,
    id: &GroupId,
    attempt: impl Future<Output = Result<()>>,
) -> Result<()> {
    let looked_for = store.read(|tx| group::removed_devices(tx, id))?;
    let done = attempt.await;
    store.write(|tx| match &done {
        Err(error) if !is_over(error) => group::casting_out_failed(tx, id, error),
        _ => group::look_for_outcasts_again(tx, id, &looked_for),
    })?;
    done
}

/// Whether there is nothing more to try in a group after this error: it was refused, or this device is out.
fn is_over(error: &Error) -> bool {
    error.refusal().is_some() || matches!(error, Error::NotMember)
}

/// The addresses by which others reach a queue for as long as this device is in use. Those of KeyPackages are not among
/// them: they outlast the KeyPackages without it.
fn kept_addresses(tx: &Tx<'_>, kind: QueueKind) -> Result<Vec<Address>> {
    match kind {
        QueueKind::Contact => Ok(Account::load(tx)?.contact_addresses().to_vec()),
        QueueKind::Group => {
            let address = |id: &GroupId| Ok(GroupState::load(tx, id)?.delivery_address());
            group::active(tx)?.iter().filter_map(|id| address(id).transpose()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::options::Options;

    const HOUR: u64 = 60 * 60;
    const DAY: u64 = 24 * HOUR;

    /// A table of what waits until it is due: a row of it, the longest pause, and whether the row's time has come.
    type Waiting = (&'static str, &'static str, u64, fn(&Tx<'_>) -> Result<bool>);

    /// Rows belong to the one group, and to the one user of its member.
    const WAITING: [Waiting; 11] = [
        (
            "welcomes",
            "(welcome, group_id, family, attempts, due) SELECT x'00', group_id, 'x.example', 9, 0 FROM groups",
            HOUR,
            |tx| Ok(!group::late_welcomes(tx)?.is_empty()),
        ),
        (
            "strayed",
            "(group_id, state, since, attempts, due, broken) SELECT group_id, 1, 0, 9, 0, 0 FROM groups",
            2 * DAY,
            |tx| Ok(!strayed::due(tx)?.is_empty()),
        ),
        (
            "entries",
            "(group_id, handovers, attempts, due) SELECT group_id, x'80', 9, 0 FROM groups",
            DAY,
            |tx| Ok(!group::entries_due(tx)?.is_empty()),
        ),
        (
            "evictions",
            "(group_id, client_key, generation, attempts, refusals, due)
             SELECT group_id, x'00', 0, 9, 0, 0 FROM groups",
            DAY,
            |tx| Ok(!group::evictions(tx)?.is_empty()),
        ),
        (
            "outcasts",
            "(group_id, client_key, user, due) SELECT group_id, x'00', 'eve@x.example', 0 FROM groups",
            DAY,
            |tx| Ok(!group::with_outcasts(tx)?.is_empty()),
        ),
        (
            "links",
            "(group_id, leaf_key, client_key, user, last_number, due)
             SELECT group_id, x'00', zeroblob(32), 'bob@x.example', 0, 0 FROM groups",
            30 * DAY,
            |tx| Ok(!group::unconfirmed(tx)?.is_empty()),
        ),
        ("gone_members", "(user, told, since, due) VALUES ('bob@x.example', 0, 0, 0)", 30 * DAY, |tx| {
            Ok(!group::not_seen_since(tx, tx.now())?.is_empty())
        }),
        ("member_news", "(user, tried, due) VALUES ('eve@x.example', 0, 0)", DAY, |tx| {
            Ok(!group::hints(tx)?.is_empty())
        }),
        (
            "eid_claims",
            "(user, client_key, state, tried, due) VALUES ('bob@x.example', x'00', x'', 0, 0)",
            30 * DAY,
            |tx| Ok(!identity::claimed(tx)?.is_empty()),
        ),
        (
            "letters",
            "(client_key, subject, user, number, time, stamp, body, stranger, due)
             VALUES (x'00', 'request', 'eve@x.example', 1, 1, x'', x'', 1, 0)",
            6 * HOUR,
            |tx| Ok(!contact::senders_of_letters(tx)?.is_empty()),
        ),
        ("news", "(user, news, due) VALUES ('eve@x.example', x'', 0)", DAY, |tx| {
            Ok(!contact::receivers_of_news(tx)?.is_empty())
        }),
    ];

    /// All tables with a column `due` but these have their rows in [`WAITING`]: `told_devices`, `homeservers`, `contact_turn` and
    /// `added_devices` have tests of their own.
    const OTHERS: [&str; 4] = ["added_devices", "contact_turn", "homeservers", "told_devices"];

    #[test]
    fn what_a_clock_that_was_ahead_put_off_is_done_once_the_clock_is_right() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let id = GroupId::new([7; 16], "x.example".parse().unwrap());
        let execute = |sql: &str| store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        store
            .write(|tx| {
                let sql = "INSERT INTO groups
                               (group_id, title, leaf_key, active, introduce, next_number, committed)
                           VALUES (?1, '', x'', 1, 0, 1, 0)";
                Ok(tx.sql().execute(sql, params![id.to_mls()])?)
            })
            .unwrap();
        execute(
            "INSERT INTO eids (user, pending, founder, founding, incarnation, epoch, transcript, public_group,
                               seen, verified)
             VALUES ('bob@x.example', 0, zeroblob(32), zeroblob(32), 0, 0, zeroblob(32), x'', 0, 0)",
        );
        for (table, row, ..) in WAITING {
            execute(&format!("INSERT INTO {table} {row}"));
        }
        let now = store.now();
        let is_due = |due: u64, (table, _, _, has_come): Waiting| {
            execute(&format!("UPDATE {table} SET due = {due}"));
            store.read(has_come).unwrap()
        };
        for waiting in WAITING {
            let (table, _, longest, _) = waiting;
            assert!(is_due(now, waiting), "{table}");
            assert!(!is_due(now + longest / 2, waiting), "{table}: it waits");
            assert!(!is_due(now + longest, waiting), "{table}: it waits for so long at the longest");
            assert!(is_due(now + longest + 20 * DAY, waiting), "{table}: the clock was ahead by twenty days");
            assert!(is_due(u64::MAX >> 1, waiting), "{table}: the clock was at the end of time");
        }
        // The AS may confirm a request for a month, and is asked ever more seldom.
        execute("UPDATE letters SET unconfirmed = 1");
        let letters = WAITING.into_iter().find(|(table, ..)| *table == "letters").expect("it is one");
        assert!(!is_due(now + 15 * DAY, letters));
        assert!(is_due(now + 35 * DAY, letters));
    }

    #[test]
    fn each_table_with_times_to_come_is_known_to_end_its_pauses() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let tables = |tx: &Tx<'_>| -> Result<Vec<String>> {
            let sql = "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                        WHERE t.type = 'table' AND c.name = 'due' ORDER BY t.name";
            let mut statement = tx.sql().prepare(sql)?;
            let names = statement.query_map([], |row| row.get(0))?;
            Ok(names.collect::<Result<Vec<String>, _>>()?)
        };
        let mut known: Vec<_> = WAITING.into_iter().map(|(table, ..)| table).chain(OTHERS).collect();
        known.sort_unstable();
        assert_eq!(store.read(tables).unwrap(), known);
    }
}
