//! `DELETE /ds/groups/{group_id}` (DS-11): an admin deletes a group in which no other user is left.

use http::StatusCode;
use postern_protocol::{ds::DeleteGroup, problem::ProblemType};

use super::{
    Ds,
    policy::{self, View},
    sealed::Kind,
    stored::LoadedGroup,
};
use crate::{
    database::outcome,
    http::{Answer, Outcome, Payment, Request},
};

outcome! {
    pub DeleteGroupOutcome: "ds.delete_group_outcome", paid {
        Deleted = "deleted",
        WrongEpoch = "wrong_epoch",
    }
}

pub async fn delete_group(ds: Ds, request: Request, payment: Payment) -> Outcome {
    let (group_id, signer, body) = request.home_group::<DeleteGroup>(&ds.home)?;
    let loaded =
        LoadedGroup::load(&ds.home, &payment, &group_id, Kind::Tree).await?.ok_or(ProblemType::NotFound)?;
    let open = || loaded.stored.open_group(&body.state_key, ds.now());
    let group = payment.compute(&ds.home, open).await??;
    let sender = group.roster.by_key(signer).ok_or(ProblemType::NotAllowed)?;
    policy::check_deletion(View { policy: &group.policy, roster: &group.roster }, sender.leaf)?;
    let (outcome, _) = payment
        .call(
            &ds.home.database,
            "SELECT outcome FROM ds.delete_group($1, $2, $3, $4)",
            &[&group_id.id().as_slice(), &loaded.stored.sql_epoch()],
        )
        .await?;
    match outcome {
        DeleteGroupOutcome::Deleted => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        DeleteGroupOutcome::WrongEpoch => Err(ProblemType::NotFound.into()),
    }
}
