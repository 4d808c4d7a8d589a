//! The command line, as a person at a terminal sees it.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use postern_tests_kit::{BadLine, IdentityProvider, World, befriend, binary, joined};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

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

async fn policy(world: &World, policy: &str) {
    let set = "SELECT operator.set_registration_policy($1)";
    world.admin.execute(set, &[&policy]).await.unwrap();
}

#[tokio::test]
async fn a_name_is_taken_in_its_one_form_and_what_is_none_is_refused_with_its_reason() {
    let world = World::builder().start().await;
    let (home, url) = (world.homes.path().join("somebody"), world.server().url());
    for (name, reason) in [
        ("аlice", "one script"),
        ("al ice", "letters and digits"),
        ("alice😀", "letters and digits"),
        ("", "1 to 64 characters"),
    ] {
        let refused = run(&home, url, &["register", name]).await;
        assert_eq!(refused.status.code(), Some(1), "{name}");
        assert!(text(&refused.stderr).contains(reason), "{name}: {}", text(&refused.stderr));
    }
    let registered = run(&home, url, &["--json", "register", "JOSE\u{301}"]).await;
    assert!(registered.status.success(), "{}", text(&registered.stderr));
    assert!(text(&registered.stdout).contains(r"jos\u00e9@home.example"), "{}", text(&registered.stdout));
    let bob = world.person("bob").await;
    assert_eq!(bob.look_up(&"josé@home.example".parse().unwrap()).await.unwrap().clients.len(), 1);
    world.close();
}

#[tokio::test]
async fn somebody_registers_by_an_invite_and_invites_somebody_else() {
    let world = World::builder().start().await;
    policy(&world, "invite").await;
    world.admin.execute("SELECT operator.set_user_limit('invites_per_user', 1)", &[]).await.unwrap();
    let url = world.server().url();
    let [alice, bob] = ["alice", "bob"].map(|name| world.homes.path().join(name));
    let refused = run(&alice, url, &["register", "alice"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--invite"), "{}", text(&refused.stderr));
    let code: String = world.value("SELECT operator.make_invites()").await;
    let registered = run(&alice, url, &["register", "alice", "--invite", &code.to_uppercase()]).await;
    assert!(registered.status.success(), "{}", text(&registered.stderr));
    let made = run(&alice, url, &["make-invite"]).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    let registered = run(&bob, url, &["register", "bob", "--invite", text(&made.stdout).trim()]).await;
    assert!(registered.status.success(), "{}", text(&registered.stderr));
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_registers_with_a_login_in_a_browser_or_with_a_token_from_elsewhere() {
    let mut provider = IdentityProvider::start();
    let world = World::builder()
        .setting("POSTERN_OIDC_ISSUER", provider.issuer())
        .setting("POSTERN_OIDC_CLIENT_ID", IdentityProvider::CLIENT)
        .start()
        .await;
    policy(&world, "oidc").await;
    let url = world.server().url();
    let [alice, bob] = ["alice", "bob"].map(|name| world.homes.path().join(name));
    let mut child = Command::new(binary("postern-client"))
        .env_clear()
        .arg("--state")
        .arg(&alice)
        .args(["--server", url, "register", "alice", "--sign-in"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let page = loop {
        let line = lines.next_line().await.unwrap().expect("it shows the page");
        if line.trim().starts_with(provider.issuer()) {
            break line.trim().to_owned();
        }
    };
    assert!(provider.open(&page, "subject-1").contains("logged in"));
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{:?}", lines.next_line().await);
    assert!(text(&output.stdout).contains("alice@home.example"), "{}", text(&output.stdout));

    let nonce = run(&bob, url, &["register", "bob", "--print-nonce"]).await;
    let nonce = text(&nonce.stdout).trim().to_owned();
    let file = world.homes.path().join("token");
    std::fs::write(&file, provider.log_in("subject-2", &nonce).as_str()).unwrap();
    let registered = run(&bob, url, &["register", "bob", "--id-token", file.to_str().unwrap()]).await;
    assert!(registered.status.success(), "{}", text(&registered.stderr));
    // It was made for that device: elsewhere it is worth nothing.
    let thief = world.homes.path().join("thief");
    let refused = run(&thief, url, &["register", "mallory", "--id-token", file.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another nonce"), "{}", text(&refused.stderr));
    world.close();
}
