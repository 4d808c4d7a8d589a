//! Calls to the Queuing Service: queues, their addresses and pushes, and KeyPackages in stock.
//! Requests are signed with a queue's owner key, or with the owner key of a friendship.

use std::time::Duration;

use postern_protocol::{
    Address, FriendshipToken, Payload, QueueId, SealedSubscription,
    key::SigningKey,
    qs::{
        AddAddresses, CountKeyPackages, CreateQueue, DeleteQueue, Deposit, Dequeue, Dequeued,
        FetchKeyPackages, KeyPackageBatch, KeyPackageStock, PublishKeyPackages, PushPolicy, QueueCreated,
        QueuingKeys, RemoveKeyPackages, RevokeAddresses, RotateFriendshipToken, RotateKeys, SetPushPolicy,
        SubscribePush,
    },
};

use crate::{
    error::Result,
    http::Http,
    payment::{Api, Wallet},
    request::Request,
};

/// The most bytes of an answer with queued messages: the server stops at a mebibyte, but one message may
/// be as long as a request's body.
const DEQUEUED_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes of a batch of KeyPackages: of some dozens of devices.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

impl Http {
    /// `GET /qs/keys`: the home domain, the keys that batches of KeyPackages are signed with, and
    /// the key that pushes are signed with (RFC 8292).
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn queuing_keys(&self) -> Result<QueuingKeys> {
        self.send(&Request::get("/qs/keys")).await?.decode()
    }
}

impl<W: Wallet> Api<W> {
    /// `POST /qs/queues`: a new queue, and the id that the server gave it.
    ///
    /// # Errors
    /// As [`Api::paid`].
    pub async fn create_queue(&self, queue: &CreateQueue, owner: &SigningKey) -> Result<QueueId, W::Error> {
        let request = Request::post("/qs/queues").cbor(queue).signed_by(owner, &self.origin);
        Ok(self.paid(request).await?.decode::<QueueCreated>()?.queue_id)
    }

    /// `POST /qs/queues/{queue_id}/dequeue`: acknowledges what was read and takes what comes
    /// after it, waiting for it as long as the request says.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn dequeue(
        &self,
        queue: &QueueId,
        dequeue: &Dequeue,
        owner: &SigningKey,
    ) -> Result<Dequeued, W::Error> {
        let request = Request::post(of_queue(queue, "/dequeue"))
            .cbor(dequeue)
            .signed_by(owner, &self.origin)
            .waiting(Duration::from_secs(dequeue.wait.into()))
            .answered_in(DEQUEUED_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /qs/queues/{queue_id}/addresses`: addresses that lead to a queue.
    ///
    /// # Errors
    /// `address-exists`, which also answers the repeat of a request that was accepted; `not-found`;
    /// and as [`Api::paid`].
    pub async fn add_addresses(
        &self,
        queue: &QueueId,
        addresses: &AddAddresses,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        self.paid(Request::post(of_queue(queue, "/addresses")).cbor(addresses).signed_by(owner, &self.origin))
            .await
            .map(drop)
    }

    /// `POST /qs/queues/{queue_id}/addresses/revoke`: addresses that are to lead nowhere.
    ///
    /// # Errors
    /// `not-found` when one of them does not lead to this queue; then none is revoked. And as
    /// [`Api::paid`].
    pub async fn revoke_addresses(
        &self,
        queue: &QueueId,
        addresses: Vec<Address>,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::post(of_queue(queue, "/addresses/revoke"))
            .cbor(&RevokeAddresses { addresses })
            .signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `POST /qs/queues/{queue_id}/addresses/push`: from which urgency on messages to each address
    /// are pushed.
    ///
    /// # Errors
    /// `not-found` when one of them does not lead to this queue; then none is set. And as
    /// [`Api::paid`].
    pub async fn set_push_policy(
        &self,
        queue: &QueueId,
        addresses: Vec<PushPolicy>,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::post(of_queue(queue, "/addresses/push"))
            .cbor(&SetPushPolicy { addresses })
            .signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `PUT /qs/queues/{queue_id}/push-subscription`: where a queue's pushes go; none: nowhere.
    ///
    /// # Errors
    /// `no-push`, `not-found`; and as [`Api::paid`].
    pub async fn subscribe_push(
        &self,
        queue: &QueueId,
        subscription: Option<SealedSubscription>,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::put(of_queue(queue, "/push-subscription"))
            .cbor(&SubscribePush { subscription })
            .signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `POST /qs/queues/{queue_id}/keys`: other keys for a queue.
    ///
    /// # Errors
    /// `not-found`, which also answers the repeat, under the old owner key, of a request that was
    /// accepted; and as [`Api::paid`].
    pub async fn rotate_keys(
        &self,
        queue: &QueueId,
        rotation: &RotateKeys,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        self.paid(Request::post(of_queue(queue, "/keys")).cbor(rotation).signed_by(owner, &self.origin))
            .await
            .map(drop)
    }

    /// `POST /qs/queues/{queue_id}/delete`: the end of a queue, of all that waits in it, and of the
    /// addresses named.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn delete_queue(
        &self,
        queue: &QueueId,
        addresses: Vec<Address>,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::post(of_queue(queue, "/delete"))
            .cbor(&DeleteQueue { addresses })
            .signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `POST /qs/deposits`: a message to an address, from anyone.
    ///
    /// # Errors
    /// `undeliverable`; and as [`Api::paid`].
    pub async fn deposit(&self, address: Address, payload: Payload) -> Result<(), W::Error> {
        self.paid(Request::post("/qs/deposits").cbor(&Deposit { address, payload })).await.map(drop)
    }

    /// `PUT /qs/key-packages`: a device's KeyPackages under a friendship, in the place of those it
    /// had there.
    ///
    /// # Errors
    /// `not-found` for a friendship that is unknown and not to be created; and as [`Api::paid`].
    pub async fn publish_key_packages(
        &self,
        stock: &PublishKeyPackages,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        self.paid(Request::put("/qs/key-packages").cbor(stock).signed_by(owner, &self.origin)).await.map(drop)
    }

    /// `POST /qs/key-packages/fetch`: one KeyPackage of each device under a friendship.
    ///
    /// # Errors
    /// `not-found` for another token than the friendship has now; and as [`Api::paid`].
    pub async fn fetch_key_packages(
        &self,
        friendship_token: FriendshipToken,
        ciphersuite: u16,
    ) -> Result<KeyPackageBatch, W::Error> {
        let fetch = FetchKeyPackages { friendship_token, ciphersuite };
        let request = Request::post("/qs/key-packages/fetch").cbor(&fetch).answered_in(BATCH_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /qs/key-packages/count`: how many KeyPackages a device has left.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn count_key_packages(
        &self,
        count: &CountKeyPackages,
        owner: &SigningKey,
    ) -> Result<KeyPackageStock, W::Error> {
        let request = Request::post("/qs/key-packages/count").cbor(count).signed_by(owner, &self.origin);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /qs/key-packages/remove`: all KeyPackages of a device.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn remove_key_packages(
        &self,
        stock: &RemoveKeyPackages,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::post("/qs/key-packages/remove").cbor(stock).signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `POST /qs/key-packages/rotate`: another token for a friendship.
    ///
    /// # Errors
    /// `not-found`, which also answers the repeat of a request that was accepted; and as
    /// [`Api::paid`].
    pub async fn rotate_friendship_token(
        &self,
        rotation: &RotateFriendshipToken,
        owner: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::post("/qs/key-packages/rotate").cbor(rotation).signed_by(owner, &self.origin);
        self.paid(request).await.map(drop)
    }
}

fn of_queue(queue: &QueueId, rest: &str) -> String {
    format!("/qs/queues/{}{rest}", queue.to_base64url())
}
