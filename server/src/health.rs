//! What the server says about itself to anyone: that it is alive, and what its problem
//! types mean.

use http::StatusCode;
use postern_protocol::problem::ProblemType;

use crate::{
    app::App,
    road::{Answer, Outcome, Request},
};

/// `GET /health`: 204 when the database answers, else a problem (503).
pub async fn health(app: App, _: Request) -> Outcome {
    app.database.query_one("SELECT 1", &[]).await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// `GET /problems/{slug}`: what a problem's `type` refers to (RFC 9457 §3.1.1).
pub async fn explain_problem(_: App, request: Request) -> Outcome {
    let slug: String = request.segment(|slug| Some(slug.to_owned()))?;
    let kind = ProblemType::from_slug(&slug).ok_or(ProblemType::NotFound)?;
    let text = format!("{} ({})\n\n{}\n", kind.title(), kind.status(), kind.meaning());
    Ok(Answer::bytes("text/plain; charset=utf-8", text.into_bytes()).public())
}
