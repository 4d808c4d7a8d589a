//! `GET /as/users/{name}/picture` (AS-6): answers with the picture of a user's profile. It comes apart from the record,
//! which readers fetch more often.

use http::StatusCode;
use postern_protocol::{Payload, problem::ProblemType, profile::UserPicture};

use super::{As, look_up_user};
use crate::{
    database::outcome,
    http::{Outcome, Payment, Request},
};

outcome! {
    pub FetchPictureOutcome: "auth.fetch_picture_outcome", paid {
        Found = "found",
        UnknownPicture = "unknown_picture",
    }
}

pub async fn fetch_picture(auth: As, request: Request, payment: Payment) -> Outcome {
    let (name, lookup) = look_up_user::target(&auth, &request)?;
    let lookup = lookup.as_ref().map(|digest| digest.as_bytes().as_slice());
    let (outcome, row) = payment
        .call(
            &auth.home.database,
            "SELECT outcome, picture FROM auth.fetch_picture($1, $2, $3, $4)",
            &[&name.local(), &lookup],
        )
        .await?;
    match outcome {
        FetchPictureOutcome::Found => {
            request.answer(StatusCode::OK, &UserPicture { picture: Payload::new(row.get("picture")) })
        }
        FetchPictureOutcome::UnknownPicture => Err(ProblemType::NotFound.into()),
    }
}
