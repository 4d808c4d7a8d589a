//! `POST /ds/groups/{group_id}/welcome-tree` (DS-7): answers a joiner with the ratchet tree of the
//! epoch that added it, until its first application message or commit.

use http::StatusCode;
use postern_protocol::{ds::FetchWelcomeTree, problem::ProblemType};

use super::{Ds, sealed::joiner_tag, stored::StoredGroup};
use crate::http::{Outcome, Payment, Request};

pub async fn fetch_welcome_tree(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<FetchWelcomeTree>(&ds.home)?;
    // No group reaches an epoch that the database's signed integer cannot hold.
    let epoch = i64::try_from(body.epoch).map_err(|_| ProblemType::NotFound)?;
    let row = payment
        .load(
            &ds.home.database,
            "SELECT spent, tree FROM ds.load_welcome_tree($1, $2, $3, $4, $5)",
            &[&group_id.id().as_slice(), &epoch, &joiner_tag(&body.state_key, body.epoch, &signer)],
        )
        .await?
        .ok_or(ProblemType::NotFound)?;
    let answer = || {
        let tree = StoredGroup::open_welcome_tree(&group_id, body.epoch, &body.state_key, row.get("tree"))?;
        request.answer(StatusCode::OK, &tree)
    };
    payment.compute(&ds.home, answer).await?
}
