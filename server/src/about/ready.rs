//! `GET /ready`: 204 when the process can serve requests now, else a problem (503). Why not is the operator's to know.

use http::StatusCode;
use postern_protocol::problem::ProblemType;

use crate::{
    home::Home,
    http::{Answer, Outcome, Request},
};

pub async fn ready(home: Home, _: Request) -> Outcome {
    match home.ready().await {
        Ok(()) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(_) => Err(ProblemType::Unavailable.into()),
    }
}
