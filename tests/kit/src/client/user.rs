//! Users of the AS: a name and an EID.

use openmls::prelude::{Extensions, Lifetime};
use postern_protocol::{
    GroupInfo, MessageDigest, MlsMessage, Transcript,
    admission::Admission,
    auth::{CommitIdentity, CredentialIssued, RegisterUser, UserRecord},
    eid::{EidState, Founding, SignedState},
    name::{Domain, UserName},
    second_proof::RecoveryKey,
};
use rand::RngCore;

use super::{Call, Commit, Made, Party};
use crate::{World, home};

/// The lifetime of a leaf that an identity takes: readers see it for years.
const LASTING: u64 = 20 * 365 * 24 * 60 * 60;

pub struct User {
    pub name: UserName,
    /// The first client.
    pub device: Party,
    /// Where the identity began.
    pub founding: Founding,
    /// The state that the AS has of it.
    pub eid: EidState,
    /// The secret of the second proof.
    pub recovery_key: RecoveryKey,
}

impl User {
    /// With an EID in epoch 0, not registered.
    pub fn new(local: &str) -> Self {
        Self::at(&home(), local)
    }

    /// The same of another domain.
    pub fn at(domain: &Domain, local: &str) -> Self {
        let name: UserName = format!("{local}@{}", domain.as_str()).parse().expect("it is a name");
        let mut device = device_of(&name);
        device.found(&random_id(), Extensions::empty());
        Self::with(name, device)
    }

    /// With a first client that founded its EID.
    pub fn with(name: UserName, device: Party) -> Self {
        let body = registration_of(&name, &device);
        let founding = Founding { founder: device.public_key(), transcript: body.state.eid.transcript };
        let recovery_key = recovery_key_of(&device);
        Self { name, device, founding, eid: body.state.eid, recovery_key }
    }

    pub fn registration(&self) -> Call {
        registration(&self.name, &self.device)
    }

    /// A further client of the user, in no EID.
    pub fn further_device(&self) -> Party {
        device_of(&self.name)
    }

    /// The signed state after a commit, which this client made.
    pub fn state_after(&self, commit: &MlsMessage, group_info: &GroupInfo, by: &Party) -> SignedState {
        let eid = self.eid.followed_by(commit.as_bytes());
        SignedState::sign(&self.name, &self.founding, eid, group_info, &by.key)
    }

    /// The AS accepted a commit to the EID.
    pub fn moved(&mut self, commit: &MlsMessage) {
        self.eid = self.eid.followed_by(commit.as_bytes());
    }
}

/// A client of this user, in no EID.
pub fn device_of(name: &UserName) -> Party {
    let mut device = Party::new(name.to_string());
    device.lifetime = Lifetime::new(LASTING);
    device
}

pub fn registration(name: &UserName, device: &Party) -> Call {
    registration_with(name, device, Admission::Open)
}

/// A registration that brings an invite or an ID token.
pub fn registration_with(name: &UserName, device: &Party, admission: Admission) -> Call {
    let body = RegisterUser { admission, ..registration_of(name, device) };
    Call::post("/as/users").with(&body).signed_by(&device.key)
}

/// The registration of a user whose EID this client founded.
pub fn registration_of(name: &UserName, device: &Party) -> RegisterUser {
    let (group_info, ratchet_tree) = (device.group_info(), device.ratchet_tree());
    let transcript = Transcript::founded(None, &group_info, &ratchet_tree);
    let founding = Founding { founder: device.public_key(), transcript };
    let eid = EidState::founded(0, transcript);
    let state = SignedState::sign(name, &founding, eid, &group_info, &device.key);
    let recovery_key = recovery_key_of(device).verifier();
    RegisterUser {
        name: name.clone(),
        group_info,
        ratchet_tree,
        admission: Admission::Open,
        state,
        recovery_key,
    }
}

/// The recovery key of a user with this first client.
pub fn recovery_key_of(first: &Party) -> RecoveryKey {
    RecoveryKey::from_bytes(*MessageDigest::of(first.key.seed()).as_bytes())
}

/// A commit to a user's EID by one of its clients.
pub fn identity_commit(user: &User, made: &Made, by: &Party) -> Call {
    let group_info = made.group_info.as_ref().expect("commits come with one");
    Call::post("/as/eid/commits")
        .with(&identity_commit_of(user, &made.commit, group_info, by))
        .signed_by(&by.key)
}

/// Any message in the place of a commit to a user's EID.
pub fn identity_message(user: &User, message: &MlsMessage, by: &Party) -> Call {
    let body = identity_commit_of(user, message, &by.group_info(), by);
    Call::post("/as/eid/commits").with(&body).signed_by(&by.key)
}

pub fn identity_commit_of(
    user: &User,
    commit: &MlsMessage,
    group_info: &GroupInfo,
    by: &Party,
) -> CommitIdentity {
    let state = user.state_after(commit, group_info, by);
    CommitIdentity { commit: commit.clone(), group_info: group_info.clone(), state }
}

pub fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    id
}

/// A lifetime that ended.
pub fn over() -> Lifetime {
    Lifetime::init(1_000_000_000, 1_100_000_000)
}

impl World {
    pub async fn register(&self, user: &User) -> CredentialIssued {
        self.send(&user.registration().at(self.domain()).wire()).await.decode()
    }

    /// A registered user.
    pub async fn user(&self, local: &str) -> User {
        let user = User::at(self.domain(), local);
        self.register(&user).await;
        user
    }

    pub async fn look_up(&self, name: &UserName) -> UserRecord {
        self.pay(&Call::get(format!("/as/users/{}", name.path_segment()))).await.decode()
    }

    /// With the commits since an epoch.
    pub async fn look_up_since(&self, name: &UserName, epoch: u64) -> UserRecord {
        self.pay(&Call::get(format!("/as/users/{}?after={epoch}", name.path_segment()))).await.decode()
    }

    /// A commit to the EID by the user's first client, which is accepted.
    pub async fn commit_identity(&self, user: &mut User, commit: Commit) -> Made {
        let made = user.device.commit(Commit { update: true, ..commit });
        self.pay(&identity_commit(user, &made, &user.device)).await.assert_ok("a commit of the first client");
        user.moved(&made.commit);
        user.device.merge();
        made
    }

    /// The same by another client of the user.
    pub async fn commit_identity_by(&self, user: &mut User, by: &mut Party, commit: Commit) -> Made {
        let made = by.commit(Commit { update: true, ..commit });
        self.pay(&identity_commit(user, &made, by)).await.assert_ok("a commit of another client");
        user.moved(&made.commit);
        by.merge();
        made
    }

    /// Adds a client to a user's EID, by the first one; it is pending (AS-4).
    pub async fn add_pending_device(&self, user: &mut User) -> Party {
        let mut device = user.further_device();
        let made = self
            .commit_identity(user, Commit { add: vec![device.key_package()], ..Default::default() })
            .await;
        device.join(&made.welcome.expect("an added client is welcomed"), &user.device.ratchet_tree());
        device
    }

    /// Adds a client to a user's EID, by the first one, which the new one confirms: two commits.
    pub async fn add_device(&self, user: &mut User) -> Party {
        let mut device = self.add_pending_device(user).await;
        let made =
            self.commit_identity_by(user, &mut device, Commit { update: true, ..Default::default() }).await;
        user.device.receive(&made.commit);
        device
    }
}
