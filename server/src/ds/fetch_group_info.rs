//! `POST /ds/groups/{group_id}/group-info` (DS-7, DS-8): answers with the start of an external
//! commit: GroupInfo and tree of the current epoch, and the pending proposals.

use http::StatusCode;
use postern_protocol::{
    ds::{CurrentGroup, FetchGroupInfo},
    problem::ProblemType,
};

use super::{Ds, stored::StoredGroup};
use crate::{
    database::outcome,
    http::{Outcome, Payment, Request},
};

outcome! {
    pub FetchGroupInfoOutcome: "ds.fetch_group_info_outcome", paid {
        Found = "found",
        UnknownGroup = "unknown_group",
    }
}

pub async fn fetch_group_info(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<FetchGroupInfo>(&ds.home)?;
    let (outcome, row) = payment
        .call(
            &ds.home.database,
            "SELECT outcome, epoch, revision, tree FROM ds.fetch_group_info($1, $2, $3)",
            &[&group_id.id().as_slice()],
        )
        .await?;
    match outcome {
        FetchGroupInfoOutcome::Found => {}
        FetchGroupInfoOutcome::UnknownGroup => return Err(ProblemType::NotFound.into()),
    }
    let stored = StoredGroup::of(&group_id, &row, "tree")?;
    let group = ds.home.compute(|| stored.open_group(&body.state_key, ds.now())).await??;
    // A removed member still knows the state key.
    if !group.roster.knows(signer) {
        return Err(ProblemType::NotAllowed.into());
    }
    let current = CurrentGroup {
        ratchet_tree: group.mls.ratchet_tree(),
        attributes: group.leaf_attributes(),
        group_info: group.group_info,
        proposals: group.proposals,
    };
    request.answer(StatusCode::OK, &current)
}
