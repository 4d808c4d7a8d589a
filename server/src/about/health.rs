//! `GET /health`: 204 as long as the process answers at all. It asks nobody else: a supervisor restarts a process that does
//! not answer, and restarting it brings no database back.

use http::StatusCode;

use crate::{
    home::Home,
    http::{Answer, Outcome, Request},
};

pub async fn health(_: Home, _: Request) -> Outcome {
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
