//! `GET /as/users/{name}?after={epoch}` (AS-5): answers with a user's EID and a page of its history, and the clients'
//! credentials and contacts. The reader is anonymous: it shows a token and nothing else.

use http::StatusCode;
use postern_protocol::{
    GroupInfo, IssuedCredential, MlsMessage, PublicKey, RatchetTree,
    auth::{ClientRecord, UserRecord},
    name::UserName,
    problem::ProblemType,
};

use super::{As, publish_contact};
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub LookUpUserOutcome: "auth.look_up_user_outcome", paid {
        Found = "found",
        UnknownUser = "unknown_user",
    }
}

pub async fn look_up_user(auth: As, request: Request, payment: Payment) -> Outcome {
    let name: UserName = request.segment(|segment| segment.replace("%40", "@").parse().ok())?;
    auth.home.expect_local(name.domain())?;
    let after = i64::try_from(request.query_number("after")?.unwrap_or_default()).unwrap_or(i64::MAX);
    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, group_info, ratchet_tree, commits, more, client_keys, credentials, contacts
             FROM auth.look_up_user($1, $2, $3, $4)",
            &[&name.local(), &after],
        )
        .await?;
    match outcome {
        LookUpUserOutcome::Found => {}
        LookUpUserOutcome::UnknownUser => return Err(ProblemType::NotFound.into()),
    }
    let commits: Vec<Vec<u8>> = row.get("commits");
    let keys: Vec<&[u8]> = row.get("client_keys");
    let credentials: Vec<Vec<u8>> = row.get("credentials");
    let contacts: Vec<Option<&[u8]>> = row.get("contacts");
    let clients = keys
        .into_iter()
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
        .collect::<Result<_, Failure>>()?;
    let record = UserRecord {
        name,
        group_info: GroupInfo::new(row.get("group_info")),
        ratchet_tree: RatchetTree::new(row.get("ratchet_tree")),
        commits: commits.into_iter().map(MlsMessage::new).collect(),
        more: row.get("more"),
        clients,
    };
    request.answer(StatusCode::OK, &record)
}
