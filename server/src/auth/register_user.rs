//! `POST /as/users` (AS-1): registers a user name with its first client. It is open, since tokens are for registered
//! clients, and is the only open endpoint with which anybody can change something. So what is cheap comes first: size,
//! form, one signature, one SQL call that counts the attempt and looks at the invite; then comes the ID token, if the
//! policy asks for one; a tree is looked at only when these let it through.
//!
//! A client takes `not-admitted`, `name-taken` and `account-exists` for the word that its key has no account: they are said
//! to a key that signed the request, and to no other.
//!
//! The answers tell a stranger about names only by the attempt to register one: `name-taken` comes last, to a request
//! that would otherwise have been accepted, and a key that is a client's already gets the same answer for every name.

use http::StatusCode;
use postern_protocol::{
    IssuedCredential, PublicKey,
    admission::{Admission, RegistrationPolicy, registration_nonce},
    auth::{CredentialIssued, RegisterUser},
    problem::{Problem, ProblemType},
};

use super::{
    As, Subject,
    identity::{Founded, NewIdentity},
    registration_terms,
};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Failure, Outcome, RateLimit, Request},
};

/// The purpose for which network addresses are digested.
const SOURCE: &str = "AS registration source";

outcome! {
    pub AdmitRegistrationOutcome: "auth.admit_registration_outcome" {
        Admitted = "admitted",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
        NotAdmitted = "not_admitted",
    }
}

outcome! {
    pub RegisterUserOutcome: "auth.register_user_outcome" {
        Registered = "registered",
        NameTaken = "name_taken",
        ClientKnown = "client_known",
        NotAdmitted = "not_admitted",
        SubjectKnown = "subject_known",
    }
}

/// A stranger that may go on.
struct Admitted {
    /// The key that signed the request.
    signer: PublicKey,
    policy: RegistrationPolicy,
    /// Whether the key that signed the request is a client's already: the request makes no account.
    is_known: bool,
    /// The limit of a leaf's bytes.
    max_leaf_bytes: usize,
}

pub async fn register_user(auth: As, request: Request) -> Outcome {
    let body: RegisterUser = request.body()?;
    auth.home.expect_local(body.name.domain())?;
    let admitted = admit(&auth, &request, &body).await?;
    let signer = admitted.signer;
    let subject = login(&auth, &body, &admitted).await?;
    let founding = NewIdentity {
        user: &body.name,
        group_info: &body.group_info,
        ratchet_tree: &body.ratchet_tree,
        state: &body.state,
        previous: None,
    };
    let (founded, refusal) =
        match auth.home.compute(|| founding.validate(signer, admitted.max_leaf_bytes)).await? {
            Ok(founded) => (Some(founded), None),
            // A repeat was valid when it made the account, whatever limit was lowered, and whatever lifetime ended since.
            Err(refusal) if admitted.is_known => (None, Some(refusal)),
            Err(refusal) => return Err(refusal.into()),
        };
    let credential = auth.signer.issue(body.name.clone(), signer)?;
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, credential FROM auth.register_user($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                &body.name.local(),
                &signer.as_bytes().as_slice(),
                &body.group_info.as_bytes(),
                &body.ratchet_tree.as_bytes(),
                &founded.as_ref().map(Founded::eid),
                &founded.as_ref().map(Founded::tree_hash),
                &body.state.signature.as_bytes(),
                &credential.as_bytes(),
                &body.recovery_key.as_bytes().as_slice(),
                &invite(&body),
                &subject.as_ref().map(|subject| subject.as_bytes().as_slice()),
            ],
        )
        .await?;
    match (RegisterUserOutcome::of(&row)?, refusal) {
        (RegisterUserOutcome::Registered, _) => {
            let credential = IssuedCredential::new(row.get("credential"));
            request.answer(StatusCode::CREATED, &CredentialIssued { credential })
        }
        (_, Some(refusal)) => Err(refusal.into()),
        (RegisterUserOutcome::NameTaken, None) => Err(ProblemType::NameTaken.into()),
        (RegisterUserOutcome::ClientKnown, None) => Err(ProblemType::NotAllowed.into()),
        (RegisterUserOutcome::NotAdmitted, None) => Err(not_admitted(admitted.policy).into()),
        (RegisterUserOutcome::SubjectKnown, None) => Err(ProblemType::AccountExists.into()),
    }
}

/// Counts the attempt, and looks at the signature, the policy and the invite.
///
/// # Errors
/// `too-many-registrations`; `signature-required`; `not-admitted`.
async fn admit(auth: &As, request: &Request, body: &RegisterUser) -> Result<Admitted, Failure> {
    // The signature over the request proves possession of the client's key: whether that is a client's already is told to
    // nobody else. An attempt counts without it, too.
    let signer = request.signer();
    let key = signer.as_ref().ok().map(|key| key.as_bytes().as_slice());
    let sources = request.source().digests(|network| auth.home.master_key.digest(SOURCE, network));
    let row = auth
        .home
        .database
        .query_one(
            "SELECT outcome, allowance, resets_in, max_leaf_bytes, policy, is_known
             FROM auth.admit_registration($1, $2, $3)",
            &[&sources, &key, &invite(body)],
        )
        .await?;
    let policy = registration_terms::policy(row.get("policy"))?;
    let refused = match AdmitRegistrationOutcome::of(&row)? {
        AdmitRegistrationOutcome::Admitted => None,
        AdmitRegistrationOutcome::NotAdmitted => Some(not_admitted(policy)),
        AdmitRegistrationOutcome::SourceLimited | AdmitRegistrationOutcome::ServerLimited => {
            let problem = ProblemType::TooManyRegistrations.into();
            return Err(Failure::Limited(problem, RateLimit::used_up(&row)));
        }
    };
    // The signature comes first: a client whose clock is wrong must not take its key for nobody's.
    let signer = signer?;
    if let Some(problem) = refused {
        return Err(problem.into());
    }
    let max_leaf_bytes = usize::try_from(row.get::<_, i32>("max_leaf_bytes")).map_err(Failure::fault)?;
    Ok(Admitted { signer, policy, is_known: row.get("is_known"), max_leaf_bytes })
}

/// The login that the request's ID token proves. A token is for the key that signed the request: a stolen one registers
/// nobody else.
///
/// # Errors
/// `not-admitted`; a provider that does not answer.
async fn login(auth: &As, body: &RegisterUser, admitted: &Admitted) -> Result<Option<Subject>, Failure> {
    let token = match &body.admission {
        _ if admitted.is_known => return Ok(None),
        Admission::IdToken(token) => token,
        Admission::Open | Admission::Invite(_) if admitted.policy == RegistrationPolicy::Oidc => {
            return Err(not_admitted(admitted.policy).into());
        }
        Admission::Open | Admission::Invite(_) => return Ok(None),
    };
    let Some(oidc) = &auth.oidc else {
        let detail = "this server has no identity provider";
        return Err(Problem::with_detail(ProblemType::NotAdmitted, detail).into());
    };
    let nonce = registration_nonce(&auth.home.domain, &admitted.signer);
    Ok(Some(oidc.verify(token, &nonce).await?.subject))
}

/// The digest of the invite's code, if the request brings one.
fn invite(body: &RegisterUser) -> Option<Vec<u8>> {
    match &body.admission {
        Admission::Invite(code) => Some(code.digest().as_bytes().to_vec()),
        Admission::Open | Admission::IdToken(_) => None,
    }
}

fn not_admitted(policy: RegistrationPolicy) -> Problem {
    let detail = match policy {
        // It was another one a moment ago.
        RegistrationPolicy::Open => "the policy has changed: try again",
        RegistrationPolicy::Invite => "an invite is needed that is neither used up nor expired",
        RegistrationPolicy::Oidc => "an ID token of the server's identity provider is needed",
    };
    Problem::with_detail(ProblemType::NotAdmitted, detail)
}
