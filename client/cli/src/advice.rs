//! Advice for a person at a command line: what to do about an error, in terms of commands and
//! options. The library says what happened.

use postern_client::{Error, IdentityError, api};
use postern_protocol::problem::ProblemType;

/// Sentences that follow an error's own text; empty if that says all there is.
pub fn for_error(error: &Error) -> &'static str {
    match error {
        Error::Server(api::Error::Refused(problem)) | Error::NoToken(problem) => for_problem(problem.kind),
        Error::Server(api::Error::Unreachable(_)) => {
            ". Nothing is lost. Check the server's address (--server) and that the server is running, \
             then try again"
        }
        Error::BadRecoveryKey => ". They came with `register`, or with `recovery-key --replace`",
        Error::NoServer => ". --server or POSTERN_SERVER names it",
        Error::NoClient(_) => ". `register` makes a client; --state names its directory",
        Error::ClientExists(_) | Error::Busy { .. } => ". --state names the directory",
        Error::NotReady => ". `register`, `link` and `link-complete` go on where they were interrupted",
        Error::UnknownGroup(_) | Error::AmbiguousGroup(_) => ". `groups` lists them with their ids",
        Error::CannotFollow => ". `rejoin` comes back at once, `refound` founds the group anew",
        Error::PassphraseNeeded | Error::WrongPassphrase => {
            ". --passphrase-file or POSTERN_PASSPHRASE gives it, or a terminal at which it is typed"
        }
        Error::NotEncrypted => ". `passphrase change` encrypts it",
        Error::Link(_) => ". `link` on a device you have shows another code",
        Error::NoSuchMember(_) | Error::MembersChanged => ". `members` lists them",
        Error::TitleStays => ". Each `update GROUP` makes room for later ones",
        Error::LastAdmin => ". `group admins GROUP --add USER` does",
        Error::Strangers(_) => ". `rejoin` shows them and asks, `refound` founds another group",
        Error::NoRequest(_) => ". `contacts requests` lists those that ask",
        Error::NothingCompared(_) => ". `contacts verify` shows it",
        Error::Identity(IdentityError::Split) => {
            ". Compare with the user in another way (`contacts verify`), and tell the operator"
        }
        Error::Identity(IdentityError::Reset) => ". `contacts accept USER --reset` accepts it then",
        Error::NoAttributesKey => ". `follow --once` receives",
        _ => "",
    }
}

fn for_problem(kind: ProblemType) -> &'static str {
    match kind {
        ProblemType::NotFound => ". If you named a user: nobody here has that name",
        ProblemType::NameTaken => ". Choose another name",
        ProblemType::NotAdmitted => {
            ". `register --help` tells how to bring an invite (--invite) or a login (--sign-in)"
        }
        ProblemType::AccountExists => ". `link-request` adds this device to it",
        ProblemType::TooManyRegistrations => ". The same command goes on in the next hour",
        ProblemType::WrongProof => {
            ". Check the name, and that these are the words of this account, or the login that it was registered with: \
             --sign-in brings one, and `recovery-key --replace` makes other words"
        }
        ProblemType::TooManyChanges => ". The operator sets how often; the same command goes on later",
        ProblemType::AllowanceUsedUp => {
            ". The operator sets how many tokens a client gets in a time frame; wait for the next one"
        }
        ProblemType::Fault | ProblemType::Unavailable => ". Nothing was changed: try again",
        ProblemType::SignatureRequired => ". Check this computer's clock",
        ProblemType::ForeignDomain => ". Give a name that ends in the server's own domain",
        _ => "",
    }
}
