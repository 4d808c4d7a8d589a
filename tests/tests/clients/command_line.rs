//! The command line, as a person at a terminal sees it.

use std::{
    io::ErrorKind,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use postern_protocol::encoding::Encoding;
use postern_tests_kit::{BadLine, IdentityProvider, World, befriend, binary, joined};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

/// A command of somebody with a state directory and a server, whose output is read.
fn command(state: &Path, server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("postern-client"));
    command.env_clear().arg("--state").arg(state).args(["--server", server]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command.
async fn run(state: &Path, server: &str, arguments: &[&str]) -> Output {
    command(state, server, arguments).output().await.unwrap()
}

/// The same, with something on stdin. A program that refuses before it reads leaves that unread.
async fn run_with(state: &Path, server: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = command(state, server, arguments).stdin(Stdio::piped()).spawn().unwrap();
    if let Err(error) = child.stdin.take().unwrap().write_all(input.as_bytes()).await {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    child.wait_with_output().await.unwrap()
}

/// The same, with a login in a browser by this subject.
async fn run_signed_in(
    state: &Path,
    server: &str,
    arguments: &[&str],
    provider: &mut IdentityProvider,
    subject: &str,
) -> Output {
    let mut child = command(state, server, arguments).arg("--sign-in").kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let page = loop {
        let line = lines.next_line().await.unwrap().expect("it shows the page");
        if line.trim().starts_with(provider.issuer()) {
            break line.trim().to_owned();
        }
    };
    assert!(provider.open(&page, subject).contains("logged in"));
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.extend_from_slice(line.as_bytes());
        rest.push(b'\n');
    }
    Output { stderr: rest, ..child.wait_with_output().await.unwrap() }
}

/// The output of a command that does its work.
#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The reason that a command gives which does not.
#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
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
    assert!(refused(&run(&home, url, &["devices", "remove", this]).await).contains("cannot remove itself"));

    // One that was added and never came.
    let tablet = world.homes.path().join("tablet");
    let request = done(&run(&tablet, url, &["link-request", "alice@home.example"]).await);
    done(&run_with(&home, url, &["link-approve"], &request).await);
    let pending = listed().await[0].clone();
    assert!(pending.ends_with(", was added and did not confirm it"), "{pending}");
    done(&run(&home, url, &["devices", "remove", pending.split(',').next().unwrap()]).await);
    assert_eq!(listed().await, [format!("{this}, this one")]);

    // The history has all of it: two were added, one of them confirmed that, both were removed.
    let audited = done(&run(&home, url, &["devices", "audit"]).await);
    assert_eq!(
        audited,
        format!("alice@home.example: the history holds. Begun by {this}, resets: 0, changes: 5\n")
    );
    let bob = world.person("bob").await;
    let home = bob.directory().to_owned();
    drop(bob);
    let audited = done(&run(&home, url, &["--json", "devices", "audit", "alice@home.example"]).await);
    assert!(audited.contains("\"changes\":5"), "{audited}");
    let unknown = run(&home, url, &["devices", "audit", "nobody@home.example"]).await;
    assert!(refused(&unknown).contains("nobody here has that name"), "{}", text(&unknown.stderr));
}

#[tokio::test]
async fn a_device_that_logs_out_says_what_becomes_of_it() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let phone = world.person("alice").await;
    let tablet = world.device(&phone, "tablet").await;
    let (url, bad_url) = (world.server().url(), line.url());
    let [of_phone, of_tablet] = [&phone, &tablet].map(|client| client.directory().to_owned());
    let key = tablet.client_key().to_base64url();
    drop((phone, tablet));

    line.go_away();
    let waits = run(&of_tablet, &bad_url, &["log-out"]).await;
    assert_eq!(waits.status.code(), Some(75), "try again later");
    assert!(
        text(&waits.stderr).contains(&format!("`devices remove {}`", &key[..8])),
        "{}",
        text(&waits.stderr)
    );
    line.mend();
    let out = run(&of_tablet, &bad_url, &["log-out"]).await;
    done(&out);
    assert!(text(&out.stderr).contains("other devices were told"), "{}", text(&out.stderr));
    assert!(!of_tablet.exists(), "nothing is left here");

    done(&run(&of_phone, url, &["follow", "--once"]).await);
    assert_eq!(done(&run(&of_phone, url, &["devices"]).await).lines().count(), 1);
    let out = run(&of_phone, url, &["log-out"]).await;
    done(&out);
    assert!(text(&out.stderr).contains("`reset`"), "{}", text(&out.stderr));
    world.close();
}

/// The words that `register` or `recovery-key` shows.
fn words_in(shown: &str) -> String {
    let words = shown.lines().find_map(|line| line.strip_prefix("Recovery key: "));
    words.unwrap_or_else(|| panic!("no words in {shown}")).to_owned()
}

#[tokio::test]
async fn an_account_is_renamed_reset_and_deleted_by_the_words_that_were_written_down() {
    let world = World::builder().start().await;
    let url = world.server().url();
    let [phone, tablet] = ["phone", "tablet"].map(|name| world.homes.path().join(name));
    let first = words_in(&done(&run(&phone, url, &["register", "alice"]).await));
    world.person("bob").await;
    assert!(refused(&run(&phone, url, &["recovery-key"]).await).contains("--replace"));
    let other = "abandon ".repeat(23) + "art";
    for (arguments, state) in [
        (&["recovery-key", "--replace"][..], &phone),
        (&["rename", "alicia"], &phone),
        (&["delete-account"], &phone),
        (&["reset", "alice"], &tablet),
    ] {
        let mistyped = refused(&run_with(state, url, arguments, "abandon art").await);
        assert!(mistyped.contains("24 words"), "{arguments:?}: {mistyped}");
        let wrong = refused(&run_with(state, url, arguments, &other).await);
        assert!(
            wrong.contains("second proof is wrong") && wrong.contains("--sign-in"),
            "{arguments:?}: {wrong}"
        );
        let login = refused(&run(state, url, &[arguments, &["--sign-in"]].concat()).await);
        assert!(login.contains("no identity provider"), "{arguments:?}: {login}");
    }
    let words = words_in(&done(&run_with(&phone, url, &["recovery-key", "--replace"], &first).await));
    assert_ne!(words, first);
    let stale = refused(&run_with(&phone, url, &["rename", "alicia"], &first).await);
    assert!(stale.contains("second proof is wrong"), "{stale}");
    let taken = refused(&run_with(&phone, url, &["rename", "bob"], &words).await);
    assert!(taken.contains("user name is taken"), "{taken}");
    let renamed = done(&run_with(&phone, url, &["rename", "alicia"], &words).await);
    assert!(renamed.starts_with("alicia@home.example on "), "{renamed}");
    let again = refused(&run_with(&phone, url, &["rename", "alison"], &words).await);
    assert!(again.contains("changed too often"), "{again}");

    // All devices are lost. The tablet has begun another reset already, and cannot be somebody else's.
    let another = refused(&run_with(&tablet, url, &["reset", "alicia"], &words).await);
    assert!(another.contains("--state"), "{another}");
    let laptop = world.homes.path().join("laptop");
    let reset = done(&run_with(&laptop, url, &["reset", "alicia"], &words).await);
    assert!(reset.starts_with("alicia@home.example on "), "{reset}");
    assert!(done(&run(&laptop, url, &["devices", "audit"]).await).contains("resets: 1"));
    done(&run_with(&laptop, url, &["delete-account"], &words).await);
    assert!(!laptop.exists(), "nothing is left here");
    assert_eq!(world.count("auth.users WHERE name = 'alicia'").await, 0);
    assert!(refused(&run(&laptop, url, &["whoami"]).await).contains("register"));
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_stands_in_for_the_words_where_logins_let_people_in() {
    let mut provider = IdentityProvider::start();
    let world = World::builder().logins_at(&provider).start().await;
    policy(&world, "oidc").await;
    let url = world.server().url();
    let [phone, tablet, file] = ["phone", "tablet", "token"].map(|name| world.homes.path().join(name));
    done(&run_signed_in(&phone, url, &["register", "alice"], &mut provider, "alice").await);

    // A token from elsewhere, which has to tell when its user logged in, and is good for what it was asked for.
    let nonce = done(&run(&phone, url, &["rename", "alicia", "--print-nonce"]).await);
    let bring = |token: postern_protocol::admission::IdToken| {
        std::fs::write(&file, token.as_str()).unwrap();
        ["--id-token", file.to_str().unwrap()]
    };
    let session = bring(provider.log_in("alice", nonce.trim()));
    let refusal = refused(&run(&phone, url, &[&["rename", "alicia"], &session[..]].concat()).await);
    assert!(refusal.contains("max_age"), "{refusal}");
    let token = bring(provider.log_in_anew("alice", nonce.trim()));
    let other = refused(&run(&phone, url, &[&["delete-account"], &token[..]].concat()).await);
    assert!(other.contains("another nonce"), "{other}");
    let renamed = done(&run(&phone, url, &[&["rename", "alicia"], &token[..]].concat()).await);
    assert!(renamed.starts_with("alicia@home.example on "), "{renamed}");

    let replaced = run_signed_in(&phone, url, &["recovery-key", "--replace"], &mut provider, "alice").await;
    assert_eq!(words_in(&done(&replaced)).split(' ').count(), 24);
    let unasked = refused(&run(&phone, url, &["recovery-key", "--print-nonce"]).await);
    assert!(unasked.contains("--replace"), "{unasked}");

    let thief = refused(&run_signed_in(&tablet, url, &["reset", "alicia"], &mut provider, "mallory").await);
    assert!(thief.contains("second proof is wrong"), "{thief}");
    let reset = done(&run_signed_in(&tablet, url, &["reset", "alicia"], &mut provider, "alice").await);
    assert!(reset.starts_with("alicia@home.example on "), "{reset}");
    done(&run_signed_in(&tablet, url, &["delete-account"], &mut provider, "alice").await);
    assert_eq!(world.count("auth.users").await, 0);
    world.close();
}

#[tokio::test]
async fn groups_and_contacts_are_managed_and_what_is_refused_is_told() {
    let world = World::builder().start().await;
    let (alice, bob, _) = world.friends(["alice", "bob"], "quarry").await;
    let carol = world.person("carol").await;
    let url = world.server().url();
    let [of_alice, of_bob, of_carol] = [&alice, &bob, &carol].map(|client| client.directory().to_owned());
    drop((alice, bob, carol));
    let (a, b) = ("alice@home.example", "bob@home.example");
    let c = "carol@home.example";

    let admins = done(&run(&of_alice, url, &["group", "admins", "quarry"]).await);
    assert!(admins.lines().count() == 1 && admins.contains(a), "{admins}");
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    assert!(refused(&run(&of_bob, url, &["group", "rename", "quarry", "cliff"]).await).contains("admin"));
    assert!(refused(&run(&of_bob, url, &["group", "admins", "quarry", "--add", b]).await).contains("admin"));
    assert!(refused(&run(&of_bob, url, &["group", "delete", "quarry", "--yes"]).await).contains("admin"));
    assert!(
        refused(&run(&of_alice, url, &["group", "admins", "quarry", "--add", c]).await).contains("member")
    );
    let admins = done(&run(&of_alice, url, &["group", "admins", "quarry", "--add", b]).await);
    assert_eq!(admins.lines().count(), 2, "{admins}");
    let admins = done(&run(&of_alice, url, &["group", "admins", "quarry", "--remove", b]).await);
    assert_eq!(admins.lines().count(), 1, "{admins}");
    done(&run(&of_alice, url, &["group", "rename", "quarry", "cliff"]).await);
    assert!(done(&run(&of_alice, url, &["groups"]).await).contains("cliff"));
    done(&run(&of_alice, url, &["send", "cliff", "on the record"]).await);
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    assert!(done(&run(&of_bob, url, &["history", "cliff"]).await).contains("on the record"));
    done(&run(&of_bob, url, &["history", "cliff", "--forget"]).await);
    assert_eq!(done(&run(&of_bob, url, &["history", "cliff"]).await), "");
    let unsure = refused(&run(&of_alice, url, &["group", "delete", "cliff"]).await);
    assert!(unsure.contains(b) && unsure.contains("--yes"), "{unsure}");
    done(&run(&of_alice, url, &["group", "delete", "cliff", "--yes"]).await);
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    assert!(done(&run(&of_bob, url, &["groups"]).await).contains("(left)"));
    assert!(refused(&run(&of_bob, url, &["history", "summit"]).await).contains("`groups`"));

    // Carol asks; Bob declines, blocks, unblocks and accepts.
    assert!(refused(&run(&of_bob, url, &["contacts", "accept", c]).await).contains("contacts requests"));
    assert!(
        refused(&run(&of_bob, url, &["contacts", "ask", "nobody@home.example"]).await)
            .contains("nobody here")
    );
    done(&run(&of_carol, url, &["contacts", "ask", b]).await);
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    assert!(done(&run(&of_bob, url, &["contacts", "requests"]).await).contains(c));
    done(&run(&of_bob, url, &["contacts", "decline", c]).await);
    assert!(done(&run(&of_carol, url, &["follow", "--once"]).await).contains("does not want"));
    done(&run(&of_bob, url, &["contacts", "block", c]).await);
    let listed = done(&run(&of_bob, url, &["contacts", "list"]).await);
    assert!(listed.lines().any(|line| line.starts_with(c) && line.contains("blocked")), "{listed}");
    done(&run(&of_bob, url, &["contacts", "unblock", c]).await);
    done(&run(&of_carol, url, &["contacts", "ask", b]).await);
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    done(&run(&of_bob, url, &["contacts", "accept", c]).await);
    let listed = done(&run(&of_bob, url, &["contacts"]).await);
    assert!(listed.lines().any(|line| line.starts_with(c) && line.contains("may add you")), "{listed}");

    // The number to compare.
    let nothing = refused(&run(&of_bob, url, &["contacts", "verify", c, "--confirm"]).await);
    assert!(nothing.contains("contacts verify"), "{nothing}");
    let number = |shown: &str| -> serde_json::Value { serde_json::from_str(shown).unwrap() };
    let shown = [(&of_bob, c), (&of_carol, b)];
    let [bobs, carols] = shown.map(|(home, user)| async move {
        done(&run(home, url, &["--json", "contacts", "verify", user]).await)
    });
    let (bobs, carols) = (number(&bobs.await), number(&carols.await));
    assert_eq!(bobs["number"], carols["number"]);
    let code = carols["code"].as_str().unwrap();
    // Its picture is as light as that of a link, and fits a small terminal.
    let shown_to_carol = done(&run(&of_carol, url, &["contacts", "verify", b]).await);
    let picture: Vec<Vec<char>> = shown_to_carol
        .lines()
        .map(|line| line.chars().collect::<Vec<_>>())
        .take_while(|line| line.iter().all(|c| " ▀▄█".contains(*c)))
        .collect();
    let width = picture.first().map_or(0, Vec::len);
    assert!((1..=80).contains(&width) && picture.len() <= 40, "{width} columns, {} lines", picture.len());
    assert!(picture.len() == width.div_ceil(2) && picture.iter().all(|line| line.len() == width));
    assert!(picture[0].iter().chain(&picture[1]).all(|c| *c == '█'), "{shown_to_carol}");
    assert!(shown_to_carol.lines().any(|line| line == code), "{shown_to_carol}");
    let wrong = refused(&run(&of_bob, url, &["contacts", "verify", c, "--code", "something else"]).await);
    assert!(!wrong.is_empty());
    done(&run(&of_bob, url, &["contacts", "verify", c, "--code", code]).await);
    done(&run(&of_carol, url, &["contacts", "verify", b, "--confirm"]).await);
    for (home, user) in shown {
        let listed = done(&run(home, url, &["contacts"]).await);
        assert!(listed.lines().any(|line| line.starts_with(user) && line.contains("verified")), "{listed}");
    }
    world.close();
}

#[tokio::test]
async fn a_group_is_come_back_into_and_founded_anew_by_one_command() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "quarry").await;
    // A server that conspires with her shows it so.
    let ghost = Encoding::Cbor.encode(&alice.group_with_id(&group).with_ghost().unwrap());
    let (url, lying) = (world.server().url(), line.url());
    let [of_alice, of_bob] = [&alice, &bob].map(|client| client.directory().to_owned());
    drop((alice, bob));
    done(&run(&of_bob, url, &["follow", "--once"]).await);

    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: ";
    let shown = [format!("{head}{}\r\n\r\n", ghost.len()).as_bytes(), &ghost].concat();
    line.answer("/group-info", 1, &shown);
    let unsure = refused(&run(&of_bob, &lying, &["rejoin", "quarry"]).await);
    assert_eq!(line.mend(), 1);
    assert!(unsure.contains("Nobody whom this device knows") && unsure.contains("--yes"), "{unsure}");
    done(&run(&of_bob, url, &["rejoin", "quarry"]).await);
    done(&run(&of_alice, url, &["follow", "--once"]).await);
    done(&run(&of_alice, url, &["send", "quarry", "welcome back"]).await);
    assert!(done(&run(&of_bob, url, &["follow", "--once"]).await).contains("welcome back"));

    // Nobody can come back: the DS lost the group.
    world.admin.batch_execute("DELETE FROM ds.groups").await.unwrap();
    assert!(!run(&of_bob, url, &["send", "quarry", "is anybody there?"]).await.status.success());
    let founded = run(&of_alice, url, &["refound", "quarry"]).await;
    done(&founded);
    assert!(text(&founded.stderr).contains("Invited bob@home.example."), "{}", text(&founded.stderr));
    done(&run(&of_bob, url, &["follow", "--once"]).await);
    let members = done(&run(&of_alice, url, &["members", "quarry"]).await);
    assert!(members.contains("alice@") && members.contains("bob@"), "{members}");
    done(&run(&of_alice, url, &["send", "quarry", "here we are"]).await);
    assert!(done(&run(&of_bob, url, &["follow", "--once"]).await).contains("here we are"));
    world.close();
}

/// The commands that a help text lists.
fn commands_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = lines.take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
    names.filter(|name| !name.is_empty() && name != "help").collect()
}

#[tokio::test]
async fn every_command_says_what_it_does_and_has_a_line_in_the_manual() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/client.md")).unwrap();
    let (_, manual) = manual.split_once("## Commands of our client").unwrap();
    let state = Path::new("/nonexistent");
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut leaves = 0;
    while let Some(command) = commands.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = done(&run(state, "http://127.0.0.1:1", &arguments).await);
        let about = help.lines().next().unwrap_or_default();
        assert!(about.len() > 8 && !about.starts_with("Usage:"), "{command:?}: {help}");
        let below = commands_in(&help);
        if below.is_empty() {
            let name = command.join(" ");
            assert!(manual.contains(&format!("`{name}`")), "{name} is not in docs/client.md");
            leaves += 1;
        }
        commands.extend(below.into_iter().map(|name| [command.clone(), vec![name]].concat()));
    }
    assert!(leaves > 40, "{leaves}");
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
    assert!(text(&registered.stdout).contains("josé@home.example"), "{}", text(&registered.stdout));
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
    let world = World::builder().logins_at(&provider).start().await;
    policy(&world, "oidc").await;
    let url = world.server().url();
    let [alice, bob] = ["alice", "bob"].map(|name| world.homes.path().join(name));
    let output = run_signed_in(&alice, url, &["register", "alice"], &mut provider, "subject-1").await;
    assert!(done(&output).contains("alice@home.example"), "{}", text(&output.stdout));

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
