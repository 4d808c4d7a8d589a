//! A device of a user: its groups, its contacts, and what comes in.

use std::{path::Path, sync::Arc, time::Duration};

use postern_protocol::{
    PublicKey,
    ds::GroupId,
    eid::EidState,
    name::{Domain, UserName},
};

use super::group::Group;
use crate::{
    clock::Deadline,
    elsewhere,
    error::{Error, Result},
    event::{self, Event, EventId},
    follow::{self, Follower},
    group::{self, GroupSummary},
    identity::{self, Audit, Known, Seen},
    session::Session,
    tokens::{self, DirectoryDigest, Wallet},
};

/// A client: one device of one user.
///
/// It is a handle: clone it freely, use it from several tasks, and from several processes on one
/// directory. Things to tell ([`Event`]) wait in the store until somebody takes them. After a
/// passing error ([`Error::is_passing`]) nothing is lost: the next call that talks to the server
/// goes on with what was begun.
#[derive(Clone)]
pub struct Client {
    pub(crate) session: Arc<Session>,
}

impl Client {
    /// The user that this device belongs to.
    pub fn user(&self) -> &UserName {
        &self.session.account.user
    }

    /// The key this device is known by at the AS (Ed25519).
    pub fn client_key(&self) -> PublicKey {
        self.session.client_key()
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        self.session.api.http.server()
    }

    /// The directory in which this device keeps its state.
    pub fn directory(&self) -> &Path {
        self.session.store.directory()
    }

    /// This device's tokens, which pay for its requests (AAS-6). It fetches them itself.
    pub fn wallet(&self) -> &Wallet {
        &self.session.api.wallet
    }

    // Groups

    /// Creates a group with this device as its one member and admin (DS-1). The title is known to
    /// members only. After a passing error the group is kept: the next step founds it, and so does
    /// creating one of this title again.
    ///
    /// # Errors
    /// [`Error::Server`].
    pub async fn create_group(&self, title: &str) -> Result<Group> {
        let step = self.session.store.step().await?;
        let id = self.session.found(&step, title).await?;
        Ok(self.group_with_id(&id))
    }

    /// All groups that this device is or was in.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn groups(&self) -> Result<Vec<GroupSummary>> {
        self.session.store.read(group::summaries)
    }

    /// The group with this id (unpadded base64url), or else with this title or beginning of an id. A group with this title
    /// that this device left counts only when no other is meant. Others choose titles: one that is another group's id takes
    /// nothing from it, and one that is the beginning of another group's id, and has 6 characters or more, names neither. Last of
    /// all, it may be one that this device did not come into, since strangers are there ([`Event::Strangers`]).
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::AmbiguousGroup`].
    pub fn group(&self, name: &str) -> Result<Group> {
        let id = match meant_by(name, &self.groups()?).cloned() {
            Err(Error::UnknownGroup(_)) => {
                meant_by(name, &self.session.store.read(group::left_to_person)?).cloned()?
            }
            id => id?,
        };
        Ok(self.group_with_id(&id))
    }

    /// The group with this id, as an [`Event`] names it. Whether this device knows it shows when
    /// it is used.
    pub fn group_with_id(&self, id: &GroupId) -> Group {
        Group::new(self.session.clone(), id.clone())
    }

    // Other users

    /// Checks the whole history of a user's identity, back to its founder (AS-3). [`Self::look_up`] needs none
    /// of it.
    ///
    /// # Errors
    /// As [`Self::look_up`]; [`IdentityError::History`](crate::IdentityError::History) for a commit that no device of the user
    /// may have made, and [`IdentityError::Split`](crate::IdentityError::Split) for a history that does not lead to what was
    /// seen.
    pub async fn audit(&self, user: &UserName) -> Result<Audit> {
        identity::audit(&self.session.api, &self.session.store, user).await
    }

    /// A user's identity as lookups showed it; `None` if there was none.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn known(&self, user: &UserName) -> Result<Option<Known>> {
        self.session.store.read(|tx| identity::known(tx, user))
    }

    /// Compares a state of a user's identity that somebody else was shown, or the user itself told, with what
    /// this device was shown. [`Seen::Split`] proves that the AS lied to one of them.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn compare(&self, user: &UserName, told: &EidState) -> Result<Seen> {
        self.session.store.read(|tx| identity::compare(tx, user, told))
    }

    /// The identity that the AS shows instead of the known one. It is the user's once a person says so.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pending_reset(&self, user: &UserName) -> Result<Option<Known>> {
        self.session.store.read(|tx| identity::pending_reset(tx, user))
    }

    /// The key that this device's tokens are issued with, for a friend of the same server to compare (AAS-7);
    /// `None` before the first tokens.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn directory_digest(&self) -> Result<Option<DirectoryDigest>> {
        self.session.store.read(tokens::directory_digest)
    }

    /// Compares the key that a friend of the same server has with those that this device saw. [`Seen::Split`] means
    /// that the server made a key for one of the two.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn compare_directory(&self, theirs: &DirectoryDigest) -> Result<Seen> {
        self.session.store.read(|tx| tokens::compare_directory(tx, theirs))
    }

    /// Accepts whatever root a domain has now ([`IssuerError::OtherRoot`]): its operator confirmed in another way that it
    /// changed.
    ///
    /// [`IssuerError::OtherRoot`]: crate::IssuerError::OtherRoot
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn accept_root(&self, domain: &Domain) -> Result<()> {
        self.session.store.write(|tx| identity::accept_root(tx, domain))
    }

    /// Accepts whatever keys the homeserver of another domain has now ([`HomeserverError::KeysDiffer`]): a friend there, or
    /// its operator, confirmed in another way that they changed.
    ///
    /// [`HomeserverError::KeysDiffer`]: crate::HomeserverError::KeysDiffer
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn accept_homeserver(&self, domain: &Domain) -> Result<()> {
        self.session.store.write(|tx| elsewhere::forget(tx, domain))
    }

    // Receiving

    /// Receives all waiting messages, waits up to `wait` if they yield no event, and takes the events to tell.
    ///
    /// # Errors
    /// Passing ones lose nothing: call again. [`Error::Queue`] when the server cheats.
    pub async fn sync(&self, wait: Duration) -> Result<Vec<Event>> {
        self.receive(wait).await?;
        let pending = self.pending_events()?;
        if let Some((last, _)) = pending.last() {
            self.forget_events(*last)?;
        }
        Ok(pending.into_iter().map(|(_, event)| event).collect())
    }

    /// Syncs until an event is `wanted` or `timeout` is over; returns all events on the way. A passing error ends it, too, and
    /// is returned if there was no event before.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn sync_until(
        &self,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Vec<Event>> {
        let deadline = Deadline::after(timeout);
        let mut events = Vec::new();
        loop {
            let left = deadline.left();
            let new = match self.sync(left).await {
                Ok(new) => new,
                // Each event is told once. The next call meets the error, if it lasts.
                Err(error) if error.is_passing() && !events.is_empty() => return Ok(events),
                Err(error) => return Err(error),
            };
            let found = new.iter().any(&mut wanted);
            events.extend(new);
            if found || left.is_zero() {
                return Ok(events);
            }
        }
    }

    /// As [`Self::sync`], but leaves what there is to tell in the store: see
    /// [`Self::pending_events`].
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn receive(&self, wait: Duration) -> Result<()> {
        follow::receive(&self.session, wait).await
    }

    /// Waits on both queues for as long as it lives, with few tokens.
    pub fn follower(&self) -> Follower {
        Follower::new(self.session.clone())
    }

    /// Events that were not told yet, oldest first, with the names that are known by now.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pending_events(&self) -> Result<Vec<(EventId, Event)>> {
        self.session.store.read(group::pending_events)
    }

    /// Forgets events up to this one: call it when they were told.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_events(&self, up_to: EventId) -> Result<()> {
        self.session.store.write(|tx| event::forget(tx, up_to))
    }

    /// Whether something is on its way that a later step has to finish: unanswered and unsent messages, groups to come
    /// back into, unread and unsent letters, KeyPackages to fetch or publish, introductions.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn has_errands(&self) -> Result<bool> {
        self.session.has_errands()
    }
}

/// The length from which on the beginning of an id may be meant where a group's title is the same. Shorter titles are common.
const BEGINNING: usize = 6;

/// The group among these that a name means.
fn meant_by<'a>(name: &str, groups: &'a [GroupSummary]) -> Result<&'a GroupId> {
    let find = |wanted: &dyn Fn(&GroupSummary) -> bool| -> Vec<&'a GroupSummary> {
        groups.iter().filter(|group| wanted(group)).collect()
    };
    let is_called = |group: &GroupSummary| group.title == name;
    let begins = |group: &GroupSummary| !name.is_empty() && group.id.to_base64url().starts_with(name);
    let with_id = find(&|group| group.id.to_base64url() == name);
    let titled = find(&|group| group.active && is_called(group));
    let named = find(&|group| group.active && is_called(group) || begins(group));
    let named = if name.len() < BEGINNING && !titled.is_empty() { titled } else { named };
    let left = find(&is_called);
    match [with_id, named, left].into_iter().find(|found| !found.is_empty()).as_deref() {
        Some([group]) => Ok(&group.id),
        Some(_) => Err(Error::AmbiguousGroup(name.to_owned())),
        None => Err(Error::UnknownGroup(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_title_takes_what_is_for_the_group_with_that_id() {
        let group = |number: u8, title: &str, active| GroupSummary {
            id: GroupId::new([number; 16], "example.org".parse().unwrap()),
            title: title.to_owned(),
            active,
        };
        let [climbing, left] = [group(40, "climbing", true), group(80, "climbing", false)];
        let id = climbing.id.to_base64url();
        let beginning = &id[..8];
        let groups = |title: &str| [group(120, title, true), climbing.clone(), left.clone()];
        let meant = |name: &str, groups: &[GroupSummary]| meant_by(name, groups).cloned();
        let is_ambiguous = |found| matches!(found, Err(Error::AmbiguousGroup(_)));
        for name in ["climbing", id.as_str(), beginning] {
            assert_eq!(meant(name, &groups("peaks")).unwrap(), climbing.id, "{name}");
        }
        assert_eq!(meant(&id, &groups(&id)).unwrap(), climbing.id, "a full id counts first");
        assert!(is_ambiguous(meant(beginning, &groups(beginning))));
        assert!(is_ambiguous(meant(&id[..6], &groups(&id[..6]))));
        let short = &id[..5];
        assert_eq!(meant(short, &groups(short)).unwrap(), group(120, short, true).id, "a short title");
        assert_eq!(meant(short, &groups("peaks")).unwrap(), climbing.id);
        assert!(is_ambiguous(meant("climbing", &groups("climbing"))));
        let left_id = left.id.to_base64url();
        assert_eq!(meant(&left_id, &groups(&left_id)).unwrap(), left.id);
        assert!(is_ambiguous(meant(&left_id[..8], &groups(&left_id[..8]))));
        assert_eq!(meant("climbing", &[group(120, "peaks", true), left.clone()]).unwrap(), left.id);
        assert!(matches!(meant("huts", &groups("peaks")), Err(Error::UnknownGroup(_))));
    }
}
