//! The routes of the server, one line each, with name and door: `paid` endpoints ask for a token, `open` ones are the
//! exceptions that AAS-1 names, and a rendezvous, which was paid for when it was made (AS-7). Through the gateway, which is
//! an `enclosing` one, the paid and the `published` ones are there (FED-5). The bodies of `large` ones may be as large as
//! the operator lets any be, those `of_homeservers` as large as the protocol says; in those of `sealed` ones is another
//! request. Those of `admitting` ones are read once their signers are admitted.

use http::Method;
use postern_protocol::{
    account::{EndIdentity, ResetAccount},
    auth::RegisterUser,
    federation::Deliveries,
    profile::PutProfile,
};

use crate::{
    aas, about,
    app::App,
    auth, ds, federation,
    http::{Door, Route},
    qs, rendezvous,
};

macro_rules! open {
    ($method:ident $path:literal $service:ident::$endpoint:ident) => {
        Route::<App>::new(
            concat!(stringify!($service), ".", stringify!($endpoint)),
            Method::$method,
            $path,
            Door::Open(|app: &App, request| {
                Box::pin($service::$endpoint::$endpoint(app.$service.clone(), request))
            }),
        )
    };
}

macro_rules! enclosing {
    ($method:ident $path:literal $service:ident::$endpoint:ident) => {
        Route::<App>::new(
            concat!(stringify!($service), ".", stringify!($endpoint)),
            Method::$method,
            $path,
            Door::Enclosing(|app: &App, request| {
                Box::pin($service::$endpoint::$endpoint(app.$service.clone(), request))
            }),
        )
    };
}

macro_rules! paid {
    ($method:ident $path:literal $service:ident::$endpoint:ident) => {
        paid!($method $path $service::$endpoint calls $endpoint)
    };
    ($method:ident $path:literal $service:ident::$endpoint:ident calls $function:ident) => {
        Route::<App>::new(
            concat!(stringify!($service), ".", stringify!($function)),
            Method::$method,
            $path,
            Door::Paid(|app: &App, request, payment| {
                Box::pin($service::$endpoint::$endpoint(app.$service.clone(), request, payment))
            }),
        )
    };
}

pub fn all() -> Vec<Route<App>> {
    vec![
        paid!(POST "/ds/groups/{group_id}/messages" ds::submit_message).large(),
        paid!(POST "/qs/queues/{queue_id}/dequeue" qs::dequeue),
        paid!(POST "/ds/group-ids" ds::reserve_group_id),
        paid!(POST "/ds/groups" ds::create_group).large(),
        paid!(DELETE "/ds/groups/{group_id}" ds::delete_group),
        paid!(POST "/ds/groups/{group_id}/group-info" ds::fetch_group_info),
        paid!(POST "/ds/groups/{group_id}/welcome-tree" ds::fetch_welcome_tree),
        paid!(POST "/qs/queues" qs::create_queue),
        paid!(POST "/qs/queues/{queue_id}/addresses" qs::add_addresses).large(),
        paid!(POST "/qs/queues/{queue_id}/addresses/revoke" qs::revoke_addresses).large(),
        paid!(POST "/qs/queues/{queue_id}/addresses/push" qs::set_push_policy).large(),
        paid!(PUT "/qs/queues/{queue_id}/push-subscription" qs::subscribe_push),
        paid!(POST "/qs/queues/{queue_id}/keys" qs::rotate_keys),
        paid!(POST "/qs/queues/{queue_id}/delete" qs::delete_queue),
        paid!(POST "/qs/deposits" qs::deposit),
        paid!(POST "/qs/deliveries" qs::receive_deliveries).of_homeservers(Deliveries::MOST_BYTES).admitting(
            |app: &App, signer, _| Box::pin(qs::receive_deliveries::admit(app.qs.clone(), signer)),
        ),
        paid!(PUT "/qs/key-packages" qs::publish_key_packages).large(),
        paid!(POST "/qs/key-packages/fetch" qs::fetch_key_packages),
        paid!(POST "/qs/key-packages/count" qs::count_key_packages),
        paid!(POST "/qs/key-packages/remove" qs::remove_key_packages),
        paid!(POST "/qs/key-packages/rotate" qs::rotate_friendship_token),
        paid!(GET "/as/users/{name}" auth::look_up_user),
        paid!(POST "/as/credentials" auth::sign_credential calls store_credential),
        paid!(POST "/as/eid/commits" auth::commit_identity).large(),
        paid!(PUT "/as/contact" auth::publish_contact),
        paid!(GET "/as/users/{name}/picture" auth::fetch_picture),
        paid!(PUT "/as/profile" auth::put_profile).at_most(PutProfile::MAX_BYTES),
        paid!(POST "/as/invites" auth::make_invite),
        paid!(PUT "/as/account/name" auth::rename_user).large(),
        paid!(PUT "/as/account/recovery-key" auth::replace_recovery_key),
        paid!(DELETE "/as/account" auth::delete_account),
        paid!(GET "/homeservers/{domain}" federation::show_homeserver),
        paid!(POST "/relay/{domain}" federation::relay_request).sealed(),
        paid!(POST "/relay/{domain}/token-request" federation::relay_token_request).direct(),
        paid!(POST "/rendezvous" rendezvous::create_rendezvous),
        open!(POST "/rendezvous/{number}/join" rendezvous::join_rendezvous),
        open!(POST "/rendezvous/{number}/payloads" rendezvous::leave_payload),
        open!(POST "/rendezvous/{number}/receive" rendezvous::receive_payloads),
        open!(DELETE "/rendezvous/{number}" rendezvous::end_rendezvous),
        open!(POST "/as/users" auth::register_user).at_most(RegisterUser::MAX_BYTES),
        open!(GET "/as/registration" auth::registration_terms),
        open!(POST "/as/account/end" auth::end_identity).at_most(EndIdentity::MAX_BYTES),
        open!(POST "/as/account/reset" auth::reset_account).at_most(ResetAccount::MAX_BYTES),
        enclosing!(POST "/gateway" federation::open_request).sealed().admitting(
            |app: &App, signer, source| {
                Box::pin(federation::open_request::admit(app.federation.clone(), signer, source))
            },
        ),
        open!(POST "/homeservers" federation::introduce_server),
        open!(GET "/as/keys" auth::published_keys).published(),
        open!(GET "/qs/keys" qs::published_keys).published(),
        open!(POST "/aas/token-request" aas::issue_tokens),
        open!(GET "/.well-known/private-token-issuer-directory" aas::issuer_directory).published(),
        open!(GET "/.well-known/postern" federation::describe_server).published(),
        open!(GET "/problems/{slug}" about::explain_problem),
        open!(GET "/health" about::health),
        open!(GET "/ready" about::ready),
    ]
}
