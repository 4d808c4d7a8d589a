//! `@cloudflare/privacypass-ts`, unmodified, is a client of ours (AAS-3): `tests/node/privacypass.mjs`.

use std::process::Command;

use postern_tests::in_tree;

use crate::world::Gate;

/// Node with the packages; or why there is none.
fn node() -> Result<Command, String> {
    let directory = in_tree("tests/node");
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !runs(Command::new("node").arg("--version")) {
        return Err("there is no node".to_owned());
    }
    let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    if !directory.join("node_modules").exists()
        && !runs(Command::new("npm").args(install).current_dir(&directory))
    {
        return Err("npm could not install the packages of tests/node".to_owned());
    }
    let mut command = Command::new("node");
    command.arg("privacypass.mjs").current_dir(&directory);
    Ok(command)
}

#[tokio::test]
async fn cloudflares_library_obtains_and_redeems_tokens_of_types_1_and_2() {
    let mut node = match node() {
        Ok(node) => node,
        Err(reason) => return println!("SKIPPED: @cloudflare/privacypass-ts was not tried: {reason}"),
    };
    let gate = Gate::start(1).await;
    let client = gate.client("alice").await;
    let arguments = [gate.servers[0].url(), postern_tests::HOME, &hex::encode(client.seed())];
    let output = node.args(arguments).output().expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
