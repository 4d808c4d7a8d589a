//! `POST /rendezvous/{number}/join` (AS-7): makes the key that signed the request the guest of a rendezvous. It is open,
//! since a new device has no tokens yet; attempts are limited, and each rendezvous has one guest in its life.

use http::StatusCode;
use postern_protocol::{problem::ProblemType, rendezvous::JoinRendezvous, signature::Verified};

use super::{Rendezvous, column, number};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Answer, Failure, Outcome, RateLimit, Request},
};

/// The purpose for which network addresses are digested.
const SOURCE: &str = "rendezvous source";

outcome! {
    pub JoinRendezvousOutcome: "rendezvous.join_rendezvous_outcome" {
        Joined = "joined",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
        SignatureUsed = "signature_used",
        Unknown = "unknown",
        Closed = "closed",
    }
}

pub async fn join_rendezvous(rendezvous: Rendezvous, request: Request) -> Outcome {
    let number = number(&request)?;
    let Verified { key, digest } = request.verify()?;
    let JoinRendezvous {} = request.body()?;
    let home = &rendezvous.home;
    let sources = request.source().digests(|network| home.master_key.digest(SOURCE, network));
    let row = home
        .database
        .query_one(
            "SELECT outcome, allowance, resets_in FROM rendezvous.join_rendezvous($1, $2, $3, $4, $5)",
            &[
                &sources,
                &column(number),
                &key.as_bytes().as_slice(),
                &digest.as_slice(),
                &rendezvous.wake(number),
            ],
        )
        .await?;
    match JoinRendezvousOutcome::of(&row)? {
        JoinRendezvousOutcome::Joined => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        JoinRendezvousOutcome::SourceLimited | JoinRendezvousOutcome::ServerLimited => {
            Err(Failure::Limited(ProblemType::TooManyAttempts.into(), RateLimit::used_up(&row)))
        }
        JoinRendezvousOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        JoinRendezvousOutcome::Unknown => Err(ProblemType::NotFound.into()),
        JoinRendezvousOutcome::Closed => Err(ProblemType::RendezvousClosed.into()),
    }
}
