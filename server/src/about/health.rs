//! `GET /health`: 204 when the database answers, else a problem (503).

use http::StatusCode;

use crate::{
    home::Home,
    http::{Answer, Outcome, Request},
};

pub async fn health(home: Home, _: Request) -> Outcome {
    home.database.query_one("SELECT 1", &[]).await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
