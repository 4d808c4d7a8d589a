//! `@cloudflare/privacypass-ts`, unmodified, is a client of ours (AAS-3): `tests/node/privacypass.mjs`.

use postern_tests_kit::{World, node};

#[tokio::test]
async fn cloudflares_library_obtains_and_redeems_tokens_of_types_1_and_2() {
    let mut node = node("");
    let gate = World::builder().start().await;
    let client = gate.client("alice").await;
    let arguments = [gate.servers[0].url(), postern_tests_kit::HOME, &hex::encode(client.seed())];
    let output = node.arg("privacypass.mjs").args(arguments).output().expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
