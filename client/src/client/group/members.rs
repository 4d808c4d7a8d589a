//! The members of a group: inviting, removing, and naming admins.

use std::collections::{BTreeSet, HashSet};

use postern_protocol::{PublicKey, credential::ClientCredential, mls::Pseudonym, name::UserName};

use super::Group;
use crate::{
    contact,
    error::{Error, Result},
    event::Member,
    group::{self, Change, GroupState},
    identity, invitations, key_packages,
};

/// How far an invitation has come, in devices of the invited user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invited {
    /// Devices that are in the group now.
    pub members: usize,
    /// Devices that were asked and have not answered yet.
    pub waiting: usize,
}

/// The devices that a removal removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub members: Vec<Member>,
}

impl Group {
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
            // A device removes single ones of its own user.
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
}

fn client_keys(claims: &[(PublicKey, ClientCredential)]) -> HashSet<PublicKey> {
    claims.iter().map(|(_, claim)| claim.client_key).collect()
}
