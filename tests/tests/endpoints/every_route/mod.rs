//! Every route keeps these rules. The list of routes is the server's own: a new endpoint has no [`Valid`] request
//! here, and every test in this folder says so until it gets one.

mod body;
mod browser;
mod mutation;
mod payment;
mod replay;
mod signature;
mod target;

use ciborium::Value;
use postern_protocol::problem::ProblemType;
use postern_server::{app::App, http::Route, routes};
use postern_tests_kit::{Call, World};
use reqwest::{Method, StatusCode};

use crate::{aas, auth, ds, federation, health, qs, rendezvous};

/// A request that the server accepts, with facts about similar ones that it refuses.
pub struct Valid {
    /// Without a token.
    pub call: Call,
    pub status: StatusCode,
    /// The same signed by a key that has no right to it; absent where every key has.
    pub stranger: Option<ProblemType>,
    /// Fields that are byte strings, and the problem when one is cut by a byte.
    pub cut: Vec<(&'static str, ProblemType)>,
    /// Fields that may be absent.
    pub optional: &'static [&'static str],
    /// The problem of a body that does not decode; absent where nobody looks into it.
    pub malformed: Option<ProblemType>,
    /// Other targets: well-formed ones of things that do not exist or are elsewhere, and malformed ones.
    pub targets: Vec<(String, ProblemType)>,
}

impl Valid {
    pub fn new(call: Call, status: StatusCode) -> Self {
        let has_fields = call.content_type == Some("application/cbor");
        let malformed =
            Some(if has_fields { ProblemType::MalformedBody } else { ProblemType::InvalidTokenRequest });
        let (cut, targets) = (Vec::new(), Vec::new());
        Self { call, status, stranger: None, cut, optional: &[], malformed, targets }
    }
}

/// A valid request, and the route it takes.
struct Entry {
    name: String,
    paid: bool,
    /// Its name in the price list.
    endpoint: Option<&'static str>,
    /// Bytes of the largest body.
    max_body: usize,
    valid: Valid,
}

impl Entry {
    fn has_fields(&self) -> bool {
        self.valid.call.content_type == Some("application/cbor")
    }

    /// The valid request, with a token where one is asked for.
    fn paid(&self, world: &World) -> Call {
        self.with(world, self.valid.call.clone())
    }

    /// A request made of the valid one, with a token where one is asked for.
    fn with(&self, world: &World, call: Call) -> Call {
        if self.paid { call.paid_with(world.token()) } else { call }
    }

    /// The valid request is accepted, after all.
    async fn assert_accepted(&self, world: &World) {
        let reply = world.send(&self.paid(world).wire()).await;
        assert_eq!(reply.status, self.valid.status, "{}: {reply:?}", self.name);
    }
}

/// A valid request for every route, or several where requests differ.
async fn every_request(world: &World) -> Vec<Entry> {
    // For what they are made of, and for sending each of them a few times.
    world.stock(200).await;
    let mut entries = Vec::new();
    for route in routes::all() {
        let endpoint = route.is_paid().then_some(route.name);
        let max_body = route.max_body(body::LIMIT as u64) as usize;
        for (number, valid) in valid_requests(world, &route).await.into_iter().enumerate() {
            let name = format!("{} {} ({number})", route.method, route.path);
            entries.push(Entry { name, paid: endpoint.is_some(), endpoint, max_body, valid });
        }
    }
    entries
}

async fn valid_requests(world: &World, route: &Route<App>) -> Vec<Valid> {
    match (route.method.as_str(), route.path) {
        ("POST", "/ds/groups/{group_id}/messages") => ds::submit_message::valid(world).await,
        ("POST", "/qs/queues/{queue_id}/dequeue") => vec![qs::dequeue::valid(world).await],
        ("DELETE", "/ds/groups/{group_id}") => vec![ds::delete_group::valid(world).await],
        ("POST", "/ds/groups/{group_id}/group-info") => vec![ds::fetch_group_info::valid(world).await],
        ("POST", "/ds/groups/{group_id}/welcome-tree") => vec![ds::fetch_welcome_tree::valid(world).await],
        ("POST", "/ds/group-ids") => vec![ds::reserve_group_id::valid()],
        ("POST", "/ds/groups") => vec![ds::create_group::valid(world).await],
        ("POST", "/qs/queues") => vec![qs::create_queue::valid()],
        ("POST", "/qs/queues/{queue_id}/addresses") => vec![qs::add_addresses::valid(world).await],
        ("POST", "/qs/queues/{queue_id}/addresses/revoke") => vec![qs::revoke_addresses::valid(world).await],
        ("POST", "/qs/queues/{queue_id}/addresses/push") => vec![qs::set_push_policy::valid(world).await],
        ("PUT", "/qs/queues/{queue_id}/push-subscription") => vec![qs::subscribe_push::valid(world).await],
        ("POST", "/qs/queues/{queue_id}/keys") => qs::rotate_keys::valid(world).await,
        ("POST", "/qs/queues/{queue_id}/delete") => vec![qs::delete_queue::valid(world).await],
        ("POST", "/qs/deposits") => vec![qs::deposit::valid(world).await],
        ("POST", "/qs/deliveries") => vec![qs::receive_deliveries::valid(world).await],
        ("PUT", "/qs/key-packages") => vec![qs::publish_key_packages::valid()],
        ("POST", "/qs/key-packages/fetch") => vec![qs::fetch_key_packages::valid(world).await],
        ("POST", "/qs/key-packages/count") => vec![qs::count_key_packages::valid(world).await],
        ("POST", "/qs/key-packages/remove") => vec![qs::remove_key_packages::valid(world).await],
        ("POST", "/qs/key-packages/rotate") => vec![qs::rotate_friendship_token::valid(world).await],
        ("GET", "/qs/keys") => vec![qs::published_keys::valid()],
        ("GET", "/as/users/{name}") => vec![auth::look_up_user::valid(world).await],
        ("POST", "/as/credentials") => vec![auth::sign_credential::valid(world).await],
        ("POST", "/as/eid/commits") => vec![auth::commit_identity::valid(world).await],
        ("PUT", "/as/contact") => vec![auth::publish_contact::valid(world).await],
        ("PUT", "/as/profile") => vec![auth::put_profile::valid(world).await],
        ("GET", "/as/users/{name}/picture") => vec![auth::put_profile::valid_picture(world).await],
        ("POST", "/as/invites") => vec![auth::make_invite::valid(world).await],
        ("GET", "/as/registration") => vec![auth::registration_terms::valid()],
        ("PUT", "/as/account/name") => vec![auth::rename_user::valid(world).await],
        ("PUT", "/as/account/recovery-key") => vec![auth::replace_recovery_key::valid(world).await],
        ("DELETE", "/as/account") => vec![auth::delete_account::valid(world).await],
        ("POST", "/as/account/end") => vec![auth::reset_account::valid_end(world).await],
        ("POST", "/as/account/reset") => vec![auth::reset_account::valid(world).await],
        ("POST", "/rendezvous") => vec![rendezvous::create_rendezvous::valid()],
        ("POST", "/rendezvous/{number}/join") => vec![rendezvous::join_rendezvous::valid(world).await],
        ("POST", "/rendezvous/{number}/payloads") => rendezvous::leave_payload::valid(world).await,
        ("POST", "/rendezvous/{number}/receive") => rendezvous::receive_payloads::valid(world).await,
        ("DELETE", "/rendezvous/{number}") => rendezvous::end_rendezvous::valid(world).await,
        ("POST", "/as/users") => vec![auth::register_user::valid()],
        ("GET", "/as/keys") => vec![auth::published_keys::valid()],
        ("POST", "/aas/token-request") => vec![aas::issue_tokens::valid(world).await],
        ("GET", "/.well-known/private-token-issuer-directory") => vec![aas::issuer_directory::valid()],
        ("GET", "/.well-known/postern") => vec![federation::describe_server::valid()],
        ("GET", "/homeservers/{domain}") => vec![federation::show_homeserver::valid(world).await],
        ("POST", "/homeservers") => vec![federation::introduce_server::valid(world).await],
        ("POST", "/gateway") => vec![federation::open_request::valid(world).await],
        ("POST", "/relay/{domain}") => vec![federation::relay_request::valid(world).await],
        ("POST", "/relay/{domain}/token-request") => {
            vec![federation::relay_token_request::valid(world).await]
        }
        ("GET", "/problems/{slug}") => vec![health::explanation()],
        ("GET", "/health") => vec![health::valid()],
        ("GET", "/ready") => vec![health::readiness()],
        (method, path) => panic!("{method} {path} has no valid request in this table"),
    }
}

#[tokio::test]
async fn every_route_accepts_a_valid_request_in_cbor_and_in_json() {
    let world = World::start().await;
    for in_json in [false, true] {
        for entry in every_request(&world).await {
            let call = entry.paid(&world);
            let call = if in_json && entry.has_fields() { call.in_json() } else { call };
            let reply = world.send(&call.wire()).await;
            assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
            if entry.has_fields() && !reply.body.is_empty() {
                assert_eq!(Some(reply.content_type()), call.content_type, "{}", entry.name);
            }
        }
    }
    world.close();
}

#[tokio::test]
async fn an_answer_comes_in_the_encoding_that_is_asked_for() {
    let world = World::start().await;
    let mut answers = 0;
    for media_type in ["application/json", "application/cbor"] {
        for entry in every_request(&world).await {
            let reply = world.send(&entry.paid(&world).accepting(media_type).wire()).await;
            assert_eq!(reply.status, entry.valid.status, "{}: {reply:?}", entry.name);
            if matches!(reply.content_type(), "application/json" | "application/cbor") {
                assert_eq!(reply.content_type(), media_type, "{}", entry.name);
                let _: Value = reply.decode();
                answers += 1;
            }
        }
    }
    assert!(answers > 15, "{answers}");
    world.close();
}

/// The methods that the routes of this path take.
fn methods(path: &str) -> Vec<Method> {
    let of_path = routes::all().into_iter().filter(|route| route.path == path);
    of_path.flat_map(|route| route.methods().collect::<Vec<_>>()).collect()
}
