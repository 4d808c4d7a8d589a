//! Ways to homeservers: through a neighbour's relay to the own one, to the address that a description gives, and the keys
//! of a gateway.

use std::{fmt, sync::Arc};

use http::uri::PathAndQuery;
use postern_api::{BoxError, Carried, Gateway, Keys, Limits, Transport};
use postern_protocol::name::Domain;

use super::descriptions::description;
use crate::{
    error::{Error, HomeserverError},
    server::Api,
};

/// The way to the own homeserver through a neighbour's, if that one relays for people of other domains. What fails on it is
/// as passing as what fails on a direct one.
pub(super) struct Hidden {
    pub(super) way: Arc<dyn Transport>,
    pub(super) own: Api,
    pub(super) relay: Domain,
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl Hidden {
    async fn try_carry(
        &self,
        request: http::Request<Vec<u8>>,
        limits: Limits,
    ) -> Result<http::Response<Vec<u8>>, BoxError> {
        let relay = description(&self.own, &self.relay, false).await.map_err(in_the_way)?;
        if !relay.relays_for_others {
            return Err(in_the_way(HomeserverError::NoRelay(self.relay.clone()).into()));
        }
        self.way.carry(request, limits).await
    }
}

impl Transport for Hidden {
    fn apart(&self) -> postern_api::Result<Option<Arc<dyn Transport>>> {
        let Some(way) = self.way.apart()? else { return Ok(None) };
        Ok(Some(Arc::new(Self { way, own: self.own.clone(), relay: self.relay.clone() })))
    }

    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(async move {
            self.try_carry(request, limits).await.map_err(|error| match error.downcast_ref() {
                Some(postern_api::Error::Relay { .. }) => error.to_string().into(),
                _ => error,
            })
        })
    }
}

/// The direct way to a homeserver at the address that its description gives.
pub(super) struct AtBase {
    pub(super) own: Api,
    pub(super) domain: Domain,
    pub(super) direct: Arc<dyn Transport>,
}

impl fmt::Debug for AtBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtBase(…)")
    }
}

impl Transport for AtBase {
    fn apart(&self) -> postern_api::Result<Option<Arc<dyn Transport>>> {
        let Some(direct) = self.direct.apart()? else { return Ok(None) };
        Ok(Some(Arc::new(Self { own: self.own.clone(), domain: self.domain.clone(), direct })))
    }

    fn carry(&self, mut request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(async move {
            let description = description(&self.own, &self.domain, false).await.map_err(in_the_way)?;
            let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let url = format!("{}{target}", description.base_url.trim_end_matches('/'));
            if !url.starts_with("https://") {
                return Err("its description gives no address that can be used".into());
            }
            *request.uri_mut() = url.parse()?;
            self.direct.carry(request, limits).await
        })
    }
}

/// An error that keeps a request from being sent, as the transport hands it on.
fn in_the_way(error: Error) -> BoxError {
    match error {
        Error::Server(error) => error.into(),
        error => postern_api::Error::Unsent(error.into()).into(),
    }
}

/// The gateway of another domain, by its description.
pub(super) struct KnownGateway {
    pub(super) own: Api,
    pub(super) domain: Domain,
}

impl fmt::Debug for KnownGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownGateway(…)")
    }
}

impl KnownGateway {
    fn described(&self, anew: bool) -> Keys<'_> {
        Box::pin(async move {
            let description = description(&self.own, &self.domain, anew).await.map_err(in_the_way)?;
            Ok(description.gateway_keys.into_bytes())
        })
    }
}

impl Gateway for KnownGateway {
    fn keys(&self) -> Keys<'_> {
        self.described(false)
    }

    fn fresh_keys(&self) -> Keys<'_> {
        self.described(true)
    }
}
