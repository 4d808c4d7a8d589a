//! Users as their friends know them: a friendship token, and clients with KeyPackages in stock.

use openmls::prelude::{Ciphersuite, Lifetime};
use openmls_rust_crypto::RustCrypto;
use postern_protocol::{
    FriendshipToken, Payload, StockId,
    key::SigningKey,
    mls::Pseudonym,
    qs::{
        CountKeyPackages, FetchKeyPackages, KeyPackageBatch, KeyPackageStock, PublishKeyPackages,
        QueuingKeys, RemoveKeyPackages, RotateFriendshipToken, StockedKeyPackage,
    },
};

use super::{Call, Party, SUITE, fresh_address, random_id};
use crate::{World, home, now};

pub struct Friendship {
    pub token: FriendshipToken,
    pub key: SigningKey,
}

impl Friendship {
    pub fn new() -> Self {
        Self { token: fresh_token(), key: SigningKey::generate() }
    }

    pub fn publishing(&self, stock_id: StockId, packages: &[StockedKeyPackage]) -> Call {
        self.publish(PublishKeyPackages {
            friendship_token: self.token,
            stock_id,
            key_packages: packages.to_vec(),
            last_resort: None,
            create: true,
        })
    }

    pub fn publish(&self, body: PublishKeyPackages) -> Call {
        Call::put("/qs/key-packages").with(&body).signed_by(&self.key)
    }

    pub fn counting(&self, stock_id: StockId) -> Call {
        let body = CountKeyPackages { friendship_token: self.token, stock_id };
        Call::post("/qs/key-packages/count").with(&body).signed_by(&self.key)
    }

    /// Removes a client's stock, or those of all clients.
    pub fn removing(&self, stock_id: Option<StockId>) -> Call {
        let body = RemoveKeyPackages { friendship_token: self.token, stock_id };
        Call::post("/qs/key-packages/remove").with(&body).signed_by(&self.key)
    }

    pub fn rotating(&self, new: FriendshipToken) -> Call {
        let body = RotateFriendshipToken { friendship_token: self.token, new_friendship_token: new };
        Call::post("/qs/key-packages/rotate").with(&body).signed_by(&self.key)
    }
}

impl Default for Friendship {
    fn default() -> Self {
        Self::new()
    }
}

pub fn fetching(friendship_token: FriendshipToken) -> Call {
    fetching_of(SUITE, friendship_token)
}

pub fn fetching_of(suite: Ciphersuite, friendship_token: FriendshipToken) -> Call {
    let body = FetchKeyPackages { friendship_token, ciphersuite: suite.into() };
    Call::post("/qs/key-packages/fetch").with(&body)
}

pub fn fresh_token() -> FriendshipToken {
    FriendshipToken::generate().expect("there is randomness")
}

pub fn fresh_stock() -> StockId {
    StockId::new(random_id())
}

/// A party whose leaf receives here.
pub fn receiver() -> Party {
    let mut party = Party::new(Pseudonym::random().0);
    party.leaf = party.leaf_at(&home(), fresh_address());
    party
}

pub fn stocked(party: &Party) -> StockedKeyPackage {
    StockedKeyPackage {
        key_package: party.key_package_message(),
        attachment: Payload::new(b"who I am".to_vec()),
    }
}

/// A fresh KeyPackage, of somebody new.
pub fn package() -> StockedKeyPackage {
    stocked(&receiver())
}

/// The same of a ciphersuite that RustCrypto has.
pub fn package_of(suite: Ciphersuite) -> StockedKeyPackage {
    let mut party = receiver();
    party.set_suite(suite, Box::new(RustCrypto::default()));
    stocked(&party)
}

pub fn packages(number: usize) -> Vec<StockedKeyPackage> {
    (0..number).map(|_| package()).collect()
}

pub fn package_for(lifetime: Lifetime) -> StockedKeyPackage {
    let mut party = receiver();
    party.lifetime = lifetime;
    stocked(&party)
}

pub fn last_resort() -> StockedKeyPackage {
    last_resort_of(SUITE)
}

pub fn last_resort_of(suite: Ciphersuite) -> StockedKeyPackage {
    let mut party = receiver();
    party.set_suite(suite, Box::new(RustCrypto::default()));
    StockedKeyPackage { key_package: party.last_resort_message(), attachment: Payload::default() }
}

impl World {
    /// The KeyPackages that a friend gets, with the QS's signature.
    pub async fn fetch(&self, token: FriendshipToken) -> Vec<StockedKeyPackage> {
        self.fetch_of(SUITE, token).await
    }

    /// The same for a group of another ciphersuite.
    pub async fn fetch_of(&self, suite: Ciphersuite, token: FriendshipToken) -> Vec<StockedKeyPackage> {
        let batch: KeyPackageBatch = self.pay(&fetching_of(suite, token)).await.decode();
        let keys: QueuingKeys = self.send(&Call::get("/qs/keys").wire()).await.decode();
        assert_eq!(keys.domain, *self.domain());
        batch.verify(&keys, now(), 60).expect("a published key signed it, now");
        batch.key_packages
    }

    pub async fn remaining(&self, friendship: &Friendship, stock_id: StockId) -> u32 {
        self.pay(&friendship.counting(stock_id)).await.decode::<KeyPackageStock>().remaining
    }
}
