//! Users of the AS: a name and an EID.

use openmls::prelude::{Extensions, Lifetime};
use postern_protocol::{
    MlsMessage,
    admission::Admission,
    auth::{CommitIdentity, CredentialIssued, RegisterUser, UserRecord},
    name::{Domain, UserName},
};
use rand::RngCore;

use super::{Call, Commit, Party};
use crate::{World, home};

pub struct User {
    pub name: UserName,
    /// The first client.
    pub device: Party,
}

impl User {
    /// With an EID in epoch 0, not registered.
    pub fn new(local: &str) -> Self {
        Self::at(&home(), local)
    }

    /// The same of another domain.
    pub fn at(domain: &Domain, local: &str) -> Self {
        let name: UserName = format!("{local}@{}", domain.as_str()).parse().expect("it is a name");
        let mut device = Party::new(name.to_string());
        device.found(&random_id(), Extensions::empty());
        Self { name, device }
    }

    pub fn registration(&self) -> Call {
        registration(&self.name, &self.device)
    }

    /// A further client of the user, in no EID.
    pub fn further_device(&self) -> Party {
        Party::new(self.name.to_string())
    }
}

pub fn registration(name: &UserName, device: &Party) -> Call {
    registration_with(name, device, Admission::Open)
}

/// A registration that brings an invite or an ID token.
pub fn registration_with(name: &UserName, device: &Party, admission: Admission) -> Call {
    let body = RegisterUser {
        name: name.clone(),
        group_info: device.group_info(),
        ratchet_tree: device.ratchet_tree(),
        admission,
    };
    Call::post("/as/users").with(&body).signed_by(&device.key)
}

/// A commit to an EID by one of its clients.
pub fn identity_commit(commit: &MlsMessage, by: &Party) -> Call {
    Call::post("/as/eid/commits").with(&CommitIdentity { commit: commit.clone() }).signed_by(&by.key)
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
        self.send(&user.registration().wire()).await.decode()
    }

    /// A registered user.
    pub async fn user(&self, local: &str) -> User {
        let user = User::new(local);
        self.register(&user).await;
        user
    }

    pub async fn look_up(&self, name: &UserName) -> UserRecord {
        self.pay(&Call::get(format!("/as/users/{}", name.path_segment()))).await.decode()
    }

    /// Adds a client to a user's EID, by the first one.
    pub async fn add_device(&self, user: &mut User) -> Party {
        let mut device = user.further_device();
        let made = user.device.commit(Commit { add: vec![device.key_package()], ..Default::default() });
        self.pay(&identity_commit(&made.commit, &user.device)).await.assert_ok("adding a client");
        user.device.merge();
        device.join(&made.welcome.expect("an added client is welcomed"), &user.device.ratchet_tree());
        device
    }
}
