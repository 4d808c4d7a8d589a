//! Files in a client's directory: they have nothing that can be read without the passphrase, if there is one, and no
//! history that its user had forgotten.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use postern_tests_kit::{PATIENCE, World, befriend, binary, in_tree, joined};
use tokio::{process::Command, time::timeout};

const SECRET: &str = "the surprise party for Bob is on Sunday";

struct Device<'a> {
    home: PathBuf,
    server: &'a str,
}

impl Device<'_> {
    fn command(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("postern-client"));
        command.env_clear().envs(variables.iter().copied()).arg("--state").arg(&self.home);
        command.args(["--server", self.server]).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        self.command(variables, arguments).output().await.unwrap()
    }

    /// Its output; it has to succeed.
    async fn does(&self, variables: &[(&str, &str)], arguments: &[&str]) -> String {
        let output = self.run(variables, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why it does not.
    async fn refuses(&self, variables: &[(&str, &str)], arguments: &[&str]) -> String {
        let output = self.run(variables, arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn holds(&self, text: &str) -> bool {
        holds(&self.home, text)
    }
}

/// Whether a text is in any file of a directory.
fn holds(directory: &Path, text: &str) -> bool {
    let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.any(|path| fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()))
}

fn passphrase(text: &str) -> Vec<(&'static str, &str)> {
    vec![("POSTERN_PASSPHRASE", text)]
}

#[tokio::test]
async fn an_encrypted_state_opens_with_its_passphrase_and_holds_nothing_to_read() {
    let world = World::builder().start().await;
    let bob = world.person("bob").await;
    let alice = Device { home: world.homes.path().join("alice"), server: world.server().url() };
    let right = passphrase("correct horse battery staple");
    alice.does(&right, &["register", "alice"]).await;
    alice.does(&right, &["create-group", "climbing"]).await;
    alice.does(&right, &["invite", "climbing", &bob.user().to_string()]).await;
    let asked =
        |event: &postern_client::Event| matches!(event, postern_client::Event::ContactRequested { .. });
    bob.sync_until(PATIENCE, asked).await.unwrap();
    alice.does(&right, &["follow", "--once"]).await;
    joined(&bob, 1).await;
    alice.does(&right, &["send", "climbing", SECRET]).await;
    assert!(alice.does(&right, &["history", "climbing"]).await.contains(SECRET));
    let readable = [SECRET, "climbing", "alice@", "CREATE TABLE", "SQLite format"];
    for text in readable {
        assert!(!alice.holds(text), "{text}");
    }

    let wrong = alice.refuses(&passphrase("another"), &["whoami"]).await;
    assert!(wrong.contains("not the passphrase of the state"), "{wrong}");
    // There is no terminal here.
    let none = alice.refuses(&[], &["whoami"]).await;
    assert!(none.contains("a passphrase is needed"), "{none}");
    let file = world.homes.path().join("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    let from_file = [("POSTERN_PASSPHRASE_FILE", file.to_str().unwrap())];
    assert!(alice.does(&from_file, &["whoami"]).await.starts_with("alice@"));

    // Changed, removed, set again; everything is there each time.
    fs::write(&file, "another one").unwrap();
    let new_file = ["passphrase", "change", "--new-file", file.to_str().unwrap()];
    alice.does(&right, &new_file).await;
    alice.refuses(&right, &["whoami"]).await;
    let another = passphrase("another one");
    assert!(alice.does(&another, &["history", "climbing"]).await.contains(SECRET));
    alice.refuses(&right, &["passphrase", "remove"]).await;
    alice.does(&another, &["passphrase", "remove"]).await;
    assert!(alice.does(&[], &["history", "climbing"]).await.contains(SECRET));
    for text in readable {
        assert!(alice.holds(text), "{text}: the search finds what is there");
    }
    let needless = alice.refuses(&another, &["whoami"]).await;
    assert!(needless.contains("not encrypted"), "{needless}");
    alice.does(&[], &new_file).await;
    for text in readable {
        assert!(!alice.holds(text), "{text}");
    }
    alice.does(&another, &["send", "climbing", "still here"]).await;
}

#[tokio::test]
async fn a_keyring_gives_the_passphrase_by_the_line_of_the_page() {
    let world = World::builder().start().await;
    let alice = Device { home: world.homes.path().join("alice"), server: world.server().url() };
    alice.does(&passphrase("correct horse battery staple"), &["register", "alice"]).await;
    let page = fs::read_to_string(in_tree("docs/client.md")).unwrap();
    let line = page.lines().find(|line| line.contains("<(secret-tool lookup ")).expect("the page has it");

    // Stands in for the keyring's program, which needs somebody who is logged in.
    let programs = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = programs.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let asked = "lookup application postern user alice";
    program("secret-tool", &format!("[ \"$*\" = '{asked}' ] && printf 'correct horse battery staple'"));
    let (client, home) = (binary("postern-client"), alice.home.display());
    let client = format!("{} --state {home} --server {} \"$@\"", client.display(), alice.server);
    program("postern-client", &format!("exec {client}"));
    let path = format!("{}:/usr/bin:/bin", programs.path().display());
    let output =
        Command::new("bash").env_clear().env("PATH", path).args(["-c", line]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("alice@"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_passphrase_is_not_changed_under_a_process_that_runs() {
    let world = World::builder().start().await;
    let alice = Device { home: world.homes.path().join("alice"), server: world.server().url() };
    alice.does(&[], &["register", "alice"]).await;
    let file = world.homes.path().join("passphrase");
    fs::write(&file, "one").unwrap();
    let change = ["passphrase", "change", "--new-file", file.to_str().unwrap()];
    let mut following = alice.command(&[], &["follow"]).spawn().unwrap();
    let busy = async {
        // Until it has started, there is nobody; and if it was too late, it found a passphrase and ended.
        loop {
            if following.try_wait().unwrap().is_some() {
                following = alice.command(&[], &["follow"]).spawn().unwrap();
            }
            let output = alice.run(&[], &change).await;
            if !output.status.success() {
                return String::from_utf8(output.stderr).unwrap();
            }
            // One that finds a passphrase has the state open for a moment, too.
            let remove = ["passphrase", "remove"];
            while !alice.run(&passphrase("one"), &remove).await.status.success() {}
        }
    };
    // Each round starts some processes.
    let busy = timeout(2 * PATIENCE, busy).await.unwrap();
    assert!(busy.contains("is in use"), "{busy}");
    drop(following);
    timeout(PATIENCE, async { while !alice.run(&[], &change).await.status.success() {} }).await.unwrap();
}

#[tokio::test]
async fn what_was_said_can_be_read_again_until_it_is_forgotten() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let group = alice.create_group("climbing").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    alice.group_with_id(&group).send(SECRET).await.unwrap();
    let other = alice.create_group("sailing").await.unwrap().id().clone();
    alice.group_with_id(&other).send("something else").await.unwrap();
    bob.group_with_id(&group).send("I know").await.unwrap();
    let said = |event: &postern_client::Event| matches!(event, postern_client::Event::Message { .. });
    alice.sync_until(PATIENCE, said).await.unwrap();
    let home = alice.directory().to_owned();
    drop(alice);

    let alice = Device { home, server: world.server().url() };
    let history = alice.does(&[], &["history", "climbing"]).await;
    let said: Vec<&str> = history.lines().filter(|line| line.contains(": ")).collect();
    assert_eq!(said.len(), 2, "{history}");
    assert!(said[0].contains(&format!("alice@home.example: {SECRET}")), "{history}");
    assert!(said[1].contains("bob@home.example: I know"), "{history}");
    assert!(history.contains("added bob@home.example"), "{history}");
    let last = alice.does(&[], &["--json", "history", "climbing", "--limit", "1"]).await;
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((last["event"].as_str(), last["text"].as_str()), (Some("message"), Some("I know")));
    assert!(last["time"].as_u64().unwrap() > 1_700_000_000);

    assert!(alice.holds(SECRET));
    alice.does(&[], &["history", "climbing", "--forget"]).await;
    assert!(!alice.holds(SECRET), "it is in no file");
    assert_eq!(alice.does(&[], &["history", "climbing"]).await, "");
    assert!(alice.does(&[], &["history", "sailing"]).await.contains("something else"));

    // Nothing of this group from now on; of others, where so wanted.
    alice.does(&[], &["history", "climbing", "--off"]).await;
    alice.does(&[], &["send", "climbing", "off the record"]).await;
    alice.does(&[("POSTERN_HISTORY", "0")], &["send", "sailing", "nor this"]).await;
    assert!(!alice.holds("off the record") && !alice.holds("nor this"));
    alice.does(&[], &["history", "climbing", "--on"]).await;
    alice.does(&[], &["send", "climbing", "on the record"]).await;
    assert!(alice.does(&[], &["history", "climbing"]).await.contains("on the record"));
}
