//! Errors of a client, told so that a person knows what to do next. A refusal of the
//! server stays a [`Problem`](postern_protocol::problem::Problem): callers match on its kind.

use std::path::PathBuf;

use postern_protocol::{
    chain::ChainError,
    ds::GroupId,
    federation::DescriptionError,
    name::{Domain, NameError, UserName},
    problem::{Problem, ProblemType},
    push::PushError,
};

use crate::group::Differences;

/// Seconds before that is tried again for which there was no token, or which the relay did not hand on.
pub(crate) const UNPAID_RETRY: u64 = 5 * 60;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused a request, cannot be reached, or answered what it should not.
    #[error(transparent)]
    Server(postern_api::Error),
    /// The issuer of tokens, or whoever asks it for this client, refuses them. What was to be paid with them was not sent:
    /// nobody refused that.
    #[error("there is no token to pay with: {0}")]
    NoToken(Problem),
    #[error("{0}")]
    BadName(NameError),
    #[error("no server is named: give its address, such as https://chat.example.org")]
    NoServer,
    #[error("there is no client in {}: register one there, or choose another directory", .0.display())]
    NoClient(PathBuf),
    #[error("{} holds a client already: choose another directory", .0.display())]
    ClientExists(PathBuf),
    #[error("this client is not set up completely: finish registering it, or linking it to its user")]
    NotReady,
    #[error(
        "another process has been using {} for {seconds} s: wait for it, end it, or choose another directory",
        .directory.display()
    )]
    Busy { directory: PathBuf, seconds: u64 },
    #[error("{} is in use: end the other processes that have it open", .0.display())]
    InUse(PathBuf),
    #[error("the state is encrypted: its passphrase is needed")]
    PassphraseNeeded,
    #[error("this is not the passphrase of the state, or its database is damaged")]
    WrongPassphrase,
    #[error("the state is not encrypted: open it without a passphrase, or set one first")]
    NotEncrypted,
    #[error("the state directory cannot be used: {0}")]
    Directory(#[from] std::io::Error),
    #[error("the state database failed: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the state database is damaged: {0} cannot be read")]
    Damaged(&'static str),
    #[error(
        "the state directory belongs to a newer version of this program: use that version, or another directory"
    )]
    NewerState,
    #[error("{what}: {reason}")]
    Mls { what: &'static str, reason: String },
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no group is called {0:?}")]
    UnknownGroup(String),
    #[error("several groups match {0:?}: name one by its id")]
    AmbiguousGroup(String),
    #[error("this device is not a member of the group any more")]
    NotMember,
    #[error("this device is leaving the group: nothing more is said there")]
    Leaving,
    #[error("this device cannot follow the group any more, and tries to come back by itself later")]
    CannotFollow,
    /// The group is at another homeserver, whose changes are on their way here.
    #[error(
        "others changed the group, and their changes are on the way here from another homeserver: what was said is kept \
         and sent after them"
    )]
    Behind,
    /// No key issues tokens at the time of this machine: its clock is wrong, or the homeserver's, or the keys are about to be
    /// made. It passes by itself once that is mended.
    #[error("no key of the homeserver issues tokens now: its clock may be wrong, or this machine's")]
    NoTokenKey,
    #[error(
        "{messages} messages of this device wait to be sent in this group, and no more can be kept: try again when the server can be reached"
    )]
    OutboxFull { messages: u64 },
    #[error("only admins of the group do this, and this device is not one: ask an admin")]
    NotAdmin,
    #[error("{0} is not a member of the group")]
    NoSuchMember(String),
    #[error("this is the group's only admin: name another one first")]
    LastAdmin,
    /// An admin gave the group's title a number after which none is left in this epoch. Renewed keys begin another one. The
    /// server may have been restored to an earlier state of the group, too: then there is room once the epochs are where they
    /// were.
    #[error(
        "the group keeps its title, which has the last number that one can have for now: try again later"
    )]
    TitleStays,
    #[error("the members changed meanwhile: look again whom this would remove")]
    MembersChanged,
    #[error(
        "members came in, or became admins, and this device cannot tell by whose will: accept them, or block the group, or found it anew"
    )]
    Strangers(Box<Differences>),
    #[error("none of the user's devices can be reached yet: each can be once its registration is finished")]
    NoContact,
    #[error("{0} does not ask to be a contact, or it is not verified yet who asks")]
    NoRequest(UserName),
    #[error("{0} is not the user of the number that was shown last: show it and compare it anew")]
    NothingCompared(UserName),
    #[error(
        "the code does not fit: the devices of {0}, or yours, are not what both of you see. Compare after both have received; if it does not fit then, somebody stands between you"
    )]
    DifferentIdentity(UserName),
    #[error("this device was not told yet how to read what members keep in the group: receive first")]
    NoAttributesKey,
    #[error("others changed the group {0} times meanwhile: try again when it is quieter")]
    Contended(u32),
    #[error("the push subscription cannot be used: {0}")]
    Push(#[from] PushError),
    #[error("the {0} is damaged or made for something else: make a new one")]
    BadBlob(&'static str),
    #[error("these are not the 24 words of a recovery key: compare them with those that were written down")]
    BadRecoveryKey,
    #[error("the picture is no PNG, JPEG or WebP, or not the one that the profile names")]
    BadPicture,
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("no device of the user is called {0:?}: `devices` lists them")]
    UnknownDevice(String),
    #[error("several devices match {0:?}: name one by more of its key")]
    AmbiguousDevice(String),
    #[error("a device cannot remove itself: log it out, or remove it on another one")]
    OwnDevice,
    #[error("this device was removed from its user's devices: log it out, and link it anew")]
    RemovedDevice,
}

/// The server broke the queue's promise (QS-4, QS-5). Nothing after that place can be trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueueError {
    #[error(
        "the server left out messages of the {queue} queue: {expected} comes next, it delivered {found}. Tell the operator"
    )]
    Gap { queue: &'static str, expected: u64, found: u64 },
    #[error("the server delivered message {seq} of the {queue} queue under an old chain. Tell the operator")]
    OldChain { queue: &'static str, seq: u64 },
    #[error("message {seq} of the {queue} queue was not sealed for its place: {reason}. Tell the operator")]
    Unsealable { queue: &'static str, seq: u64, reason: ChainError },
    #[error("message {seq} of the {queue} queue is not what a queue holds. Tell the operator")]
    Malformed { queue: &'static str, seq: u64 },
}

/// Keys that the server publishes are not what everyone sees, or what was seen before (AAS-7, AS-2): the server, or
/// somebody between, makes keys for this client alone, or the operator changed the root. Nothing is done with them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IssuerError {
    #[error(
        "the server shows this client other keys than it shows to strangers ({0}): it could tell this user by them. Ask the operator in another way"
    )]
    Differ(&'static str),
    #[error(
        "the server issues tokens with more keys at a time than it needs: it could tell users by them. Ask the operator in another way"
    )]
    TooManyKeys,
    #[error(
        "the root of {0} is another one than before, or gone: ask its operator in another way whether that is so, and accept it then"
    )]
    OtherRoot(Domain),
}

/// The homeserver of another domain is not known to be the one that it was (FED-1). Nothing is sent there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HomeserverError {
    #[error(
        "the keys of {0}'s homeserver are others than before, and none of those vouches for them: it lost them, or somebody between, as the own homeserver, passes for it. Ask a friend there, or its operator, in another way, and accept them then"
    )]
    KeysDiffer(Domain),
    #[error("the description of {0}'s homeserver is not accepted: {1}")]
    Description(Domain, DescriptionError),
    #[error("{0}'s homeserver does not relay for people of other domains: nothing was sent")]
    NoRelay(Domain),
}

/// The AS's answer about a user does not hold together, or not with what it showed before (AS-3): the AS, or
/// somebody between, lies; or the user began anew.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("the AS answered for another user")]
    OtherUser,
    #[error("the user's identity is invalid: {0}")]
    History(&'static str),
    #[error("no device of the user signed the state that the AS shows")]
    State,
    #[error("the AS's word that a user's state is the latest does not hold: {0}")]
    Ticket(&'static str),
    #[error("a device's credential is not signed by a published key of the AS, or not valid now")]
    Credential,
    #[error("the AS vouches for a device that is not among the user's")]
    NotADevice,
    #[error("a device's contact is not signed by the device")]
    Contact,
    #[error("the AS shows an older list of the user's devices than before")]
    RolledBack,
    #[error(
        "the user's identity was started anew: make sure in another way that it is still the same person"
    )]
    Reset,
    #[error(
        "the AS shows another history of the user's devices than before: make sure in another way which is the user's"
    )]
    Split,
    #[error("the user was not looked up yet")]
    Unknown,
}

/// Two devices did not come together (AS-7).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    #[error("no device waits under this code: mind the number, and that a code is good for some minutes")]
    UnknownCode,
    #[error("somebody tried this code already, and a code is good for one try: begin again with another one")]
    UsedCode,
    #[error(
        "the two devices do not have the same code, or somebody between them guesses at it. Nothing was handed over, and \
         the code is used up: begin again with another one"
    )]
    WrongCode,
    #[error("the link ended before it was complete: begin again with another code")]
    Over,
    #[error(
        "what arrived is not what the other device sent: somebody between them changes it, or their programs do not \
         fit together. The link is ended"
    )]
    Tampered,
}

impl Error {
    /// The kind of problem that the server refused a request for, or the tokens for it; `None` for other errors.
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Server(error) => error.problem(),
            Self::NoToken(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// The same error, of the wallet, in the way of a request: whatever an issuer refuses, nobody refused the request. If the
    /// server is away, it is so for the request, too.
    pub(crate) fn of_wallet(self) -> Self {
        match self {
            error if error.server_is_away() => error,
            Self::Server(postern_api::Error::Refused(problem)) => Self::NoToken(problem),
            error => error,
        }
    }

    /// The server's refusal of the request itself, if this is one for good.
    pub(crate) fn refusal(&self) -> Option<&Problem> {
        match self {
            Self::Server(postern_api::Error::Refused(problem)) if is_refusal(problem.kind) => Some(problem),
            _ => None,
        }
    }

    /// Whether the AS knows nobody of the name that it was asked about: not even somebody whose identity ended and who may
    /// begin the next one.
    pub(crate) fn is_of_nobody(&self) -> bool {
        self.refusal().is_some_and(|problem| problem.kind == ProblemType::NotFound && !problem.identity_ended)
    }

    /// Whether trying again later may help without anything being changed: the server, or another domain's, is away, or the
    /// answers to a request and its repeats were lost, each of which had spent its token.
    pub fn is_passing(&self) -> bool {
        let lost = self.problem() == Some(ProblemType::TokenSpent);
        self.server_is_away()
            || self.another_is_away()
            || lost
            || matches!(self, Self::Behind | Self::NoTokenKey)
    }

    /// Whether the server cannot be reached: then nothing else can be done there, either. It is the own one: what another
    /// domain's homeserver answers never becomes such an error ([`crate::elsewhere`]).
    pub(crate) fn server_is_away(&self) -> bool {
        matches!(self, Self::Server(error) if error.is_passing())
    }

    /// Whether the homeserver of another domain is away, or does not answer as it should.
    pub(crate) fn another_is_away(&self) -> bool {
        use ProblemType::{
            Fault, GatewayKeyUnknown, HomeserverRefused, HomeserverUnknown, HomeserverUnreachable,
            Unavailable,
        };
        let Self::Server(postern_api::Error::Relay { problem, .. }) = self else { return false };
        matches!(
            problem.kind,
            Fault
                | GatewayKeyUnknown
                | HomeserverRefused
                | HomeserverUnknown
                | HomeserverUnreachable
                | Unavailable
        )
    }

    /// Whether somebody was asked and nothing came of it, though nothing passes: an answer that cannot be used. To ask again at
    /// once would cost as much, and as likely lead to nothing.
    pub(crate) fn leads_nowhere(&self) -> bool {
        let is_ours = matches!(self, Self::Database(_) | Self::Damaged(_) | Self::Contended(_));
        !is_ours && !self.is_passing() && !self.is_unpaid()
    }

    /// Whether nobody was asked: there is no token to pay with, or the relay does not hand the request on. That is no fault of
    /// whoever was to be asked, and [`UNPAID_RETRY`] is long enough to wait. A domain that the operator blocked stays so.
    pub(crate) fn is_unpaid(&self) -> bool {
        match self {
            Self::NoToken(_) => true,
            Self::Server(postern_api::Error::Relay { side: postern_api::Side::Relay, problem }) => {
                problem.kind != ProblemType::HomeserverBlocked
            }
            error => error.problem() == Some(ProblemType::AllowanceUsedUp),
        }
    }

    /// Whether trying the same again changes nothing: the network is there, tokens are at hand, and this device's state
    /// is usable.
    pub(crate) fn is_final(&self) -> bool {
        let unexpected = matches!(self, Self::Server(postern_api::Error::UnexpectedAnswer(_)));
        self.refusal().is_some() || unexpected || matches!(self, Self::Mls { .. } | Self::Contended(_))
    }

    pub(crate) fn mls<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Mls { what, reason: error.to_string() }
    }

    /// `what` came instead of what the protocol says.
    pub(crate) fn unexpected(what: impl Into<String>) -> Self {
        Self::Server(postern_api::Error::UnexpectedAnswer(what.into()))
    }
}

impl From<postern_api::Error> for Error {
    /// An error of this library comes back as itself: it was in the way of a request.
    fn from(error: postern_api::Error) -> Self {
        match error {
            postern_api::Error::Unsent(error) => match error.downcast() {
                Ok(error) => *error,
                Err(error) => Self::Server(postern_api::Error::Unsent(error)),
            },
            error => Self::Server(error),
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Server(problem.into())
    }
}

/// Why something that came in has no effect.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// It is invalid: the reason is for the user's log.
    Invalid(String),
    /// A group cannot be followed any more, which has so many members; `by_hand` if the server is not
    /// to be trusted with the way back.
    Stray { group: GroupId, by_hand: bool, members: usize, reason: String },
    /// It is invalid, and the DS may wait for something that no member knows.
    Doubt { group: GroupId, reason: String },
    /// A Welcome to this group waits: others are there than another device of this user told of, or that one told of a later epoch.
    Strangers(GroupId),
    /// A Welcome is to a group that this client is in already.
    InAlready,
    /// It does not open, though the secrets of its epoch are here: anybody in the group, which has so many members, may have made
    /// it up, or the DS was restored to an earlier state.
    Unfit { group: GroupId, members: usize, reason: String },
    /// It cannot be read, and the user knows that.
    Unread,
    /// This client failed: it has to be processed again.
    Fault(Error),
}

impl Rejection {
    pub(crate) fn invalid(reason: &'static str) -> Self {
        Self::Invalid(reason.to_owned())
    }
}

impl<E: Into<Error>> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

/// Takes a problem of this kind for success: it answers the repeat of a request that was accepted
/// and whose answer was lost.
pub(crate) fn or_repeated(answer: Result<()>, kind: ProblemType) -> Result<()> {
    match answer {
        Err(error) if error.problem() == Some(kind) => Ok(()),
        answer => answer,
    }
}

/// Lets the next errand run after one that was refused, or that has to do with a homeserver of another domain which is
/// away; stops when the own server cannot be reached.
pub(crate) fn goes_on<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.server_is_away() || matches!(error, Error::Database(_) | Error::Queue(_)) => {
            Err(error)
        }
        Err(error) => {
            tracing::warn!(%error, "an errand failed");
            Ok(())
        }
    }
}

/// Problems that refuse a request for good: it had no effect, and has none when it is sent again.
/// Anything else leaves the outcome open, and what the request was made of is kept.
const REFUSALS: &[ProblemType] = &[
    ProblemType::NotAllowed,
    ProblemType::NotFound,
    ProblemType::MethodNotAllowed,
    ProblemType::MalformedBody,
    ProblemType::MalformedRequest,
    ProblemType::UnsupportedMediaType,
    ProblemType::BodyTooLarge,
    ProblemType::NameTaken,
    ProblemType::NotAdmitted,
    ProblemType::AccountExists,
    ProblemType::WrongProof,
    ProblemType::InvalidProfile,
    ProblemType::ProfileOutdated,
    ProblemType::ForeignDomain,
    ProblemType::HomeserverBlocked,
    ProblemType::InvalidMls,
    ProblemType::PolicyViolation,
    ProblemType::WrongEpoch,
    ProblemType::GroupExists,
    ProblemType::CiphersuiteForbidden,
    ProblemType::TooManyMembers,
    ProblemType::TooManyClients,
    ProblemType::TooManyDomains,
    ProblemType::DeliveryTooLarge,
    ProblemType::MessageTooLarge,
    ProblemType::QueueExists,
    ProblemType::AddressExists,
    ProblemType::TooManyAddresses,
    ProblemType::TooManyKeyPackages,
    ProblemType::Undeliverable,
    ProblemType::AcknowledgedTooMuch,
    ProblemType::NoPush,
    ProblemType::UnknownTokenKey,
    ProblemType::InvalidTokenRequest,
    ProblemType::NoTokenIssued,
    ProblemType::RendezvousClosed,
];

/// Whether the server refused a request for good.
pub(crate) fn is_refusal(kind: ProblemType) -> bool {
    REFUSALS.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Problems that say nothing about the request itself, or not for good.
    const OPEN: &[ProblemType] = &[
        ProblemType::TokenRequired,
        ProblemType::TokenSpent,
        ProblemType::SignatureRequired,
        ProblemType::SignatureUsed,
        ProblemType::BodyTooSlow,
        ProblemType::TooManyRegistrations,
        ProblemType::AccountSuspended,
        ProblemType::TooManyInvites,
        ProblemType::TooManyChanges,
        ProblemType::TooManyReservations,
        ProblemType::TooManyRendezvous,
        ProblemType::TooManyAttempts,
        ProblemType::AllowanceUsedUp,
        ProblemType::HomeserverUnknown,
        ProblemType::HomeserverUnreachable,
        ProblemType::HomeserverRefused,
        ProblemType::GatewayKeyUnknown,
        ProblemType::DeliveryGap,
        ProblemType::Fault,
        ProblemType::Unavailable,
    ];

    #[test]
    fn what_passes_or_was_not_paid_for_does_not_lead_nowhere() {
        use ProblemType::{AllowanceUsedUp, HomeserverBlocked, NotAllowed, TokenSpent, UnknownTokenKey};
        let of = |kind: ProblemType| Error::from(Problem::new(kind));
        let relay = |kind: ProblemType| {
            let side = postern_api::Side::Relay;
            Error::from(postern_api::Error::Relay { side, problem: kind.into() })
        };
        for (error, is_unpaid, leads_nowhere) in [
            (of(TokenSpent), false, false),
            (Error::Behind, false, false),
            (Error::NoTokenKey, false, false),
            (of(AllowanceUsedUp), true, false),
            (Error::NoToken(UnknownTokenKey.into()), true, false),
            (relay(NotAllowed), true, false),
            (relay(HomeserverBlocked), false, true),
            (Error::unexpected("nonsense"), false, true),
        ] {
            assert_eq!((error.is_unpaid(), error.leads_nowhere()), (is_unpaid, leads_nowhere), "{error}");
        }
    }

    #[test]
    fn every_problem_is_either_a_refusal_or_leaves_the_outcome_open() {
        for kind in ProblemType::ALL {
            assert_ne!(is_refusal(*kind), OPEN.contains(kind), "{}", kind.slug());
        }
    }
}
