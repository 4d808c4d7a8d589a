//! `GET /as/users/{name}` (AS-5): a user's EID with its whole history, the clients'
//! credentials and contacts. Anonymous: the reader shows a token and nothing else.

use http::StatusCode;
use postern_protocol::{
    GroupInfo, IssuedCredential, MlsMessage, PublicKey, RatchetTree,
    auth::{ClientRecord, UserRecord},
    name::UserName,
    problem::ProblemType,
};

use super::publish_contact;
use crate::{
    app::App,
    road::{Failure, Outcome, Payment, Request},
};

pub async fn look_up_user(app: App, request: Request, payment: Payment) -> Outcome {
    let name: UserName = request.segment(|segment| segment.replace("%40", "@").parse().ok())?;
    if *name.domain() != app.domain {
        return Err(ProblemType::ForeignDomain.into());
    }
    let row = payment
        .call(
            &app.database,
            "SELECT outcome, group_info, ratchet_tree, commits, client_keys, credentials, contacts
             FROM auth.look_up_user($1, $2, $3)",
            &[&name.local()],
        )
        .await?;
    match row.get("outcome") {
        "found" => {}
        "unknown_user" => return Err(ProblemType::NotFound.into()),
        other => return Err(Failure::unexpected(other)),
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
            let open = |sealed| publish_contact::open(&app.master_key, key, sealed);
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
        clients,
    };
    request.answer(StatusCode::OK, &record)
}
