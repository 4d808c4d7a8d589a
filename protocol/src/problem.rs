//! Errors as clients see them: problem details (RFC 9457). The `type` is stable and is a
//! path on the server itself (`/problems/token-spent`), which answers with the meaning.

use std::fmt;

use http::{StatusCode, Uri};
use problem_details::ProblemDetails;
use serde::{Deserialize, Serialize};

use crate::DeliveryId;

pub const MEDIA_TYPE: &str = "application/problem+json";

/// The type of [`ProblemType::GatewayKeyUnknown`], which is not one of ours (RFC 9458 §5.3).
const GATEWAY_KEY_UNKNOWN: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";

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
        "The request carries no Privacy Pass token of this server, or one that does not verify. WWW-Authenticate says how to get one (RFC 9577).";
    TokenSpent "token-spent" UNAUTHORIZED
        "The token is spent already"
        "A token pays for one request only. Send the request again with another token.";
    SignatureRequired "signature-required" UNAUTHORIZED
        "The request's signature is missing or wrong"
        "Sign the request (RFC 9421) with the key of the client, queue owner or group member that it acts for. `detail` says what is wrong with the signature.";
    SignatureUsed "signature-used" UNAUTHORIZED
        "The request's signature is used already"
        "A signature is good for one request, and this one came before. Sign the request anew: with the time, and a `nonce` of its own. Its token, if it has one, is unspent.";
    NotAllowed "not-allowed" FORBIDDEN
        "The signer may not do this"
        "The request is well-formed and its signature verifies, but the key that signed it has no right to this operation.";
    NotFound "not-found" NOT_FOUND
        "The resource does not exist"
        "The endpoint, user, queue, address, friendship or group does not exist, or the signer is not allowed to know of it.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED
        "The endpoint does not have this method"
        "The path exists, the method does not. `Allow` lists the methods of the path.";
    MalformedBody "malformed-body" BAD_REQUEST
        "The body is malformed"
        "The body does not have the form that its media type and the endpoint ask for, or a field is missing or not usable. `detail` says where.";
    MalformedRequest "malformed-request" BAD_REQUEST
        "The request is malformed"
        "A path segment, the query or a header does not have the form that the endpoint asks for.";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE
        "The media type is not supported"
        "Send the body as application/json or application/cbor. Token requests have media types of their own.";
    BodyTooLarge "body-too-large" PAYLOAD_TOO_LARGE
        "The body is too large"
        "The body, or a part of it, has more bytes than the server accepts. `detail` has the limit.";
    BodyTooSlow "body-too-slow" REQUEST_TIMEOUT
        "The body came too slowly"
        "A body has a bounded time in all, and must not stop coming. Send the request again over a better connection.";
    NameTaken "name-taken" CONFLICT
        "The user name is taken"
        "Another user has this name or one that looks like it, or the operator keeps it. Choose another one.";
    NotAdmitted "not-admitted" FORBIDDEN
        "The registration is not admitted"
        "The operator lets only those register who bring an invite, or an ID token of the server's identity provider (OpenID Connect): this request brings none, or one that is unknown, used up, expired, or for another client. `detail` says what is asked for.";
    AccountExists "account-exists" CONFLICT
        "The login has an account"
        "The login of the ID token has an account already, under whatever name: there is one for each. Add a client to that account instead.";
    AccountSuspended "account-suspended" FORBIDDEN
        "The account is suspended"
        "The operator has suspended the user: its clients get no tokens, no credentials and no invites. Ask the operator.";
    TooManyInvites "too-many-invites" FORBIDDEN
        "No more invites can be made"
        "A user can make a limited number of invites in the time for which one is good, or none. Used ones count. Try again when an earlier one has expired.";
    TooManyRegistrations "too-many-registrations" TOO_MANY_REQUESTS
        "There are too many registrations"
        "The server takes a limited number of attempts to register in an hour, from one network address and in all. The same request is as good in the next hour (Retry-After).";
    WrongProof "wrong-proof" FORBIDDEN
        "The second proof is wrong"
        "What cannot be undone asks for the account's recovery key besides a client, or for a recent login where the operator lets people in by one. The proof is not by that key, not by that login, or for another request, or its ID token was used before: `detail` says what is wrong with an ID token. A reset hears the same for a name that nobody has.";
    InvalidProfile "invalid-profile" UNPROCESSABLE_ENTITY
        "The profile is invalid"
        "The profile is signed for another identity or by another client, its text has control characters, or its picture is no PNG, JPEG or WebP of the size that it says. `detail` says which.";
    ProfileOutdated "profile-outdated" CONFLICT
        "The profile was changed meanwhile"
        "The server has a profile of the same or a later version, made by another client of the user. Look it up, and make the change anew.";
    TooManyChanges "too-many-changes" TOO_MANY_REQUESTS
        "The account was changed too often"
        "An account can be reset, and change its name, a limited number of times in a month (Retry-After); attempts to reset accounts with wrong proofs are limited by the hour.";
    ForeignDomain "foreign-domain" UNPROCESSABLE_ENTITY
        "The domain is not this server's"
        "The name, group or address belongs to another domain. Send the request to that domain's server.";
    InvalidMls "invalid-mls" UNPROCESSABLE_ENTITY
        "The MLS content is invalid"
        "The message, GroupInfo, ratchet tree or KeyPackage does not pass the validation that every member does (RFC 9420), or lacks what groups here need. `detail` names the rule.";
    PolicyViolation "policy-violation" FORBIDDEN
        "The group's policy forbids this"
        "The message is valid MLS, but its sender may not do what it does in this group (DS-6). `detail` names the rule.";
    WrongEpoch "wrong-epoch" CONFLICT
        "The group is in another epoch"
        "Another commit was accepted first. `epoch` is the current epoch: process your queue up to it, then try again. An application message may be made in one of the `past_epochs` epochs before it.";
    GroupExists "group-exists" CONFLICT
        "The group id is not free"
        "The group id is not reserved, or a group has it already. Reserve another id.";
    TooManyReservations "too-many-reservations" TOO_MANY_REQUESTS
        "Too many group ids are reserved"
        "The server reserves a limited number of group ids at a time, for everyone together. An id without a group is given up after two days. Try again later (Retry-After).";
    CiphersuiteForbidden "ciphersuite-forbidden" UNPROCESSABLE_ENTITY
        "The ciphersuite is not allowed"
        "The operator does not allow this ciphersuite for new groups, added members and KeyPackages. 0x0001 is always allowed.";
    TooManyMembers "too-many-members" UNPROCESSABLE_ENTITY
        "The group would have too many members"
        "A group has a limited number of members. `detail` has the limit. Remove some members first.";
    TooManyClients "too-many-clients" UNPROCESSABLE_ENTITY
        "The user would have too many clients in the group"
        "A user has a limited number of clients (leaves) in a group. `detail` has the limit. Remove some of them first.";
    TooManyDomains "too-many-domains" UNPROCESSABLE_ENTITY
        "The group would have members of too many domains"
        "A group has members of a limited number of other domains. `detail` has the limit. Remove the members of one of them first.";
    DeliveryTooLarge "delivery-too-large" PAYLOAD_TOO_LARGE
        "The message is too large for so many members"
        "What one request puts into all members' queues together has a limit in bytes, and so has what goes to the members at one other homeserver (2 MiB, and 20,000 addresses). `detail` has the numbers. Send less, or add and remove fewer members at once.";
    MessageTooLarge "message-too-large" PAYLOAD_TOO_LARGE
        "The message is too large"
        "The MLS message, its authenticated data, its Welcome, a leaf or its attributes have more bytes than are allowed. `detail` has the limit.";
    QueueExists "queue-exists" CONFLICT
        "The queue exists already"
        "The id that the server made belongs to another queue. Send the request again with another token.";
    AddressExists "address-exists" CONFLICT
        "An address exists already"
        "One of the addresses was added before, and none is added now. Make each address of 32 fresh random bytes.";
    TooManyAddresses "too-many-addresses" UNPROCESSABLE_ENTITY
        "There are too many addresses"
        "A queue, and a request, has a limited number of addresses. Revoke some first, or send fewer in one request.";
    TooManyKeyPackages "too-many-key-packages" UNPROCESSABLE_ENTITY
        "There are too many KeyPackages"
        "A stock has a limited number of KeyPackages, and a friendship a limited number of stocks.";
    Undeliverable "undeliverable" NOT_FOUND
        "The message cannot be delivered"
        "The address is unknown, revoked or not for deposits, or its queue is full or has been given enough for today.";
    AcknowledgedTooMuch "acknowledged-too-much" UNPROCESSABLE_ENTITY
        "No message has that sequence number yet"
        "`after` is larger than the sequence number of the queue's last message. Nothing was deleted.";
    NoPush "no-push" NOT_IMPLEMENTED
        "The server sends no pushes"
        "The operator has not set up Web Push (RFC 8030) on this server.";
    AllowanceUsedUp "allowance-used-up" TOO_MANY_REQUESTS
        "The allowance of tokens is used up"
        "There are no more tokens for this user or domain today. Ask again on the next day (Retry-After).";
    UnknownTokenKey "unknown-token-key" UNPROCESSABLE_ENTITY
        "The token request names an unknown key"
        "The token type or key is not one of those that issue. Fetch the issuer directory again and use a key that it lists (RFC 9578).";
    InvalidTokenRequest "invalid-token-request" UNPROCESSABLE_ENTITY
        "The token request is invalid"
        "A blinded message cannot be read, or the batch does not have 1, 10 or 100 tokens. Nothing was taken from the allowance.";
    NoTokenIssued "no-token-issued" BAD_REQUEST
        "No token of the batch can be issued"
        "Every request of the batch names a key that does not issue, or has a blinded message that cannot be read. Nothing was taken from the allowance.";
    TooManyRendezvous "too-many-rendezvous" TOO_MANY_REQUESTS
        "There are too many rendezvous"
        "The server keeps a limited number of rendezvous at a time, for everyone together. Each is over within minutes: try again later (Retry-After).";
    TooManyAttempts "too-many-attempts" TOO_MANY_REQUESTS
        "There are too many attempts"
        "The server takes a limited number of attempts to join a rendezvous, and of introductions of homeservers that it does not know, in an hour, from one network address and in all. The same request is as good in the next hour (Retry-After).";
    RendezvousClosed "rendezvous-closed" CONFLICT
        "The rendezvous takes no more"
        "Another key has joined the rendezvous, the place of the payload is not the next one, or the number of payloads or requests of a rendezvous is used up. Begin another rendezvous.";
    HomeserverBlocked "homeserver-blocked" FORBIDDEN
        "The homeserver is blocked"
        "The operator of this server does not let it deal with the homeserver of that domain (FED-2). Ask the operator.";
    HomeserverUnknown "homeserver-unknown" BAD_GATEWAY
        "The homeserver is not known"
        "The homeserver of that domain cannot be found, or does not prove that it is the one: it cannot be reached over TLS, speaks another version, or its description is not signed by a key that is known. `detail` says which.";
    DeliveryGap "delivery-gap" CONFLICT
        "These are not the deliveries that come next"
        "A number of the lane was left out, or given twice, or its numbering is not known here: one of the two homeservers was restored. `last` and `last_id` are of the delivery that was taken last; 0, without an id, stands for none of this numbering. Nothing was delivered.";
    HomeserverUnreachable "homeserver-unreachable" GATEWAY_TIMEOUT
        "The homeserver does not answer"
        "The homeserver of that domain is known, and did not answer in time, or not over TLS. It may have acted on the request or not.";
    HomeserverRefused "homeserver-refused" BAD_GATEWAY
        "The homeserver refused what this one sent"
        "The homeserver of that domain answered this one with an error, or with something else than the protocol says: it did not get as far as the request that was sealed for it. `detail` has the type of the problem, or the status.";
    GatewayKeyUnknown "gateway-key-unknown" BAD_REQUEST
        "The request is not sealed for a key of the gateway"
        "The gateway does not have the key that the request was sealed for, or cannot open it (RFC 9458 §5.3): keys rotate. Fetch the homeserver's description anew, and seal the request for the first key in it. On the wire the type is the one that RFC 9458 §5.3 gives it.";
    Fault "fault" INTERNAL_SERVER_ERROR
        "The server failed"
        "The fault is the server's. Nothing was changed and the token is unspent: send the request again with the same token, signed anew.";
    Unavailable "unavailable" SERVICE_UNAVAILABLE
        "The server is not available"
        "The server is starting, stopping or overloaded, or has lost its database. Send the request again with the same token, signed anew: token-spent then means that the first one arrived.";
}

impl ProblemType {
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.slug() == slug)
    }

    pub fn path(self) -> String {
        format!("/problems/{}", self.slug())
    }

    /// The type on the wire: the path, or the URI of a standard.
    pub fn uri(self) -> String {
        match self {
            Self::GatewayKeyUnknown => GATEWAY_KEY_UNKNOWN.to_owned(),
            _ => self.path(),
        }
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
    /// With [`ProblemType::NotFound`], of a user: the identity ended, and its owner has not begun the next one.
    pub identity_ended: bool,
    /// With [`ProblemType::DeliveryGap`]: the delivery that was taken last.
    pub last_delivery: Option<LastDelivery>,
}

/// The delivery of a lane that a homeserver took last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastDelivery {
    /// Its number; 0: none.
    pub number: u64,
    /// Its id, if there is one.
    pub id: Option<DeliveryId>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Extensions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    past_epochs: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    identity_ended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_id: Option<DeliveryId>,
}

impl Problem {
    pub fn new(kind: ProblemType) -> Self {
        Self {
            kind,
            detail: None,
            epoch: None,
            past_epochs: None,
            identity_ended: false,
            last_delivery: None,
        }
    }

    pub fn with_detail(kind: ProblemType, detail: impl fmt::Display) -> Self {
        Self { detail: Some(detail.to_string()), ..Self::new(kind) }
    }

    pub fn wrong_epoch(current: u64) -> Self {
        Self { epoch: Some(current), ..Self::new(ProblemType::WrongEpoch) }
    }

    /// The problem of an application message that is too late or too early.
    pub fn outside_epochs(current: u64, past_epochs: u64) -> Self {
        Self { past_epochs: Some(past_epochs), ..Self::wrong_epoch(current) }
    }

    /// The problem of a lookup between the end of a user's identity and the beginning of the next one (AS-8).
    pub fn identity_ended() -> Self {
        Self { identity_ended: true, ..Self::new(ProblemType::NotFound) }
    }

    /// The problem of deliveries that are not the next ones of their lane (FED-4).
    pub fn delivery_gap(last: LastDelivery) -> Self {
        Self { last_delivery: Some(last), ..Self::new(ProblemType::DeliveryGap) }
    }

    /// The body, as `application/problem+json`.
    ///
    /// # Panics
    /// Never.
    pub fn to_json(&self) -> Vec<u8> {
        let mut details = ProblemDetails::new().with_status(self.kind.status()).with_title(self.kind.title());
        details.detail.clone_from(&self.detail);
        let details = details.with_extensions(Extensions {
            epoch: self.epoch,
            past_epochs: self.past_epochs,
            identity_ended: self.identity_ended,
            last: self.last_delivery.map(|last| last.number),
            last_id: self.last_delivery.and_then(|last| last.id),
        });
        let mut json = serde_json::to_value(&details).expect("problem details are JSON");
        // The library's URIs have no fragment.
        json["type"] = self.kind.uri().into();
        serde_json::to_vec(&json).expect("JSON can be written")
    }

    /// Reads what [`Self::to_json`] wrote; `None` for anything else.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(body).ok()?;
        let is_standard = json["type"] == GATEWAY_KEY_UNKNOWN;
        let details: ProblemDetails<Extensions> = serde_json::from_value(json).ok()?;
        let of_path = |uri: Uri| uri.path().strip_prefix("/problems/").and_then(ProblemType::from_slug);
        let kind = match is_standard {
            true => ProblemType::GatewayKeyUnknown,
            false => of_path(details.r#type?.into())?,
        };
        let Extensions { epoch, past_epochs, identity_ended, last, last_id } = details.extensions;
        let last_delivery = last.map(|number| LastDelivery { number, id: last_id });
        Some(Self { kind, detail: details.detail, epoch, past_epochs, identity_ended, last_delivery })
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
        let of_standard = Problem::new(ProblemType::GatewayKeyUnknown).to_json();
        assert!(String::from_utf8(of_standard).unwrap().contains(GATEWAY_KEY_UNKNOWN), "RFC 9458 §5.3");
        let last = LastDelivery { number: 7, id: Some(DeliveryId::new([1; 16])) };
        let conflicts = [
            Problem::wrong_epoch(7),
            Problem::outside_epochs(7, 3),
            Problem::identity_ended(),
            Problem::delivery_gap(last),
            Problem::delivery_gap(LastDelivery { number: 0, id: None }),
        ];
        for conflict in conflicts {
            assert_eq!(Problem::from_json(&conflict.to_json()), Some(conflict));
        }
    }
}
