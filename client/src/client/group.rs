//! A group as a device in it sees it.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use postern_protocol::{
    PublicKey, credential::ClientCredential, ds::GroupId, mls::Pseudonym, name::UserName, push::Urgency,
};

use crate::{
    contact,
    error::{Error, Result},
    event::{HistoryEntry, Member},
    group::{self, Change, Differences, GroupState},
    history, identity, invitations, key_packages, push,
    session::Session,
};

/// A group that a client is in, or was.
///
/// It is a handle with an id: cheap to clone, and valid for as long as anybody likes. A call on a
/// group that the client does not know fails with [`Error::UnknownGroup`], on one that it is not in
/// any more with [`Error::NotMember`].
#[derive(Clone)]
pub struct Group {
    pub(crate) session: Arc<Session>,
    pub(crate) id: GroupId,
}

/// How far an invitation has come, in devices of the invited user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invited {
    /// Those in the group now.
    pub members: usize,
    /// Those that were asked and have not answered yet.
    pub waiting: usize,
}

/// The devices that a removal removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub members: Vec<Member>,
}

/// A group that was founded anew.
#[derive(Debug, Clone)]
pub struct Refounded {
    pub group: Group,
    /// The members of the old group that were invited.
    pub invited: Vec<UserName>,
    /// Those that could not be invited, and why.
    pub missing: Vec<(UserName, String)>,
    /// The number of devices in the old group that were not invited because it is not confirmed whose
    /// they are.
    pub unknown: usize,
}

impl Group {
    pub(super) fn new(session: Arc<Session>, id: GroupId) -> Self {
        Self { session, id }
    }

    pub fn id(&self) -> &GroupId {
        &self.id
    }

    /// Every device in the group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::NotMember`].
    pub fn members(&self) -> Result<Vec<Member>> {
        self.session.store.read(|tx| group::members(tx, &GroupState::load(tx, &self.id)?))
    }

    /// Whether a device may add and remove others (DS-6).
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn is_admin(&self, leaf_key: &PublicKey) -> Result<bool> {
        self.session.store.read(|tx| Ok(GroupState::load(tx, &self.id)?.is_admin(leaf_key)))
    }

    /// The group's epoch as this device knows it.
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn epoch(&self) -> Result<u64> {
        self.session.store.read(|tx| Ok(GroupState::load(tx, &self.id)?.epoch()))
    }

    /// Says something. When this returns, it will reach every member (DS-4). It is kept before it is
    /// sent: after a passing error it waits with whatever else was said before and after it, and the
    /// next step sends all of it once, in order.
    ///
    /// # Errors
    /// As [`Self::keep`], with nothing kept. As [`Self::deliver`], and the server's refusal of this
    /// message, which is not kept then.
    pub async fn send(&self, text: &str) -> Result<()> {
        let number = self.keep(text)?;
        self.deliver_own(Some(number)).await
    }

    /// Keeps something that is to be said, without talking to the server: [`Self::deliver`] and every
    /// later step send it. Returns the number that members will know it by.
    ///
    /// # Errors
    /// As [`Self::members`], and [`Error::OutboxFull`], [`Error::Leaving`].
    pub fn keep(&self, text: &str) -> Result<u64> {
        let session = &self.session;
        session.store.write(|tx| GroupState::load(tx, &self.id)?.say(tx, text.to_owned(), &session.options))
    }

    /// Sends what is kept, in order. What the server refuses is told as [`Event::Unsent`].
    ///
    /// # Errors
    /// As [`Self::members`], and [`Error::Contended`], [`Error::CannotFollow`], [`Error::Server`]: what
    /// was not sent is kept.
    ///
    /// [`Event::Unsent`]: crate::Event::Unsent
    pub async fn deliver(&self) -> Result<()> {
        self.deliver_own(None).await
    }

    /// Sends what is kept up to the message of this number and all others, and says if that one was
    /// refused.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn deliver_own(&self, number: Option<u64>) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.deliver(&step, &self.id, number).await
    }

    /// The last messages and events of the group that this device keeps, so many, oldest first: of its own messages those
    /// that the server accepted. How many are kept, [`Options::history`](crate::Options::history) says.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn history(&self, number: u64) -> Result<Vec<HistoryEntry>> {
        self.session.store.read(|tx| group::history(tx, &self.id, number))
    }

    /// Deletes all that this device keeps of the group's history. What was not told yet is told all the same.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_history(&self) -> Result<()> {
        self.session.store.write(|tx| history::forget(tx, &self.id))?;
        self.session.store.scrub()
    }

    /// Sets whether this device keeps what comes in this group from now on: usually it does.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn keep_history(&self, kept: bool) -> Result<()> {
        self.session.store.write(|tx| history::set_kept(tx, &self.id, kept))
    }

    /// How many messages of this device are kept: the server has not accepted them yet.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn unsent(&self) -> Result<u64> {
        self.session.store.read(|tx| GroupState::unsent(tx, &self.id))
    }

    /// Whether a message or commit of this device is on its way, with the answer outstanding.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn is_unsettled(&self) -> Result<bool> {
        self.session.store.read(|tx| Ok(GroupState::outstanding(tx, &self.id)?.is_some()))
    }

    /// Invites all devices of a user. They are added at once if the user allowed it before; else the user
    /// is asked, and they are added when the answer of one of them is received. This user's other devices
    /// come in by themselves, as the same user: by the user's own name they are told once more.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], [`Error::NoContact`], `not-found` for an unknown user,
    /// [`Error::Identity`] when the AS's answer does not verify, and as [`Self::members`].
    pub async fn invite(&self, user: &UserName) -> Result<Invited> {
        let session = &self.session;
        let found = identity::look_up(&session.api, &session.store, user).await?;
        let step = session.store.step().await?;
        let is_own = *user == session.account.user;
        let devices: Vec<_> = found
            .clients
            .iter()
            .filter(|client| client.client_key != session.client_key())
            .filter_map(|client| Some((client.client_key, client.contact.as_ref()?)))
            .collect();
        if devices.is_empty() {
            return Err(Error::NoContact);
        }
        session.store.write(|tx| {
            let loaded = GroupState::load(tx, &self.id)?;
            if is_own {
                let devices: Vec<_> = devices.iter().map(|(client_key, _)| *client_key).collect();
                return group::retell(tx, &self.id, &devices);
            }
            if !loaded.is_admin(&loaded.leaf.public_key()) {
                return Err(Error::NotAdmin);
            }
            let members = client_keys(&group::claims(tx, &loaded)?);
            let mut missing = Vec::new();
            for (client_key, contact) in &devices {
                if members.contains(client_key) {
                    continue;
                }
                invitations::invite(tx, &self.id, client_key, user)?;
                if key_packages::key_package_of(tx, client_key)?.is_none() {
                    missing.push((*client_key, *contact));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            if contact::friend(tx, user)?.is_some() {
                return invitations::want_key_packages(tx, user);
            }
            contact::ask(tx, user, &missing)
        })?;
        session.errands(&step).await?;
        session.store.read(|tx| {
            let members = client_keys(&group::claims(tx, &GroupState::load(tx, &self.id)?)?);
            let members = devices.iter().filter(|(key, _)| members.contains(key)).count();
            Ok(Invited { members, waiting: devices.len() - members })
        })
    }

    /// The devices that [`Self::remove`] would remove: those of which the AS confirmed that they are the
    /// user's, and all that share their place in the group, since users are removed whole. What a member
    /// merely says of itself does not count.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], and as [`Self::members`].
    pub fn removal(&self, user: &UserName) -> Result<Removal> {
        let members =
            self.session.store.read(|tx| group::devices_of(tx, &GroupState::load(tx, &self.id)?, user))?;
        if members.is_empty() { Err(Error::NoSuchMember(user.to_string())) } else { Ok(Removal { members }) }
    }

    /// The device of a leaf key, and all that share its place in the group: what removing it would remove.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], and as [`Self::members`].
    pub fn removal_of(&self, leaf_key: &PublicKey) -> Result<Removal> {
        self.session.store.read(|tx| {
            let loaded = GroupState::load(tx, &self.id)?;
            let own = loaded.leaf.public_key();
            let whole = loaded.of_same_users(&[*leaf_key]);
            // Of its own user a device removes single ones.
            let removed = if whole.contains(&own) { vec![*leaf_key] } else { whole };
            let mut members = group::members(tx, &loaded)?;
            members.retain(|member| removed.contains(&member.leaf_key) && member.leaf_key != own);
            if members.is_empty() {
                Err(Error::NoSuchMember("the device".to_owned()))
            } else {
                Ok(Removal { members })
            }
        })
    }

    /// Removes a user, by the identity that the AS confirmed: see [`Self::removal`].
    ///
    /// # Errors
    /// As [`Self::remove_all`].
    pub async fn remove(&self, user: &UserName) -> Result<()> {
        self.remove_all(&self.removal(user)?).await
    }

    /// Removes exactly these devices, as far as they are members yet.
    ///
    /// # Errors
    /// [`Error::MembersChanged`] when that would leave some of a user's devices in, `policy-violation`
    /// unless this device is an admin or they are its user's own, and as [`Self::send`].
    pub async fn remove_all(&self, removal: &Removal) -> Result<()> {
        let named: Vec<_> = removal.members.iter().map(|member| member.leaf_key).collect();
        let step = self.session.store.step().await?;
        self.session
            .commit(&step, &self.id, |_, group| {
                let mut present = named.clone();
                present.retain(|leaf_key| group.leaf_keys().any(|member| member == *leaf_key));
                let own = group.of_same_users(&[group.leaf.public_key()]);
                let others: Vec<_> = present.iter().filter(|it| !own.contains(it)).copied().collect();
                if group.of_same_users(&others).iter().any(|leaf_key| !present.contains(leaf_key)) {
                    return Err(Error::MembersChanged);
                }
                Ok((!present.is_empty()).then_some(Change::Remove(present)))
            })
            .await
    }

    /// The devices whose users may add and remove others and change the group (DS-6).
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn admins(&self) -> Result<Vec<Member>> {
        self.session.store.read(|tx| {
            let loaded = GroupState::load(tx, &self.id)?;
            let mut members = group::members(tx, &loaded)?;
            members.retain(|member| loaded.is_admin(&member.leaf_key));
            Ok(members)
        })
    }

    /// Makes a user an admin, by the identity that the AS confirmed.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], [`Error::NotAdmin`], and as [`Self::send`].
    pub async fn name_admin(&self, user: &UserName) -> Result<()> {
        self.change_admins(user, |admins, of_user| admins.union(of_user).copied().collect()).await
    }

    /// Takes a user's rights of an admin.
    ///
    /// # Errors
    /// As [`Self::name_admin`], and [`Error::LastAdmin`].
    pub async fn dismiss_admin(&self, user: &UserName) -> Result<()> {
        self.change_admins(user, |admins, of_user| admins.difference(of_user).copied().collect()).await
    }

    async fn change_admins(
        &self,
        user: &UserName,
        change: impl Fn(&BTreeSet<Pseudonym>, &BTreeSet<Pseudonym>) -> BTreeSet<Pseudonym>,
    ) -> Result<()> {
        let step = self.session.store.step().await?;
        let is_own = *user == self.session.account.user;
        self.session
            .commit(&step, &self.id, |tx, loaded| {
                let own = loaded.leaf.public_key();
                if !loaded.is_admin(&own) {
                    return Err(Error::NotAdmin);
                }
                let devices = group::devices_of(tx, loaded, user)?;
                let mut devices: Vec<_> = devices.iter().map(|member| member.leaf_key).collect();
                devices.extend(is_own.then_some(own));
                if devices.is_empty() {
                    return Err(Error::NoSuchMember(user.to_string()));
                }
                let before: BTreeSet<_> = loaded.admins()?.into_iter().collect();
                let after = change(&before, &loaded.pseudonyms(&devices));
                let members: Vec<_> = loaded.leaf_keys().collect();
                if loaded.pseudonyms(&members).is_disjoint(&after) {
                    return Err(Error::LastAdmin);
                }
                Ok((before != after).then(|| Change::Admins(after.into_iter().collect())))
            })
            .await
    }

    /// Calls the group something else, for all members.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], and as [`Self::send`].
    pub async fn rename(&self, title: &str) -> Result<()> {
        let session = &self.session;
        let number = session.store.write(|tx| GroupState::load(tx, &self.id)?.call(tx, title))?;
        self.deliver_own(Some(number)).await
    }

    /// Ends the group for everyone (DS-11): all others are removed, and learn of it, then the group is
    /// deleted. When this was interrupted, the next call goes on.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], and as [`Self::send`].
    pub async fn delete(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.delete_group(&step, &self.id).await?;
        session.errands(&step).await
    }

    /// Has messages of the group go to another address of this device (DS-11). The old one leads nowhere
    /// from then on.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn renew_address(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.renew_address(&step, &self.id).await?;
        session.errands(&step).await
    }

    /// Renews this device's keys (post-compromise security).
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn update(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.commit(&step, &self.id, |_, _| Ok(Some(Change::Update))).await
    }

    /// Leaves, with all devices of this user: with the next commit of another member, which has to come
    /// before anybody says anything. The last admin names another first. What was said before is sent
    /// first. After a passing error, or when the proposal lapsed, the next step goes on with it.
    ///
    /// # Errors
    /// [`Error::LastAdmin`], as [`Self::deliver`], and what the server refuses.
    pub async fn leave(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.store.write(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            if group.is_last_admin()? { Err(Error::LastAdmin) } else { group.want_to_leave(tx) }
        })?;
        self.session.leave(&step, &self.id).await
    }

    /// Comes back (DS-7) where this device is a member but cannot follow any more. What was said
    /// since cannot be read. Clients do so by themselves ([`Event::CannotFollow`]); this is for the
    /// impatient, and where only a person can decide.
    ///
    /// [`Event::CannotFollow`]: crate::Event::CannotFollow
    ///
    /// # Errors
    /// [`Error::Strangers`] where members or admins are there that this device does not know: with
    /// [`Self::rejoin_accepting`] its user accepts them. As [`Self::send`].
    pub async fn rejoin(&self) -> Result<()> {
        self.rejoin_accepting(&Differences::default()).await
    }

    /// Comes back into a group that differs from what this device knew of it by no more than a person
    /// accepted.
    ///
    /// # Errors
    /// As [`Self::rejoin`].
    pub async fn rejoin_accepting(&self, accepted: &Differences) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.rejoin(&step, &self.id, accepted).await
    }

    /// Founds the group anew, for one that is beyond repair (DS-13): another group with the same title
    /// and the same members, and this device as its admin. This device is in the old one no more, and
    /// tells it nothing. The members are those users that this device knows to be behind the devices
    /// of the old group; they are invited as with [`Self::invite`]. When this was interrupted, the next
    /// call goes on with the same group.
    ///
    /// # Errors
    /// As [`Self::members`], and as [`Client::create_group`](crate::Client::create_group). Passing ones of
    /// invitations, too; what else keeps a user from being invited is in the answer.
    pub async fn refound(&self) -> Result<Refounded> {
        let session = &self.session;
        let (title, successor, others) = session.store.read(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            let mut others = group::members(tx, &group)?;
            others.retain(|member| member.leaf_key != group.leaf.public_key());
            Ok((group::title(tx, &self.id)?, group::successor(tx, &self.id)?, others))
        })?;
        let group = {
            let step = session.store.step().await?;
            let id = match successor {
                Some(id) => id,
                None => session.prepare_group(&title, Some(&self.id)).await?,
            };
            session.finish_founding(&step, &id).await?;
            Self::new(session.clone(), id)
        };
        let known: BTreeSet<_> =
            others.iter().filter(|one| one.verified).filter_map(|one| one.user.clone()).collect();
        let unknown = others.iter().filter(|one| !one.verified || one.user.is_none()).count();
        let (mut invited, mut missing) = (Vec::new(), Vec::new());
        for user in known {
            match group.invite(&user).await {
                Ok(_) => invited.push(user),
                Err(error) if error.is_final() || matches!(error, Error::Identity(_) | Error::NoContact) => {
                    missing.push((user, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        self.block().await?;
        Ok(Refounded { group, invited, missing, unknown })
    }

    /// Leaves without asking the group (QS-7): its messages reach this device no more, and its
    /// members learn no more than that.
    ///
    /// # Errors
    /// As [`Self::members`], and [`Error::Server`].
    pub async fn block(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| GroupState::load(tx, &self.id)?.quit(tx))?;
        session.errands(&step).await
    }

    /// Sets from which urgency on messages of the group wake this device (QS-10): normal, unless
    /// this says something else; `None`: never.
    ///
    /// # Errors
    /// As [`Self::members`], and [`Error::Server`].
    pub async fn set_push(&self, at_least: Option<Urgency>) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| {
            GroupState::load(tx, &self.id)?;
            push::set_policy(tx, &self.id, at_least)
        })?;
        session.errands(&step).await
    }

    /// Replaces the attributes of this device's leaf (DS-12), which the group's members find at the
    /// server and nobody else can read: 500 bytes at most. Nothing is said of it in the group.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`] until a newcomer was told how, `message-too-large`, and as
    /// [`Self::send`].
    pub async fn set_attributes(&self, content: &[u8]) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.commit(&step, &self.id, |_, _| Ok(Some(Change::SetAttributes(content.to_vec())))).await
    }

    /// The attributes of the members' leaves now, by leaf key, as far as they open (DS-12).
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`], [`Error::Server`], and as [`Self::members`].
    pub async fn attributes(&self) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let session = &self.session;
        let current = session.fetch_current(&self.id).await?;
        session.store.write(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            group.learn(tx, &current.attributes)?;
            group.open_attributes(tx, &current.attributes)
        })
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.id).finish()
    }
}

fn client_keys(claims: &[(PublicKey, ClientCredential)]) -> HashSet<PublicKey> {
    claims.iter().map(|(_, claim)| claim.client_key).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;
    use crate::{Client, submit::Submission};

    /// Many clients live in one process: what they do can be spawned.
    #[test]
    fn clients_move_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        #[expect(unused, reason = "it only has to compile")]
        fn spawnable(client: &Client, group: &Group, user: &UserName, submission: &Submission) {
            is_send(client);
            is_send(group);
            is_send(submission);
            is_send(&client.sync(Duration::ZERO));
            is_send(&group.send(""));
            is_send(&group.invite(user));
            is_send(&group.remove(user));
            is_send(&client.follower().next(Duration::ZERO));
            is_send(&Client::register(Path::new(""), "", ""));
        }
    }
}
