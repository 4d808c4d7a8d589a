//! The command line, as a person at a terminal sees it.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use postern_tests_kit::{BadLine, World, befriend, binary, joined};
use tokio::process::Command;

/// Runs a command of somebody, who has a state directory and a server.
async fn run(state: &Path, server: &str, arguments: &[&str]) -> Output {
    Command::new(binary("postern-client"))
        .env_clear()
        .arg("--state")
        .arg(state)
        .args(["--server", server])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn each_message_that_is_said_to_be_kept_is_kept() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let alice = world.person("alice").await;
    let bob = world.person("bob").await;
    let group = alice.create_group("quarry").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    bob.sync(Duration::ZERO).await.unwrap();
    let (home, url) = (alice.directory().to_owned(), line.url());
    drop(alice);

    line.go_away();
    for (message, kept) in [("m1", "The message is kept"), ("m2", "2 messages are kept")] {
        let sent = run(&home, &url, &["send", "quarry", message]).await;
        assert_eq!(sent.status.code(), Some(75), "try again later");
        assert!(text(&sent.stderr).contains(kept), "{}", text(&sent.stderr));
    }
    line.mend();
    let sent = run(&home, &url, &["send", "quarry", "m3"]).await;
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let events = bob.sync(Duration::ZERO).await.unwrap();
    let texts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            postern_client::Event::Message { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn what_others_write_reaches_the_terminal_escaped() {
    let world = World::builder().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "evil\u{1b}[2J\u{202e}\u{9b}31m title").await;
    alice.group_with_id(&group).send("red\u{1b}[31m \u{202e}txet\nalice: forged").await.unwrap();
    let (home, url) = (bob.directory().to_owned(), world.server().url());
    drop(bob);
    let groups = run(&home, url, &["groups"]).await;
    let json = run(&home, url, &["--json", "groups"]).await;
    let followed = run(&home, url, &["follow", "--once"]).await;
    for shown in [&groups, &json, &followed] {
        assert!(shown.status.success(), "{}", text(&shown.stderr));
        let (out, log) = (text(&shown.stdout), text(&shown.stderr));
        let harmless = |character: char| character == '\n' || !character.is_control() && character.is_ascii();
        assert!(out.chars().chain(log.chars()).all(harmless), "{out:?} {log:?}");
        assert!(out.lines().all(|line| !line.starts_with("alice: ")), "{out}");
    }
    assert!(text(&followed.stdout).contains("red\\u{1b}[31m \\u{202e}txet"), "{}", text(&followed.stdout));
    assert!(text(&json.stdout).contains("\\u202e"), "{}", text(&json.stdout));
}

#[tokio::test]
async fn a_server_that_is_spoken_to_in_clear_over_the_network_is_warned_of() {
    let homes = tempfile::tempdir().unwrap();
    for (place, (server, warned)) in [
        ("http://chat.example.org", true),
        ("http://192.0.2.1:8008", true),
        ("https://chat.example.org", false),
        ("http://127.0.0.1:8008", false),
        ("http://localhost:8008", false),
    ]
    .into_iter()
    .enumerate()
    {
        // Nothing of this talks to a server.
        let home = homes.path().join(place.to_string());
        let asked = run(&home, server, &["link-request", "alice@example.org"]).await;
        assert!(asked.status.success(), "{}", text(&asked.stderr));
        assert_eq!(
            text(&asked.stderr).contains("not encrypted"),
            warned,
            "{server}: {}",
            text(&asked.stderr)
        );
    }
}

#[tokio::test]
async fn devices_are_listed_named_and_removed() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await;
    let (home, url) = (alice.directory().to_owned(), world.server().url());
    let keys = [alice.client_key(), laptop.client_key()].map(|key| key.to_base64url());
    drop(alice);
    let listed = async || {
        let listed = run(&home, url, &["devices"]).await;
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        let mut lines: Vec<_> = text(&listed.stdout).lines().map(str::to_owned).collect();
        lines.sort_by_key(|line| line.contains("this one"));
        lines
    };
    let [this, other] = keys.each_ref().map(|key| &key[..8]);
    assert_eq!(listed().await, [other.to_owned(), format!("{this}, this one")]);
    let named = run(&home, url, &["devices", "name", other, "work\u{1b}[2J"]).await;
    assert!(named.status.success(), "{}", text(&named.stderr));
    assert_eq!(listed().await[0], format!("work\\u{{1b}}[2J ({other})"));
    let unknown = run(&home, url, &["devices", "remove", "nothing"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    let removed = run(&home, url, &["devices", "remove", other]).await;
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert_eq!(listed().await, [format!("{this}, this one")]);
}
