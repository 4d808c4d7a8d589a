//! `POST /ds/groups/{group_id}/group-info` (DS-7, DS-8): answers with the start of an external
//! commit: GroupInfo and tree of the current epoch, and the pending proposals.

use http::StatusCode;
use postern_protocol::{
    ds::{CurrentGroup, FetchGroupInfo},
    problem::ProblemType,
};

use super::{Ds, sealed::Kind, stored::LoadedGroup};
use crate::http::{Outcome, Payment, Request};

pub async fn fetch_group_info(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<FetchGroupInfo>(&ds.home)?;
    let loaded = LoadedGroup::load(&ds.home, &payment, &group_id, Kind::Tree).await?;
    let loaded = loaded.ok_or(ProblemType::NotFound)?;
    let answer = || {
        let group = loaded.stored.open_group(&body.state_key, ds.now())?;
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
    };
    payment.compute(&ds.home, answer).await?
}
