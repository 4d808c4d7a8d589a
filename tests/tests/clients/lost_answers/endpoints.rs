//! Each endpoint that clients call, and the test in which it loses its answers.

use std::collections::BTreeSet;

use postern_server::routes;

/// The tests of this folder.
const HERE: &str = concat!(
    include_str!("account.rs"),
    include_str!("groups.rs"),
    include_str!("messages.rs"),
    include_str!("now_and_then.rs"),
    include_str!("people.rs"),
    include_str!("registration.rs"),
);

const LINKING: &str = include_str!("../linking.rs");
const ACROSS: &str = include_str!("../../federation/lost_answers.rs");

/// Each endpoint that clients call, the name by which a test loses its answers, and that test with its file.
const LOST: [(&str, &str, (&str, &str)); 47] = [
    (
        "POST /ds/groups/{group_id}/messages",
        "/messages",
        (HERE, "changes_of_a_group_whose_answers_are_lost_are_made_once"),
    ),
    (
        "POST /qs/queues/{queue_id}/dequeue",
        "/dequeue",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /ds/group-ids",
        "POST /ds/group-ids",
        (HERE, "a_group_whose_founding_has_no_answer_is_founded_once"),
    ),
    ("POST /ds/groups", "POST /ds/groups ", (HERE, "a_group_whose_founding_has_no_answer_is_founded_once")),
    (
        "DELETE /ds/groups/{group_id}",
        "DELETE /ds/groups/",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /ds/groups/{group_id}/group-info",
        "/group-info",
        (HERE, "who_comes_back_is_back_though_answers_were_lost"),
    ),
    (
        "POST /ds/groups/{group_id}/welcome-tree",
        "/welcome-tree",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    ("POST /qs/queues", "POST /qs/queues ", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    (
        "POST /qs/queues/{queue_id}/addresses",
        "/addresses ",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/addresses/revoke",
        "/addresses/revoke",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/addresses/push",
        "/addresses/push",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "PUT /qs/queues/{queue_id}/push-subscription",
        "/push-subscription",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/keys",
        "/keys ",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/delete",
        "/delete ",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "POST /qs/deposits",
        "POST /qs/deposits",
        (HERE, "a_first_contact_comes_about_though_answers_were_lost"),
    ),
    (
        "PUT /qs/key-packages",
        "PUT /qs/key-packages",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "POST /qs/key-packages/fetch",
        "POST /qs/key-packages/fetch",
        (HERE, "a_first_contact_comes_about_though_answers_were_lost"),
    ),
    (
        "POST /qs/key-packages/count",
        "/key-packages/count",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /qs/key-packages/remove",
        "/key-packages/remove",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "POST /qs/key-packages/rotate",
        "/key-packages/rotate",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "GET /as/users/{name}",
        "GET /as/users/",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /as/credentials",
        "POST /as/credentials",
        (HERE, "a_device_is_added_once_though_answers_were_lost"),
    ),
    (
        "POST /as/eid/commits",
        "POST /as/eid/commits",
        (HERE, "a_device_is_added_once_though_answers_were_lost"),
    ),
    ("PUT /as/contact", "PUT /as/contact", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    (
        "GET /as/users/{name}/picture",
        "/picture ",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/profile",
        "PUT /as/profile",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "POST /as/invites",
        "POST /as/invites",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/account/name",
        "PUT /as/account/name",
        (HERE, "a_user_is_renamed_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/account/recovery-key",
        "PUT /as/account/recovery-key",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    ("DELETE /as/account", "DELETE /as/account", (HERE, "an_account_is_deleted_though_answers_were_lost")),
    (
        "GET /homeservers/{domain}",
        "GET /homeservers/b.example",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "POST /relay/{domain}",
        "POST /relay/b.example ",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "POST /relay/{domain}/token-request",
        "POST /relay/b.example/token-request",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "GET /.well-known/postern",
        "GET /.well-known/postern",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    ("POST /rendezvous", "POST /rendezvous ", (LINKING, "the_old_device_goes_on_whichever_answer_was_lost")),
    ("POST /rendezvous/{number}/join", "/join", (LINKING, "the_new_device_goes_on_once_the_two_have_agreed")),
    (
        "POST /rendezvous/{number}/payloads",
        "/payloads",
        (LINKING, "the_old_device_goes_on_whichever_answer_was_lost"),
    ),
    (
        "POST /rendezvous/{number}/receive",
        "/receive",
        (LINKING, "the_old_device_goes_on_whichever_answer_was_lost"),
    ),
    (
        "DELETE /rendezvous/{number}",
        "DELETE /rendezvous/",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /as/users",
        "POST /as/users",
        (HERE, "a_registration_whose_answer_was_lost_is_taken_up_with_the_same_key"),
    ),
    (
        "GET /as/registration",
        "GET /as/registration",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /as/account/end",
        "POST /as/account/end",
        (HERE, "an_identity_is_begun_anew_once_though_answers_were_lost"),
    ),
    (
        "POST /as/account/reset",
        "POST /as/account/reset",
        (HERE, "an_identity_is_begun_anew_once_though_answers_were_lost"),
    ),
    ("GET /as/keys", "GET /as/keys", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    ("GET /qs/keys", "GET /qs/keys", (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer")),
    (
        "POST /aas/token-request",
        "POST /aas/token-request",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "GET /.well-known/private-token-issuer-directory",
        "GET /.well-known/private-token-issuer-directory",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
];

/// Endpoints that the client library does not call by itself: of homeservers among themselves, of people who read, and of
/// machines that look whether a server is there.
const OF_OTHERS: [&str; 6] = [
    "POST /qs/deliveries",
    "POST /gateway",
    "POST /homeservers",
    "GET /problems/{slug}",
    "GET /health",
    "GET /ready",
];

#[test]
fn each_endpoint_that_clients_call_loses_its_answers_in_a_test() {
    let routes: BTreeSet<String> =
        routes::all().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let listed: BTreeSet<String> =
        LOST.iter().map(|(route, ..)| *route).chain(OF_OTHERS).map(str::to_owned).collect();
    assert_eq!(listed, routes, "each endpoint is in LOST or in OF_OTHERS");
    assert_eq!(listed.len(), LOST.len() + OF_OTHERS.len(), "and once");
    for (route, named, (file, test)) in LOST {
        // As a request's first line has it.
        let line = route.replace("{domain}", "b.example").replace(['{', '}'], "") + " HTTP/1.1";
        assert!(line.contains(named), "{named} is in {line}");
        let body =
            file.split(&format!("async fn {test}()")).nth(1).unwrap_or_else(|| panic!("no test {test}"));
        let body = body.split("\n}\n").next().expect("it has an end");
        assert!(body.contains(&format!("\"{named}\"")), "{test} loses answers to {named}");
    }
}
