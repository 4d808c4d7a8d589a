//! `GET /as/users/{name}?incarnation={number}&after={epoch}` (AS-5): answers with a user's EID as it is, the clients'
//! credentials and contacts, a ticket that this is the latest (AS-10), and a page of the history, if it is asked for. The
//! reader is anonymous: it shows a token, a contact of a hidden user the lookup secret, and nothing else.

use http::StatusCode;
use postern_protocol::{
    GroupInfo, IssuedCredential, LookupSecret, MessageDigest, MlsMessage, PublicKey, RatchetTree, Signature,
    Transcript, TreeHash,
    auth::{ClientRecord, CurrentIdentity, FoundingIdentity, UserRecord},
    eid::SignedState,
    name::UserName,
    problem::{Problem, ProblemType},
    profile::LOOKUP_SECRET,
};
use tokio_postgres::Row;

use super::{As, identity, publish_contact, put_profile};
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub LookUpUserOutcome: "auth.look_up_user_outcome", paid {
        Found = "found",
        IdentityEnded = "identity_ended",
        UnknownUser = "unknown_user",
    }
}

pub async fn look_up_user(auth: As, request: Request, payment: Payment) -> Outcome {
    let (name, lookup) = target(&auth, &request)?;
    let lookup = lookup.as_ref().map(|digest| digest.as_bytes().as_slice());
    // A number beyond the database's is beyond every user's.
    let incarnation =
        request.query_number("incarnation")?.map(|number| i32::try_from(number).unwrap_or(i32::MAX));
    let after = request.query_number("after")?.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, incarnation, founder, founding, epoch, transcript, tree_hash, state_signature, group_info,
                    ratchet_tree, client_keys, credentials, contacts, begun, ended, commits, more,
                    founding_group_info, founding_ratchet_tree, profile
             FROM auth.look_up_user($1, $2, $3, $4, $5, $6)",
            &[&name.local(), &incarnation, &after, &lookup],
        )
        .await?;
    match outcome {
        LookUpUserOutcome::Found => request.answer(StatusCode::OK, &record(&auth, name, &row)?),
        LookUpUserOutcome::IdentityEnded => Err(Problem::identity_ended().into()),
        LookUpUserOutcome::UnknownUser => Err(ProblemType::NotFound.into()),
    }
}

/// The user that a request names, and the digest of the lookup secret that it shows.
///
/// # Errors
/// `malformed-request`; `foreign-domain` for a user of another homeserver.
pub fn target(auth: &As, request: &Request) -> Result<(UserName, Option<MessageDigest>), Failure> {
    let name: UserName = request.segment(|segment| segment.replace("%40", "@").parse().ok())?;
    auth.home.expect_local(name.domain())?;
    let secret = request.header_value(&LOOKUP_SECRET, |text| LookupSecret::from_base64url(text).ok())?;
    Ok((name, secret.map(|secret| secret.digest())))
}

fn record(auth: &As, name: UserName, row: &Row) -> Result<UserRecord, Failure> {
    let eid = identity::eid_state(row)?;
    let tree_hash = TreeHash::try_from(row.get::<_, &[u8]>("tree_hash")).map_err(Failure::fault)?;
    let founding = row.get::<_, Option<Vec<u8>>>("founding_group_info").zip(row.get("founding_ratchet_tree"));
    let transcripts = |column: &str| -> Result<Vec<Transcript>, Failure> {
        let transcripts: Vec<&[u8]> = row.get(column);
        transcripts.into_iter().map(Transcript::try_from).collect::<Result<_, _>>().map_err(Failure::fault)
    };
    let commits: Vec<Vec<u8>> = row.get("commits");
    Ok(UserRecord {
        incarnation: eid.incarnation,
        current: CurrentIdentity {
            group_info: GroupInfo::new(row.get("group_info")),
            ratchet_tree: RatchetTree::new(row.get("ratchet_tree")),
            founding: identity::transcript(row, "founding")?,
            founder: PublicKey::try_from(row.get::<_, &[u8]>("founder")).map_err(Failure::fault)?,
            state: SignedState { eid, signature: Signature::new(row.get("state_signature")) },
        },
        founding: founding.map(|(group_info, ratchet_tree)| FoundingIdentity {
            group_info: GroupInfo::new(group_info),
            ratchet_tree: RatchetTree::new(ratchet_tree),
        }),
        commits: commits.into_iter().map(MlsMessage::new).collect(),
        more: row.get("more"),
        profile: row.get::<_, Option<&[u8]>>("profile").map(put_profile::open).transpose()?,
        clients: clients(auth, row)?,
        ticket: auth.signer.ticket(name.clone(), eid, tree_hash)?,
        begun: transcripts("begun")?,
        ended: transcripts("ended")?,
        name,
    })
}

fn clients(auth: &As, row: &Row) -> Result<Vec<ClientRecord>, Failure> {
    let keys: Vec<&[u8]> = row.get("client_keys");
    let credentials: Vec<Vec<u8>> = row.get("credentials");
    let contacts: Vec<Option<&[u8]>> = row.get("contacts");
    keys.into_iter()
        .zip(credentials)
        .zip(contacts)
        .map(|((key, credential), contact)| {
            let key = PublicKey::try_from(key).map_err(Failure::fault)?;
            let open = |sealed| publish_contact::open(&auth.home.master_key, key, sealed);
            Ok(ClientRecord {
                credential: IssuedCredential::new(credential),
                contact: contact.map(open).transpose()?,
            })
        })
        .collect()
}
