//! Homeservers of other domains: this device reaches them through its own one, which is the relay and learns nothing of
//! what is said, and pays with tokens of theirs, which it gets through its own one, too (FED-5). Every call of [`Api`]
//! works there as at home.

mod compare;
mod descriptions;
mod reach;
mod restores;
mod ways;

use std::sync::Arc;

use postern_api::{Direct, Http, Relayed, Side};
use postern_protocol::{
    name::Domain,
    problem::{Problem, ProblemType},
};

pub(crate) use self::{
    compare::{compare_keys, own_key, was_told},
    descriptions::{description, forget, is_known},
    reach::{Reach, noted},
    restores::{forget_restores, look_for_restores, restored},
};
use self::{
    reach::Watched,
    ways::{AtBase, Hidden, KnownGateway},
};
use crate::{error::Result, server::Api, tokens::Wallet};

/// The endpoints of a domain's homeserver. `api` is any homeserver's, of the same client.
///
/// # Errors
/// [`postern_api::Error::Relay`], as for one that is away, where the domain is the host of no URL: a label such as `xn--a`
/// is punycode of nothing.
pub(crate) fn api_for(api: &Api, domain: &Domain) -> Result<Api> {
    let own = api.wallet.own().unwrap_or(api);
    if own.origin == *domain {
        return Ok(own.clone());
    }
    let wallet = Wallet::elsewhere(own, domain);
    let gateway = Arc::new(KnownGateway { own: own.clone(), domain: domain.clone() });
    let relayed = Relayed::new(own.clone(), domain.clone(), gateway);
    let way = Watched { way: Arc::new(relayed), reach: wallet.reach(), own: own.http.clone() };
    let http = Http::through(&format!("https://{domain}"), way).map_err(|_| nowhere())?;
    Ok(Api::new(http, domain.clone(), wallet))
}

/// The error of a domain that nobody can be at. Others choose the domains that this client is to ask.
fn nowhere() -> postern_api::Error {
    let problem = Problem::with_detail(ProblemType::HomeserverUnknown, "its domain is the name of no host");
    postern_api::Error::Relay { side: Side::Pipe, problem }
}

/// The own homeserver through the relay of a neighbour's, which hides this client's address from it (FED-7). The
/// neighbour's tokens come through the own one, its keys and its address from its description; the own one's keys are
/// those that the neighbour sees, and so no other than everybody has.
///
/// # Errors
/// [`postern_api::Error::BadServerAddress`].
pub(crate) fn through(own: &Api, relay: &Domain, server: Option<&str>) -> Result<Api> {
    let wallet = Wallet::elsewhere(own, relay);
    let http = match server {
        Some(server) => Http::new(server)?,
        None => {
            let way = AtBase { own: own.clone(), domain: relay.clone(), direct: Arc::new(Direct::new()?) };
            Http::through(&format!("https://{relay}"), way)?
        }
    };
    let relay = Api::new(http, relay.clone(), wallet);
    let gateway = Arc::new(KnownGateway { own: relay.clone(), domain: own.origin.clone() });
    let (own, domain) = (own.clone(), relay.origin.clone());
    let way = Arc::new(Relayed::new(relay, own.origin.clone(), gateway));
    let hidden = Hidden { way, own: own.clone(), relay: domain };
    Ok(Api { http: Http::through(own.http.server(), hidden)?, ..own })
}

#[cfg(test)]
mod tests {
    use postern_protocol::{
        Payload,
        aas::IssuerDirectory,
        federation::{Description, KeySignature, ServerKey, VERSION},
        key::SigningKey,
    };

    use std::path::Path;

    use super::*;
    use crate::{options::Options, store::Store, tokens::Owner};

    pub(super) fn domain() -> Domain {
        "x.example".parse().unwrap()
    }

    /// The way to an own homeserver that is nowhere.
    pub(super) fn api_of_nobody(home: &Path) -> Api {
        let store = Arc::new(Store::create(home, &Options::default()).unwrap());
        let own: Domain = "home.example".parse().unwrap();
        let (http, client_key) = (Http::new("http://127.0.0.1:1").unwrap(), SigningKey::generate());
        let owner = Owner { domain: own.clone(), client_key };
        let wallet = Wallet::new(store, http.clone(), http.clone(), owner);
        Api::new(http, own, wallet)
    }

    /// A description signed by the last of these keys, each endorsed by the one before, issued so many seconds from `now`.
    pub(super) fn described(keys: &[&SigningKey], now: u64, later: u64) -> Vec<u8> {
        described_with(keys, now, later, |_| {})
    }

    /// Makes a description as [`described`] does, changed before it is signed.
    pub(super) fn described_with(
        keys: &[&SigningKey],
        now: u64,
        later: u64,
        change: impl FnOnce(&mut Description),
    ) -> Vec<u8> {
        let own = keys.iter().enumerate().map(|(place, key)| ServerKey {
            public_key: key.public_key(),
            not_before: 0,
            not_after: now + 1_000_000,
            endorsement: place
                .checked_sub(1)
                .map(|before| KeySignature::endorse(&domain(), key.public_key(), keys[before])),
        });
        let mut description = Description {
            domain: domain(),
            versions: vec![VERSION],
            base_url: "https://x.example".to_owned(),
            keys: own.rev().collect(),
            revoked: Vec::new(),
            gateway_keys: Payload::new(vec![7]),
            issuer: IssuerDirectory { issuer_request_uri: "/x".to_owned(), token_keys: Vec::new() },
            relays_for_others: true,
            generation: 0,
            issued: now + later,
            expires: now + 1000,
            signatures: Vec::new(),
        };
        change(&mut description);
        description.sign(keys.last().unwrap());
        serde_json::to_vec(&description).unwrap()
    }

    #[test]
    fn a_domain_that_is_the_name_of_no_host_is_out_of_reach() {
        let home = tempfile::tempdir().unwrap();
        let api = api_of_nobody(home.path());
        assert!(api_for(&api, &domain()).is_ok());
        let error = api_for(&api, &"xn--a.example".parse().unwrap()).err().expect("nobody can be there");
        assert!(error.another_is_away() && !error.server_is_away(), "{error}");
    }
}
