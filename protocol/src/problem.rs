//! Errors as clients see them: problem details (RFC 9457). The `type` is stable and is a
//! path on the server itself (`/problems/token-spent`), which answers with the meaning.

use std::fmt;

use http::{StatusCode, Uri};
use problem_details::ProblemDetails;
use serde::{Deserialize, Serialize};

pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! problems {
    ($($name:ident $slug:literal $status:ident $title:literal $meaning:literal;)*) => {
        /// Every reason for which a request is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemType {
            $(#[doc = $meaning] $name,)*
        }

        impl ProblemType {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The last segment of the type's path.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

problems! {
    TokenRequired "token-required" UNAUTHORIZED
        "A token is required"
        "The request carries no Privacy Pass token for this server, or one that does not verify. WWW-Authenticate tells how to get one (RFC 9577).";
    TokenSpent "token-spent" UNAUTHORIZED
        "The token was spent before"
        "A token pays for one request only. Send the request again with another token.";
    SignatureRequired "signature-required" UNAUTHORIZED
        "The request's signature is missing or wrong"
        "The request has to be signed (RFC 9421) with the key of the client, queue owner or group member it acts for.";
    NotAllowed "not-allowed" FORBIDDEN
        "The signer may not do this"
        "The request is well-formed and signed, but its signer has no right to this operation.";
    NotFound "not-found" NOT_FOUND
        "There is no such thing here"
        "The endpoint, user, queue or group does not exist, or is not the signer's to see.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED
        "The endpoint has no such method"
        "The path exists, the method does not.";
    MalformedBody "malformed-body" BAD_REQUEST
        "The body is malformed"
        "The body is not what its media type and this endpoint ask for, or misses a field.";
    MalformedRequest "malformed-request" BAD_REQUEST
        "The request is malformed"
        "A path segment, query or header is not of the form this endpoint asks for.";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE
        "The media type is not supported"
        "Bodies are application/json or application/cbor unless the endpoint says otherwise.";
    BodyTooLarge "body-too-large" PAYLOAD_TOO_LARGE
        "The body is too large"
        "The body is larger than the server accepts.";
    NameTaken "name-taken" CONFLICT
        "The user name is taken"
        "Another user registered this name.";
    ForeignDomain "foreign-domain" UNPROCESSABLE_ENTITY
        "The domain is not this server's"
        "The name, group or address belongs to another domain.";
    InvalidMls "invalid-mls" UNPROCESSABLE_ENTITY
        "The MLS content is invalid"
        "The message, group info or tree does not pass the validation that every member would do (RFC 9420).";
    PolicyViolation "policy-violation" FORBIDDEN
        "The group's policy forbids this"
        "The message is valid MLS, but its sender's role does not allow what it does (DS-6).";
    WrongEpoch "wrong-epoch" CONFLICT
        "The group is in another epoch"
        "Somebody else's commit was accepted first. `epoch` is the current one: process your queue up to it and try again. An application message may be made in one of the `past_epochs` before it.";
    GroupExists "group-exists" CONFLICT
        "The group id is not free"
        "The group id was not reserved here, or a group was created under it already.";
    TooManyReservations "too-many-reservations" TOO_MANY_REQUESTS
        "Too many group ids are reserved"
        "The server reserves a limited number of group ids at a time, of everyone together. Those that lead to no group are given up within two days: try again later (Retry-After).";
    CiphersuiteForbidden "ciphersuite-forbidden" UNPROCESSABLE_ENTITY
        "The ciphersuite is not allowed"
        "The operator does not allow new groups, members or KeyPackages of this ciphersuite. 0x0001 is always allowed.";
    TooManyMembers "too-many-members" UNPROCESSABLE_ENTITY
        "The group would have too many members"
        "A group may have a limited number of clients in it. Remove some first.";
    MessageTooLarge "message-too-large" PAYLOAD_TOO_LARGE
        "The message is too large"
        "The MLS message, the Welcome with it, or the attributes of a leaf have more bytes than are allowed.";
    QueueExists "queue-exists" CONFLICT
        "The queue exists already"
        "A queue was created under this id already.";
    AddressExists "address-exists" CONFLICT
        "An address exists already"
        "Addresses are 32 fresh random bytes; one of these was registered before.";
    TooManyAddresses "too-many-addresses" UNPROCESSABLE_ENTITY
        "The queue has too many addresses"
        "A queue has a limited number of addresses. Revoke some first.";
    TooManyKeyPackages "too-many-key-packages" UNPROCESSABLE_ENTITY
        "There are too many KeyPackages"
        "A client has a limited number of KeyPackages in stock, and a friendship a limited number of clients.";
    Undeliverable "undeliverable" NOT_FOUND
        "The message cannot be delivered"
        "The address is unknown, revoked, not for this use, or its queue is full.";
    AcknowledgedTooMuch "acknowledged-too-much" UNPROCESSABLE_ENTITY
        "Nothing with that sequence number was delivered"
        "`after` is larger than the last sequence number of the queue.";
    NoPush "no-push" NOT_IMPLEMENTED
        "This server sends no pushes"
        "Its operator has not set it up for Web Push (RFC 8030).";
    AllowanceUsedUp "allowance-used-up" TOO_MANY_REQUESTS
        "The allowance of tokens is used up"
        "Wait for the next time frame, then ask for tokens again (Retry-After).";
    UnknownTokenKey "unknown-token-key" UNPROCESSABLE_ENTITY
        "The token request is for another key or type"
        "Fetch the issuer directory again and use a key it lists (RFC 9578).";
    InvalidTokenRequest "invalid-token-request" UNPROCESSABLE_ENTITY
        "The token request is invalid"
        "The blinded elements do not parse, or the batch has a size the issuer does not offer.";
    NoTokenIssued "no-token-issued" BAD_REQUEST
        "None of the tokens can be issued"
        "Every request in the batch is for a key that is not in use, or has a blinded message that is none.";
    Fault "fault" INTERNAL_SERVER_ERROR
        "The server failed"
        "Our fault. Nothing was changed and the token is unspent: the same request may be sent again.";
    Unavailable "unavailable" SERVICE_UNAVAILABLE
        "The server is not available"
        "The server is starting, stopping or overloaded, or lost its database. Send the same request again, with the same token: token-spent then means that the first one arrived.";
}

impl ProblemType {
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.slug() == slug)
    }

    pub fn path(self) -> String {
        format!("/problems/{}", self.slug())
    }
}

/// A problem as it is sent: the type, a sentence for the developer, and the one fact some
/// types carry. `detail` never holds data of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemType,
    pub detail: Option<String>,
    /// The group's current epoch, with [`ProblemType::WrongEpoch`].
    pub epoch: Option<u64>,
    /// With [`ProblemType::WrongEpoch`], of an application message: for how many epochs after
    /// its own it would have been taken.
    pub past_epochs: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Extensions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    past_epochs: Option<u64>,
}

impl Problem {
    pub fn new(kind: ProblemType) -> Self {
        Self { kind, detail: None, epoch: None, past_epochs: None }
    }

    pub fn with_detail(kind: ProblemType, detail: impl fmt::Display) -> Self {
        Self { detail: Some(detail.to_string()), ..Self::new(kind) }
    }

    pub fn wrong_epoch(current: u64) -> Self {
        Self { epoch: Some(current), ..Self::new(ProblemType::WrongEpoch) }
    }

    /// Of an application message that is too late, or too early.
    pub fn outside_epochs(current: u64, past_epochs: u64) -> Self {
        Self { past_epochs: Some(past_epochs), ..Self::wrong_epoch(current) }
    }

    /// The body, as `application/problem+json`.
    ///
    /// # Panics
    /// Never: slugs are valid paths.
    pub fn to_json(&self) -> Vec<u8> {
        let uri: Uri = self.kind.path().parse().expect("a slug is a valid path");
        let mut details = ProblemDetails::new()
            .with_type(uri)
            .with_status(self.kind.status())
            .with_title(self.kind.title());
        details.detail = self.detail.clone();
        let details =
            details.with_extensions(Extensions { epoch: self.epoch, past_epochs: self.past_epochs });
        serde_json::to_vec(&details).expect("problem details are JSON")
    }

    /// Reads what [`Self::to_json`] wrote; `None` for anything else.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let details: ProblemDetails<Extensions> = serde_json::from_slice(body).ok()?;
        let kind =
            Uri::from(details.r#type?).path().strip_prefix("/problems/").and_then(ProblemType::from_slug)?;
        let Extensions { epoch, past_epochs } = details.extensions;
        Some(Self { kind, detail: details.detail, epoch, past_epochs })
    }
}

impl From<ProblemType> for Problem {
    fn from(kind: ProblemType) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.title())?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_survive_their_json() {
        for kind in ProblemType::ALL {
            let problem = Problem::with_detail(*kind, "because");
            assert_eq!(Problem::from_json(&problem.to_json()), Some(problem));
        }
        for conflict in [Problem::wrong_epoch(7), Problem::outside_epochs(7, 3)] {
            assert_eq!(Problem::from_json(&conflict.to_json()), Some(conflict));
        }
    }
}
