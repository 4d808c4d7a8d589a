//! Calls to the Delivery Service: groups. Requests are signed with the leaf key of a member.

use postern_protocol::{
    ds::{
        CreateGroup, CurrentGroup, DeleteGroup, FetchGroupInfo, FetchWelcomeTree, GroupId, GroupIdReserved,
        MAX_ATTRIBUTES, MessageAccepted, SubmitMessage, WelcomeTree,
    },
    encoding::Encoding,
    key::SigningKey,
};

use crate::{
    error::Result,
    payment::{Api, Wallet},
    request::Request,
};

/// The most bytes of an answer with a whole group: 5,000 leaves, which an operator may allow at most,
/// with a kibibyte of keys, as much for the nodes above them, and [`MAX_ATTRIBUTES`] each; and what waits.
const GROUP_BYTES: usize = 5000 * (2048 + MAX_ATTRIBUTES) + 12 * 1024 * 1024;

impl Request {
    /// The request of [`Api::create_group`] for a serialised [`CreateGroup`] (CBOR): what has to be
    /// sent again byte for byte is kept that way.
    pub fn create_group(group: &GroupId, creation: Vec<u8>, leaf: &SigningKey) -> Self {
        Self::post("/ds/groups").body(Encoding::Cbor.media_type(), creation).signed_by(leaf, group.domain())
    }

    /// The request of [`Api::submit_message`], from a serialised [`SubmitMessage`] (CBOR): what
    /// has to be sent again byte for byte is kept that way.
    pub fn submit_message(group: &GroupId, submission: Vec<u8>, leaf: &SigningKey) -> Self {
        Self::post(of_group(group, "/messages"))
            .body(Encoding::Cbor.media_type(), submission)
            .signed_by(leaf, group.domain())
    }
}

impl<W: Wallet> Api<W> {
    /// `POST /ds/group-ids`: an id for a group to be created, and the server's key in it.
    ///
    /// # Errors
    /// `too-many-reservations`; and as [`Api::paid`].
    pub async fn reserve_group_id(&self) -> Result<GroupIdReserved, W::Error> {
        Ok(self.paid(Request::post("/ds/group-ids")).await?.decode()?)
    }

    /// `POST /ds/groups`: a group under a reserved id.
    ///
    /// # Errors
    /// `group-exists`, `invalid-mls`; and as [`Api::paid`].
    pub async fn create_group(&self, group: &CreateGroup, leaf: &SigningKey) -> Result<(), W::Error> {
        let creation = Encoding::Cbor.encode(group);
        self.paid(Request::create_group(&group.group_id, creation, leaf)).await.map(drop)
    }

    /// `DELETE /ds/groups/{group_id}`: the end of a group, by the last member, an admin.
    ///
    /// # Errors
    /// `policy-violation`, `not-found`; and as [`Api::paid`].
    pub async fn delete_group(
        &self,
        group: &GroupId,
        deletion: &DeleteGroup,
        leaf: &SigningKey,
    ) -> Result<(), W::Error> {
        self.paid(Request::delete(of_group(group, "")).cbor(deletion).signed_by(leaf, &self.origin))
            .await
            .map(drop)
    }

    /// `POST /ds/groups/{group_id}/messages`: a commit, proposal or application message, for all
    /// other members' queues.
    ///
    /// # Errors
    /// `wrong-epoch`, `invalid-mls`, `policy-violation`, `not-allowed`, `not-found`; and as
    /// [`Api::paid`].
    pub async fn submit_message(
        &self,
        group: &GroupId,
        submission: &SubmitMessage,
        leaf: &SigningKey,
    ) -> Result<MessageAccepted, W::Error> {
        let submission = Encoding::Cbor.encode(submission);
        self.submit_request(Request::submit_message(group, submission, leaf)).await
    }

    /// As [`Self::submit_message`], for a request that was made before
    /// ([`Request::submit_message`]).
    ///
    /// # Errors
    /// As [`Self::submit_message`].
    pub async fn submit_request(&self, request: Request) -> Result<MessageAccepted, W::Error> {
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /ds/groups/{group_id}/group-info`: the group as it is now, for a member that comes
    /// back or wants the attributes of leaves.
    ///
    /// # Errors
    /// `not-found`, `not-allowed`; and as [`Api::paid`].
    pub async fn fetch_group_info(
        &self,
        group: &GroupId,
        fetch: &FetchGroupInfo,
        leaf: &SigningKey,
    ) -> Result<CurrentGroup, W::Error> {
        let request = Request::post(of_group(group, "/group-info")).cbor(fetch).signed_by(leaf, &self.origin);
        let request = request.answered_in(GROUP_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /ds/groups/{group_id}/welcome-tree`: the ratchet tree that a Welcome leaves
    /// out, and the attributes of its leaves.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn fetch_welcome_tree(
        &self,
        group: &GroupId,
        fetch: &FetchWelcomeTree,
        leaf: &SigningKey,
    ) -> Result<WelcomeTree, W::Error> {
        let request =
            Request::post(of_group(group, "/welcome-tree")).cbor(fetch).signed_by(leaf, &self.origin);
        let request = request.answered_in(GROUP_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }
}

fn of_group(group: &GroupId, rest: &str) -> String {
    format!("/ds/groups/{}{rest}", group.to_base64url())
}
