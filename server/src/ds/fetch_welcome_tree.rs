//! `POST /ds/groups/{group_id}/welcome-tree` (DS-7): answers a joiner with the ratchet tree of the
//! epoch that added it, until its first application message or commit.

use http::StatusCode;
use postern_protocol::{ds::FetchWelcomeTree, problem::ProblemType};

use super::{Ds, sealed::joiner_tag, stored::StoredGroup};
use crate::{
    database::outcome,
    http::{Outcome, Payment, Request},
};

outcome! {
    pub FetchWelcomeTreeOutcome: "ds.fetch_welcome_tree_outcome", paid {
        Found = "found",
        UnknownJoiner = "unknown_joiner",
    }
}

pub async fn fetch_welcome_tree(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<FetchWelcomeTree>(&ds.home)?;
    // No group reaches an epoch that the database's signed integer cannot hold.
    let epoch = i64::try_from(body.epoch).map_err(|_| ProblemType::NotFound)?;
    let (outcome, row) = payment
        .call(
            &ds.home.database,
            "SELECT outcome, tree FROM ds.fetch_welcome_tree($1, $2, $3, $4, $5)",
            &[&group_id.id().as_slice(), &epoch, &joiner_tag(&body.state_key, body.epoch, &signer)],
        )
        .await?;
    match outcome {
        FetchWelcomeTreeOutcome::Found => {}
        FetchWelcomeTreeOutcome::UnknownJoiner => return Err(ProblemType::NotFound.into()),
    }
    let open = || StoredGroup::open_welcome_tree(&group_id, body.epoch, &body.state_key, row.get("tree"));
    let tree = ds.home.compute(open).await??;
    request.answer(StatusCode::OK, &tree)
}
