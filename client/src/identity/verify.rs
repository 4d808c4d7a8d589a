//! Verifying a user's record (AS-3): by itself the first time, and later as what followed on the
//! identity that was seen before. Nothing here asks a server or changes what is kept.

use std::collections::HashSet;

use postern_protocol::{
    MlsMessage, PublicKey, Transcript,
    auth::{AuthenticationKeys, SignedContact, UserRecord},
    credential::ClientCredential,
    eid::{EidState, Founding},
    name::UserName,
    profile::SignedProfile,
};

use super::{
    issuer::{is_issuer, is_worthless, verify_credential},
    known::Kept,
    public_eid::{Leaf, PublicEid},
};
use crate::{
    clock::{CLOCK_SKEW, is_of_the_future},
    error::{Error, IdentityError},
};

/// Seconds for which a ticket is fresh (AS-10): the AS signs one for each answer.
const FRESH_FOR: u64 = 10 * 60;
/// Seconds by which a later ticket may be older: it is of a full minute, and processes of one server differ a
/// little.
const TICKET_STEP: u64 = 60;

/// A user whose devices were verified (AS-3).
#[derive(Debug, Clone)]
pub struct VerifiedUser {
    pub name: UserName,
    /// The state of the user's identity.
    pub eid: EidState,
    /// The devices that are in the user's identity now, confirmed themselves under a name that this device saw the user
    /// have, and have a valid credential.
    pub clients: Vec<VerifiedClient>,
}

/// One device of a user.
#[derive(Debug, Clone)]
pub struct VerifiedClient {
    /// The device's key at the AS (Ed25519).
    pub client_key: PublicKey,
    /// Where to reach it for the first time; absent until it finished its registration.
    pub contact: Option<SignedContact>,
}

/// A record that verified.
pub(super) struct Shown {
    pub user: VerifiedUser,
    pub founding: Founding,
    /// The first transcripts of the incarnations before, as the AS says.
    pub begun: Vec<Transcript>,
    pub public_eid: PublicEid,
    /// Devices in the identity, those that did not confirm themselves included.
    pub leaves: Vec<Leaf>,
    /// Transcripts of the epochs since what was seen before.
    pub transcripts: Vec<(u64, Transcript)>,
    /// Commits of these epochs.
    pub commits: Vec<MlsMessage>,
    pub profile: Option<SignedProfile>,
    /// When the AS said that this is the latest, in seconds since 1970.
    pub time: u64,
    /// Ends of credentials that the AS signed of clients in the identity, in seconds since 1970: of those that ended, too.
    pub credentials: Vec<(PublicKey, u64)>,
    /// Names that this device saw the user have. The first is the present one.
    pub names: Vec<UserName>,
}

impl Shown {
    /// Names that the user had before and that a leaf has yet.
    pub(super) fn former_names(&self) -> Vec<UserName> {
        let mut former: Vec<UserName> = self.names.iter().skip(1).cloned().collect();
        former.sort_unstable();
        former.dedup();
        former.retain(|name| *name != self.user.name && self.leaves.iter().any(|leaf| leaf.name == *name));
        former
    }
}

/// The reader of a record.
pub(super) struct Reader<'a> {
    pub name: &'a UserName,
    /// The name under which the known identity is kept, if it is another.
    pub was: Option<&'a UserName>,
    pub keys: &'a AuthenticationKeys,
    /// Seconds since 1970.
    pub now: u64,
    /// The time of the newest ticket of this user that was seen before the record was asked for, and is of no time to come.
    pub seen: u64,
}

impl Reader<'_> {
    /// Verifies the identity that a record shows by itself: of a user that is not known, or whose identity
    /// does not go on from the known one.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(super) fn first(&self, record: &UserRecord) -> Result<Shown, IdentityError> {
        let current = &record.current;
        let public_eid = PublicEid::open(&current.group_info, &current.ratchet_tree)?;
        let transcripts = vec![(current.state.eid.epoch, current.state.eid.transcript)];
        self.shown(record, public_eid, transcripts, &[])
    }

    /// Verifies that a record, asked for with what came after the known state, goes on from there. `None` if
    /// it does not: then it shows another identity, or another history of this one.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(super) fn later(&self, record: &UserRecord, kept: &Kept) -> Result<Option<Shown>, Error> {
        let (current, known) = (&record.current, &kept.eid);
        if record.incarnation < known.incarnation {
            return Err(IdentityError::RolledBack.into());
        }
        if record.incarnation != known.incarnation || founding(record) != kept.founding {
            return Ok(None);
        }
        if current.state.eid.epoch < known.epoch {
            return Err(IdentityError::RolledBack.into());
        }
        let (mut public_eid, mut state) = (kept.public_eid()?, *known);
        let mut transcripts = Vec::new();
        for commit in &record.commits {
            if let Err(error) = public_eid.follow(self.name, commit) {
                tracing::warn!(%error, "an identity does not go on from what was seen of it");
                return Ok(None);
            }
            state = state.followed_by(commit.as_bytes());
            transcripts.push((state.epoch, state.transcript));
        }
        if state != current.state.eid {
            return Ok(None);
        }
        Ok(Some(self.shown(record, public_eid, transcripts, &kept.former)?))
    }

    fn shown(
        &self,
        record: &UserRecord,
        public_eid: PublicEid,
        transcripts: Vec<(u64, Transcript)>,
        former: &[UserName],
    ) -> Result<Shown, IdentityError> {
        if record.name != *self.name {
            return Err(IdentityError::OtherUser);
        }
        let founding = founding(record);
        self.check_state(record, &founding, &public_eid)?;
        self.check_ticket(record, &public_eid)?;
        let leaves = public_eid.leaves(self.name)?;
        let mut names = vec![self.name.clone()];
        names.extend(self.was.into_iter().chain(former).cloned());
        let (clients, credentials) = self.clients(record, &leaves, &names)?;
        let user = VerifiedUser { name: record.name.clone(), eid: record.current.state.eid, clients };
        let (commits, time) = (record.commits.clone(), record.ticket.time);
        let profile = record.profile.clone();
        Ok(Shown {
            user,
            founding,
            begun: record.begun.clone(),
            public_eid,
            leaves,
            transcripts,
            commits,
            profile,
            time,
            credentials,
            names,
        })
    }

    /// Checks that the client which began the current epoch signed this state and GroupInfo, and that both
    /// are the identity's.
    fn check_state(
        &self,
        record: &UserRecord,
        founding: &Founding,
        public_eid: &PublicEid,
    ) -> Result<(), IdentityError> {
        let (current, eid) = (&record.current, &record.current.state.eid);
        let incarnation = usize::try_from(eid.incarnation).map_err(|_| IdentityError::State)?;
        if eid.incarnation != record.incarnation
            || record.ended.len() != incarnation
            || eid.epoch != public_eid.epoch()
        {
            return Err(IdentityError::State);
        }
        if eid.epoch == 0 {
            let begun = Transcript::founded(record.ended.last(), &current.group_info, &current.ratchet_tree);
            let founder = public_eid.founder(self.name)?;
            if begun != founding.transcript || eid.transcript != begun || founder != founding.founder {
                return Err(IdentityError::State);
            }
        }
        let leaves = public_eid.leaves(self.name)?;
        let signed = |leaf: &&Leaf| {
            !leaf.pending
                && current.state.verify(self.name, founding, &current.group_info, leaf.client_key).is_ok()
        };
        let signer = leaves.iter().find(signed).ok_or(IdentityError::State)?;
        public_eid.verify_group_info(&current.group_info, signer)
    }

    /// Checks the word of the AS that the state is the latest (AS-10).
    fn check_ticket(&self, record: &UserRecord, public_eid: &PublicEid) -> Result<(), IdentityError> {
        let ticket = &record.ticket;
        if ticket.user != *self.name
            || ticket.eid != record.current.state.eid
            || ticket.tree_hash != public_eid.tree_hash()?
        {
            return Err(IdentityError::Ticket("it is of another state"));
        }
        if !is_issuer(self.keys, &ticket.issuer_key, self.now) || ticket.verify().is_err() {
            return Err(IdentityError::Ticket("no published key of the AS signed it"));
        }
        if ticket.time.saturating_add(FRESH_FOR + CLOCK_SKEW) < self.now {
            return Err(IdentityError::Ticket("it is old"));
        }
        if ticket.time.saturating_add(TICKET_STEP) < self.seen {
            return Err(IdentityError::Ticket("it is older than one that was seen"));
        }
        if is_of_the_future(ticket.time, self.now) {
            return Err(IdentityError::Ticket("it is of a time to come"));
        }
        Ok(())
    }

    /// The clients that have a valid credential, and the ends of all credentials that the AS signed. A client whose
    /// credential ended, is of a time to come, or was signed by a key that is good no more, is left out, and the others are
    /// found: it gets another one when it is back.
    fn clients(
        &self,
        record: &UserRecord,
        leaves: &[Leaf],
        names: &[UserName],
    ) -> Result<(Vec<VerifiedClient>, Vec<(PublicKey, u64)>), IdentityError> {
        let (mut clients, mut credentials, mut claimed) = (Vec::new(), Vec::new(), HashSet::new());
        for client in &record.clients {
            let claim = ClientCredential::parse(&client.credential).map_err(|_| IdentityError::Credential)?;
            if claim.user != *self.name {
                // The client has not got one yet under the name that the user took (AS-9).
                continue;
            }
            let leaf = leaves
                .iter()
                .find(|leaf| leaf.client_key == claim.client_key)
                .ok_or(IdentityError::NotADevice)?;
            if !claimed.insert(claim.client_key) {
                return Err(IdentityError::NotADevice);
            }
            if claim.not_after < self.now {
                // The key that signed it may be published no more: then nobody vouches for its end.
                if verify_credential(&client.credential, self.keys, claim.not_after).is_ok() {
                    credentials.push((claim.client_key, claim.not_after));
                }
                continue;
            }
            // Its clock and the AS's were ahead when it got this one.
            let is_early = is_of_the_future(claim.not_before, self.now);
            if is_early || is_worthless(&client.credential, self.keys, self.now) {
                continue;
            }
            verify_credential(&client.credential, self.keys, self.now)?;
            credentials.push((claim.client_key, claim.not_after));
            if !leaf.counts(names) {
                continue;
            }
            if let Some(contact) = &client.contact {
                contact.verify(claim.client_key).map_err(|_| IdentityError::Contact)?;
            }
            clients.push(VerifiedClient { client_key: claim.client_key, contact: client.contact.clone() });
        }
        Ok((clients, credentials))
    }
}

/// The beginning of the identity that a record shows.
pub(super) fn founding(record: &UserRecord) -> Founding {
    Founding { founder: record.current.founder, transcript: record.current.founding }
}
