//! `GET /homeservers/{domain}?fresh=true` (FED-1): answers with the description of another domain's homeserver, byte for
//! byte, so that a client verifies it as this server did. A client that is known to nobody elsewhere learns so where that
//! homeserver is, and its keys. All clients are shown the same on one day: keys that were made for one of them would tell
//! that homeserver which requests are this one's.

use http::StatusCode;
use postern_protocol::{Payload, federation::HomeserverShown};

use super::{
    Federation,
    discovery::{DiscoveryError, Found},
};
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub ShowHomeserverOutcome: "federation.show_homeserver_outcome", paid {
        Kept = "kept",
        Due = "due",
        Failing = "failing",
        Blocked = "blocked",
        TooMany = "too_many",
    }
}

pub async fn show_homeserver(federation: Federation, mut request: Request, payment: Payment) -> Outcome {
    let domain = federation.other_domain(&request)?;
    let fresh = request.query_value("fresh", |value| (value == "true").then_some(()))?.is_some();
    let mut place = federation.place(&federation.relay, &domain, &mut request).await?;
    let (_, row) = payment
        .call::<ShowHomeserverOutcome>(
            &federation.home.database,
            "SELECT outcome, description, trusted, distrusted FROM federation.show_homeserver($1, $2, $3, $4)",
            &[&domain.as_str(), &fresh],
        )
        .await?;
    let found = Found::of(&row).map_err(Failure::fault)?.asked_by(request.source()).fresh(fresh);
    let shown = async {
        federation.discover(&domain, found).await?;
        let sql = "SELECT federation.choose_description($1, $2)";
        let row = federation.home.database.query_one(sql, &[&domain.as_str(), &fresh]).await?;
        let description: Option<Vec<u8>> = row.get(0);
        description.ok_or_else(|| Failure::from(DiscoveryError::Unsteady))
    };
    let description = federation.relayed(&mut request, &mut place, shown).await?;
    request.answer(StatusCode::OK, &HomeserverShown { description: Payload::new(description) })
}
