//! Servers that are told to end before they serve: while PostgreSQL recovers, and while another process has it (OPS-9).

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, chown},
    process::Stdio,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_tests_kit::{DataDir, HOME, PATIENCE, Server, eventually, postern};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

type Log = Lines<BufReader<ChildStderr>>;

/// A server that runs the cluster in a data directory, and the lines of its log. It may never come to serve.
fn serve(dir: &DataDir) -> (Child, Log) {
    let mut serve = postern();
    serve.args(["serve", "--embedded", "--domain", HOME, "--listen", "127.0.0.1:0", "--data-dir"]);
    serve.arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut server = serve.spawn().expect("postern runs");
    let log = BufReader::new(server.stderr.take().expect("it was piped")).lines();
    (server, log)
}

/// Tells a server to end. Asserts that it ends in order, and returns what it said meanwhile.
async fn said_at_its_end(mut server: Child, mut log: Log, signal: Signal) -> String {
    let pid = server.id().expect("it runs").cast_signed();
    kill(Pid::from_raw(pid), signal).expect("it can be signalled");
    let read = async {
        let mut said = String::new();
        while let Some(line) = log.next_line().await.expect("it is text") {
            said.push_str(&line);
            said.push('\n');
        }
        said
    };
    let said = timeout(PATIENCE, read).await.expect("the server ends");
    let status =
        timeout(PATIENCE, server.wait()).await.expect("the server ends").expect("it can be waited for");
    assert!(status.success(), "{signal}: {status}: {said}");
    said
}

#[tokio::test]
async fn a_server_that_is_told_to_end_while_postgresql_recovers_stops_it_and_ends() {
    let dir = DataDir::migrated().await;
    let cluster = dir.cluster();
    let owner = fs::metadata(&cluster).unwrap();
    let put = |name: &str, text: &str| {
        let path = cluster.join(name);
        fs::write(&path, text).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    };
    // Recovery asks an archive first, which does not answer as long as PostgreSQL runs.
    let asked = cluster.join("asked");
    let archive = "touch asked; while test -e postmaster.pid; do sleep 0.1; done; false";
    put("postgresql.auto.conf", &format!("restore_command = '{archive}'\n"));
    put("recovery.signal", "");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (server, log) = serve(&dir);
        eventually("PostgreSQL recovers", async || asked.exists().then_some(())).await;
        let said = said_at_its_end(server, log, signal).await;
        assert!(said.contains("PostgreSQL takes no connections yet, and is stopped"), "{signal}: {said}");
        assert!(said.contains("stopped before PostgreSQL took connections"), "{signal}: {said}");
        assert_eq!(dir.postmaster(), None, "{signal}");
        fs::remove_file(&asked).unwrap();
    }
    put("postgresql.auto.conf", "");
    fs::remove_file(cluster.join("recovery.signal")).unwrap();
    assert!(Server::embedded(&dir).start().await.terminate().await.success(), "the next start is as any");
}

#[tokio::test]
async fn a_server_that_is_told_to_end_while_it_waits_for_another_process_ends() {
    let dir = DataDir::migrated().await;
    // A command that stops PostgreSQL has these locks.
    let locks = ["lock.commands", "lock"].map(|name| {
        let file = File::options().write(true).create(true).truncate(false).open(dir.path().join(name));
        Flock::lock(file.unwrap(), FlockArg::LockExclusiveNonblock).expect("nothing runs")
    });
    let (server, mut log) = serve(&dir);
    timeout(PATIENCE, async {
        loop {
            let line = log.next_line().await.unwrap().expect("it does not end");
            if line.contains("another process starts or stops PostgreSQL in") {
                break;
            }
        }
    })
    .await
    .expect("the server waits");
    let said = said_at_its_end(server, log, Signal::SIGTERM).await;
    assert!(said.contains("stopped before PostgreSQL took connections"), "{said}");
    drop(locks);
}
