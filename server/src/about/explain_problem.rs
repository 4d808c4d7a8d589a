//! `GET /problems/{slug}`: answers with the page that a problem's `type` refers to (RFC 9457 §3.1.1).

use postern_protocol::problem::ProblemType;

use crate::{
    home::Home,
    http::{Answer, Outcome, Request},
};

pub async fn explain_problem(_: Home, request: Request) -> Outcome {
    let slug: String = request.segment(|slug| Some(slug.to_owned()))?;
    let kind = ProblemType::from_slug(&slug).ok_or(ProblemType::NotFound)?;
    let text = format!("{} ({})\n\n{}\n", kind.title(), kind.status(), kind.meaning());
    Ok(Answer::bytes("text/plain; charset=utf-8", text.into_bytes()).public())
}
