//! The server's endpoints, one method each: which key signs, whether a token pays, what
//! comes back. Every one of them may be sent again with another token: the server or the
//! receiving client recognises a repeat, or a repeat does no harm.

use std::time::Duration;

use postern_protocol::{
    Address, FriendshipToken, IssuedCredential, Payload, QueueId, RatchetTree, SealedSubscription,
    auth::{
        AuthenticationKeys, CommitIdentity, CredentialIssued, IdentityCommitted, PublishContact,
        RegisterUser, SignCredential, SignedContact, UserRecord,
    },
    ds::{
        CreateGroup, CurrentGroup, FetchGroupInfo, FetchWelcomeTree, GroupId, GroupIdReserved,
        MessageAccepted, WelcomeTree,
    },
    key::SigningKey,
    mls::CIPHERSUITE,
    name::UserName,
    problem::ProblemType,
    qs::{
        AddAddresses, CountKeyPackages, CreateQueue, DeleteQueue, Deposit, Dequeue, Dequeued,
        FetchKeyPackages, KeyPackageBatch, KeyPackageStock, PublishKeyPackages, PushPolicy, QueueCreated,
        QueuingKeys, RemoveKeyPackages, RevokeAddresses, RotateFriendshipToken, RotateKeys, SetPushPolicy,
        SubscribePush,
    },
};

use crate::{
    error::{Error, Result},
    http::{Http, Request, Response},
    wallet::Wallet,
};

/// How many tokens one request may cost when they turn out to be worth nothing.
const TOKENS_PER_REQUEST: usize = 3;

pub(crate) struct Api {
    pub http: Http,
    pub wallet: Wallet,
}

/// `GET /as/keys`, before there is an account.
pub(crate) async fn authentication_keys(http: &Http) -> Result<AuthenticationKeys> {
    http.send(&Request::get("/as/keys")).await?.decode()
}

/// `POST /as/users`: the one request that nothing pays for.
pub(crate) async fn register_user(
    http: &Http,
    user: &RegisterUser,
    client: &SigningKey,
) -> Result<IssuedCredential> {
    let answer = http.send(&Request::post("/as/users").cbor(user).signed_by(client)).await?;
    Ok(answer.decode::<CredentialIssued>()?.credential)
}

impl Api {
    pub(crate) async fn sign_credential(&self, client: &SigningKey) -> Result<IssuedCredential> {
        let request = Request::post("/as/credentials").cbor(&SignCredential {}).signed_by(client);
        Ok(self.paid(request).await?.decode::<CredentialIssued>()?.credential)
    }

    pub(crate) async fn commit_identity(
        &self,
        commit: CommitIdentity,
        client: &SigningKey,
    ) -> Result<IdentityCommitted> {
        let request = Request::post("/as/eid/commits").cbor(&commit).signed_by(client);
        self.paid(request).await?.decode()
    }

    pub(crate) async fn publish_contact(&self, contact: SignedContact, client: &SigningKey) -> Result<()> {
        let request = Request::put("/as/contact").cbor(&PublishContact { contact }).signed_by(client);
        self.paid(request).await.map(drop)
    }

    pub(crate) async fn user(&self, name: &UserName) -> Result<UserRecord> {
        self.paid(Request::get(format!("/as/users/{name}"))).await?.decode()
    }

    pub(crate) async fn create_queue(&self, queue: &CreateQueue, owner: &SigningKey) -> Result<QueueId> {
        let request = Request::post("/qs/queues").cbor(queue).signed_by(owner);
        Ok(self.paid(request).await?.decode::<QueueCreated>()?.queue_id)
    }

    pub(crate) async fn add_addresses(
        &self,
        queue: &QueueId,
        addresses: Vec<Address>,
        last_resort: Vec<Address>,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::post(format!("/qs/queues/{}/addresses", queue.to_base64url()))
            .cbor(&AddAddresses { addresses, last_resort })
            .signed_by(owner);
        match self.paid(request).await {
            // Fresh random bytes: if they exist, an attempt of ours whose answer was lost
            // made them.
            Err(error) if error.problem() == Some(ProblemType::AddressExists) => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) async fn revoke_addresses(
        &self,
        queue: &QueueId,
        addresses: Vec<Address>,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::post(format!("/qs/queues/{}/addresses/revoke", queue.to_base64url()))
            .cbor(&RevokeAddresses { addresses })
            .signed_by(owner);
        self.paid(request).await.map(drop)
    }

    pub(crate) async fn subscribe_push(
        &self,
        queue: &QueueId,
        subscription: Option<SealedSubscription>,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::put(format!("/qs/queues/{}/push-subscription", queue.to_base64url()))
            .cbor(&SubscribePush { subscription })
            .signed_by(owner);
        self.paid(request).await.map(drop)
    }

    pub(crate) async fn set_push_policy(
        &self,
        queue: &QueueId,
        addresses: Vec<PushPolicy>,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::post(format!("/qs/queues/{}/addresses/push", queue.to_base64url()))
            .cbor(&SetPushPolicy { addresses })
            .signed_by(owner);
        self.paid(request).await.map(drop)
    }

    pub(crate) async fn rotate_keys(
        &self,
        queue: &QueueId,
        rotation: &RotateKeys,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::post(format!("/qs/queues/{}/keys", queue.to_base64url()))
            .cbor(rotation)
            .signed_by(owner);
        // Not found: our key is the old one, by an attempt of ours whose answer was lost.
        self.gone(request).await
    }

    pub(crate) async fn delete_queue(
        &self,
        queue: &QueueId,
        addresses: Vec<Address>,
        owner: &SigningKey,
    ) -> Result<()> {
        let request = Request::post(format!("/qs/queues/{}/delete", queue.to_base64url()))
            .cbor(&DeleteQueue { addresses })
            .signed_by(owner);
        self.gone(request).await
    }

    pub(crate) async fn publish_key_packages(
        &self,
        stock: PublishKeyPackages,
        owner: &SigningKey,
    ) -> Result<()> {
        self.paid(Request::put("/qs/key-packages").cbor(&stock).signed_by(owner)).await.map(drop)
    }

    pub(crate) async fn count_key_packages(
        &self,
        count: &CountKeyPackages,
        owner: &SigningKey,
    ) -> Result<KeyPackageStock> {
        self.paid(Request::post("/qs/key-packages/count").cbor(count).signed_by(owner)).await?.decode()
    }

    pub(crate) async fn remove_key_packages(
        &self,
        stock: &RemoveKeyPackages,
        owner: &SigningKey,
    ) -> Result<()> {
        self.gone(Request::post("/qs/key-packages/remove").cbor(stock).signed_by(owner)).await
    }

    pub(crate) async fn rotate_friendship_token(
        &self,
        rotation: &RotateFriendshipToken,
        owner: &SigningKey,
    ) -> Result<()> {
        // Not found: rotated by an attempt of ours whose answer was lost, or not there at all.
        self.gone(Request::post("/qs/key-packages/rotate").cbor(rotation).signed_by(owner)).await
    }

    pub(crate) async fn fetch_key_packages(
        &self,
        friendship_token: FriendshipToken,
    ) -> Result<KeyPackageBatch> {
        let fetch = FetchKeyPackages { friendship_token, ciphersuite: CIPHERSUITE };
        let request = Request::post("/qs/key-packages/fetch").cbor(&fetch);
        self.paid(request).await?.decode()
    }

    /// The keys that batches of KeyPackages are signed with.
    pub(crate) async fn queuing_keys(&self) -> Result<QueuingKeys> {
        self.http.send(&Request::get("/qs/keys")).await?.decode()
    }

    /// Sends what makes something disappear: what is not there is gone.
    async fn gone(&self, request: Request) -> Result<()> {
        match self.paid(request).await {
            Err(error) if error.problem() == Some(ProblemType::NotFound) => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) async fn deposit(&self, address: Address, payload: Payload) -> Result<()> {
        self.paid(Request::post("/qs/deposits").cbor(&Deposit { address, payload })).await.map(drop)
    }

    pub(crate) async fn dequeue(
        &self,
        queue: &QueueId,
        dequeue: &Dequeue,
        owner: &SigningKey,
    ) -> Result<Dequeued> {
        let request = Request::post(format!("/qs/queues/{}/dequeue", queue.to_base64url()))
            .cbor(dequeue)
            .signed_by(owner)
            .waiting(Duration::from_secs(dequeue.wait.into()));
        self.paid(request).await?.decode()
    }

    pub(crate) async fn reserve_group_id(&self) -> Result<GroupIdReserved> {
        self.paid(Request::post("/ds/group-ids")).await?.decode()
    }

    pub(crate) async fn create_group(&self, group: &CreateGroup, leaf: &SigningKey) -> Result<()> {
        self.paid(Request::post("/ds/groups").cbor(group).signed_by(leaf)).await.map(drop)
    }

    pub(crate) async fn submit(&self, submission: Request) -> Result<MessageAccepted> {
        self.paid(submission).await?.decode()
    }

    pub(crate) async fn group_info(
        &self,
        group: &GroupId,
        fetch: &FetchGroupInfo,
        leaf: &SigningKey,
    ) -> Result<CurrentGroup> {
        let request = Request::post(format!("/ds/groups/{}/group-info", group.to_base64url()))
            .cbor(fetch)
            .signed_by(leaf);
        self.paid(request).await?.decode()
    }

    pub(crate) async fn welcome_tree(
        &self,
        group: &GroupId,
        fetch: &FetchWelcomeTree,
        leaf: &SigningKey,
    ) -> Result<RatchetTree> {
        let request = Request::post(format!("/ds/groups/{}/welcome-tree", group.to_base64url()))
            .cbor(fetch)
            .signed_by(leaf);
        Ok(self.paid(request).await?.decode::<WelcomeTree>()?.ratchet_tree)
    }

    /// Sends with a token, and with another when that one turns out to be worth nothing.
    pub(crate) async fn paid(&self, request: Request) -> Result<Response> {
        let mut refusal = None;
        for _ in 0..TOKENS_PER_REQUEST {
            let token = self.wallet.take().await?;
            match self.http.send(&request.clone().paid_with(token)).await {
                Err(Error::Refused(problem)) if problem.kind == ProblemType::TokenSpent => {
                    refusal = Some(problem);
                }
                Err(Error::Refused(problem)) if problem.kind == ProblemType::TokenRequired => {
                    self.wallet.drop_stale().await?;
                    refusal = Some(problem);
                }
                answer => return answer,
            }
        }
        Err(refusal.map_or(Error::NotReady, Error::Refused))
    }
}

/// The request that hands a message to the DS. `body` is a serialised `SubmitMessage`.
pub(crate) fn submission(group: &GroupId, body: Vec<u8>, leaf: &SigningKey) -> Request {
    Request::post(format!("/ds/groups/{}/messages", group.to_base64url()))
        .body(postern_protocol::encoding::Encoding::Cbor.media_type(), body)
        .signed_by(leaf)
}
