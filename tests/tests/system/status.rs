//! `postern status` shows how it is on one screen, what needs somebody first, and ends with the worst verdict (OPS-4).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use postern_tests_kit::{Authority, Cluster, DataDir, HOME, Server, eventually, extension_dir, postern};

use crate::own_address;

/// The exit code, and what is printed.
async fn status(configure: impl FnOnce(&mut tokio::process::Command)) -> (Option<i32>, String) {
    let mut command = postern();
    command.arg("status").env("POSTERN_DOMAIN", HOME);
    configure(&mut command);
    let output = command.output().await.expect("postern runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn metrics_of(url: &str) -> String {
    let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics"));
    address.expect("it is a URL of metrics").to_owned()
}

#[tokio::test]
async fn status_shows_a_server_that_is_well_and_ends_with_its_worst_verdict() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let files = authority.certify(&[HOME]);
    let server = Server::builder(&cluster).tls(&files).metrics().start().await;
    let metrics = metrics_of(&server.metrics_url().await);
    let look = || {
        status(|command| {
            command
                .env("POSTERN_DATABASE_URL", cluster.server_url())
                .env("POSTERN_METRICS_LISTEN", &metrics)
                .env("POSTERN_TLS_CERTIFICATE", &files.certificate)
                .env("POSTERN_TLS_KEY", &files.key)
                .env("POSTERN_FEDERATION_TRUSTED_ROOTS", authority.file());
        })
    };
    let text = eventually("all is well", async || {
        let (code, text) = look().await;
        (code == Some(0)).then_some(text)
    })
    .await;
    assert!(text.starts_with("home.example\n  server     version 0.1.0, up "), "{text}");
    for part in [
        "\n  database   PostgreSQL 1",
        "\n  users      0 with 0 clients; 0 took tokens today, 0 yesterday\n",
        "\n  groups     0, 0 of them active since yesterday\n",
        "\n  queues     0, in which 0 messages wait; 0 are nearly full\n",
        "\n  neighbours 0, for which 0 deliveries wait\n",
        "\nok       server: it is ready\n",
        "\nok       certificate: the one for home.example is valid for 36",
        "\nok       upkeep: ",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().count() < 30, "it is one screen:\n{text}");

    let admin = cluster.admin().await;
    let sql = "INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day)
               SELECT decode(repeat('02', 16), 'hex'), 'b.example', 0, 1, m.key_id, 'damaged', current_date
                 FROM operator.master_key m";
    admin.batch_execute(sql).await.unwrap();
    let text = eventually("the worst verdict is a warning", async || {
        let (code, text) = look().await;
        (code == Some(1) && text.contains("set aside")).then_some(text)
    })
    .await;
    let verdicts = text.split("\n\n").nth(1).expect("they come after a blank line");
    assert!(
        verdicts.starts_with("warning  neighbours: 1 deliveries were set aside\n         to mend: "),
        "{text}"
    );

    assert!(server.terminate().await.success());
    let (code, text) = look().await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("\n\nproblem  server: its metrics at"), "{text}");
}

#[tokio::test]
async fn a_server_whose_metrics_have_no_address_serves_without_them_until_there_is_one() {
    let cluster = Cluster::start().await;
    // Nobody else takes the address once it is free.
    let other = std::net::TcpListener::bind(own_address()).unwrap();
    let metrics = other.local_addr().unwrap().to_string();
    let server = Server::builder(&cluster).env("POSTERN_METRICS_LISTEN", &metrics).start().await;
    eventually("it is ready", async || {
        let ready = reqwest::get(format!("{}/ready", server.url())).await.expect("it serves");
        ready.status().is_success().then_some(())
    })
    .await;
    let told = format!("metrics.listen: cannot listen on {metrics}: ");
    eventually(&told, async || server.log().contains(&told).then_some(())).await;
    let run = async |command: &str| {
        let mut postern = postern();
        postern
            .arg(command)
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_LISTEN", server.address().to_string())
            .env("POSTERN_MASTER_KEY", cluster.master_key())
            .env("POSTERN_DATABASE_URL", cluster.server_url())
            .env("POSTERN_METRICS_LISTEN", &metrics);
        let output = postern.output().await.expect("postern runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let without =
        format!("warning  server: it is ready, but shows no metrics at {metrics}\n         to mend: ");
    eventually(&without, async || {
        let (code, text) = run("status").await;
        (code == Some(1) && text.contains(&without)).then_some(())
    })
    .await;
    let (code, text) = run("check").await;
    let taken = format!("warning  metrics: another program listens at {metrics}: ");
    assert!(code == Some(0) && text.contains(&taken), "{text}");

    drop(other);
    assert_eq!(metrics_of(&server.metrics_url().await), metrics);
    assert!(server.metrics().await.contains("postern_build_info{"));
    eventually("it is ready, and shows its version", async || {
        let (_, text) = run("status").await;
        let parts = ["ok       server: it is ready", "  server     version "];
        parts.iter().all(|part| text.contains(part)).then_some(())
    })
    .await;
    let (code, text) = run("check").await;
    assert!(
        code == Some(0) && text.contains(&format!("ok       metrics: plain HTTP at {metrics}")),
        "{text}"
    );
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn status_tells_why_a_server_is_not_ready_and_that_a_database_is_away() {
    let mut cluster = Cluster::start().await;
    let server = Server::builder(&cluster).metrics().start().await;
    let metrics = metrics_of(&server.metrics_url().await);
    let url = cluster.server_url();
    cluster.kill_postgres();
    let (code, text) = eventually("the server is not ready", async || {
        let found = status(|command| {
            command.env("POSTERN_DATABASE_URL", &url).env("POSTERN_METRICS_LISTEN", &metrics);
        })
        .await;
        found.1.contains("problem  server: not ready: the database does not answer").then_some(found)
    })
    .await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("problem  database: ") && text.contains("`postern check` finds out"), "{text}");
    cluster.restart().await;
}

/// Everything below a directory: inode, size, mode and the times of its last changes.
fn state(dir: &Path) -> BTreeMap<PathBuf, [i64; 7]> {
    let mut found = BTreeMap::new();
    let mut places = vec![dir.to_owned()];
    while let Some(place) = places.pop() {
        let it = fs::symlink_metadata(&place).expect("it is there");
        let numbers = [it.ino() as i64, it.size() as i64, it.mode().into()];
        let times = [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()];
        if it.is_dir() {
            let entries = fs::read_dir(&place).expect("it can be read");
            places.extend(entries.map(|entry| entry.expect("it can be read").path()));
        }
        found.insert(place, [numbers.as_slice(), &times].concat().try_into().expect("seven numbers"));
    }
    found
}

#[tokio::test]
async fn check_and_status_of_a_stopped_private_cluster_say_so_and_change_nothing() {
    let dir = DataDir::migrated().await;
    let major = fs::read_to_string(dir.cluster().join("PG_VERSION")).unwrap().trim().to_owned();
    // A start would copy this extension: its files are newer.
    let newer = tempfile::tempdir().unwrap();
    let mut copy = std::process::Command::new("cp");
    copy.arg("-r").arg(extension_dir().join(".")).arg(newer.path());
    assert!(copy.status().unwrap().success());
    let run = async |command: &str, dir: &DataDir, more: &[&str], pg_config: Option<&str>| {
        let mut postern = postern();
        postern.args([command, "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path()).args(more);
        postern.env("POSTERN_EXTENSION_DIR", newer.path()).env("POSTERN_LISTEN", "127.0.0.1:1");
        postern.envs(pg_config.map(|path| ("PG_CONFIG", path)));
        let output = postern.output().await.expect("postern runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };

    let before = state(dir.path());
    assert!(before.len() > 500, "{}", before.len());
    let (code, text) = run("check", &dir, &[], None).await;
    let stopped =
        format!("warning  private cluster: PostgreSQL {major} in {} is stopped: ", dir.path().display());
    assert!(code == Some(0) && text.contains(&stopped), "{text}");
    assert!(text.contains("not looked at are database, ") && text.contains("--start"), "{text}");
    let room = |line: &str| line.contains("  room: ") && line.contains(" are left where ");
    assert!(text.lines().any(room), "{text}");
    let (code, text) = run("status", &dir, &[], None).await;
    assert_eq!(code, Some(2), "{text}");
    for part in [
        format!("home.example\n  database   PostgreSQL {major}, stopped\n\n"),
        "problem  server: nothing listens at 127.0.0.1:1\n         to mend: start the server: `postern serve`".to_owned(),
        format!("problem  database: the private cluster in {} is stopped: ", dir.path().display()),
        " are left where ".to_owned(),
    ] {
        assert!(text.contains(&part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().count() < 15, "it is one screen:\n{text}");
    // It could not be started by a PostgreSQL that is not there.
    let (code, text) = run("check", &dir, &[], Some("/nowhere")).await;
    assert!(code == Some(1) && text.contains("and would not start: PostgreSQL "), "{text}");
    assert_eq!(dir.postmaster(), None);
    let after = state(dir.path());
    let changed = after.iter().find(|(path, state)| before.get(*path) != Some(state));
    assert!(changed.is_none() && after.len() == before.len(), "{changed:?}");

    // With a word it is started for the look, as by a server.
    let (code, text) = run("check", &dir, &["--start"], None).await;
    assert!(code == Some(0) && text.contains("ok       schema: up to date"), "{text}");
    assert_eq!(dir.postmaster(), None, "it stopped what it started");
    assert_ne!(state(dir.path()), after);

    // Where there is none, none is made.
    let fresh = DataDir::fresh();
    let (_, text) = run("check", &fresh, &["--start"], None).await;
    assert!(text.contains("ok       private cluster: none yet"), "{text}");
    let (code, text) = run("status", &fresh, &["--start"], None).await;
    assert!(code == Some(2) && text.contains("problem  database: there is no private cluster in"), "{text}");
    assert!(!fresh.path().exists());
}

#[tokio::test]
async fn status_works_with_a_private_cluster_whether_or_not_a_server_runs() {
    let dir = DataDir::migrated().await;
    let (code, text) = status(|command| {
        command
            .args(["--embedded", "--start"])
            .env("POSTERN_DATA_DIR", dir.path())
            .env("POSTERN_LISTEN", "127.0.0.1:1");
    })
    .await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("problem  server: nothing listens at 127.0.0.1:1"), "{text}");
    assert!(text.contains("ok       wake-ups: the extension is preloaded"), "{text}");
    assert!(text.contains(" are left where "), "{text}");
    assert_eq!(dir.postmaster(), None, "it stopped what it started");

    let server = Server::embedded(&dir).metrics().start().await;
    let metrics = metrics_of(&server.metrics_url().await);
    eventually("all is well", async || {
        let (code, text) = status(|command| {
            command
                .arg("--embedded")
                .env("POSTERN_DATA_DIR", dir.path())
                .env("POSTERN_METRICS_LISTEN", &metrics);
        })
        .await;
        let is_well = code == Some(0) || text.contains("warning  room");
        (is_well && text.contains("ok       server: it is ready")).then_some(())
    })
    .await;
    assert!(server.terminate().await.success());
}
