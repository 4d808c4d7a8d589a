//! Words that nobody hears: the terminal is gone, or the program that reads a pipe or collects a log.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_tests_kit::{Cluster, HOME, PATIENCE, postern};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

/// An end of a pipe whose other end is gone.
fn to_nobody() -> Stdio {
    let (nobody, end) = UnixStream::pair().unwrap();
    drop(nobody);
    Stdio::from(OwnedFd::from(end))
}

#[tokio::test]
async fn a_server_whose_log_nobody_takes_any_more_ends_in_peace() {
    let cluster = Cluster::start().await;
    let mut serve = postern();
    serve
        .arg("serve")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_LISTEN", "127.0.0.1:0")
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(to_nobody())
        .kill_on_drop(true);
    let mut server = serve.spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let serving = timeout(PATIENCE, lines.next_line()).await.expect("it serves, or ends").unwrap();
    assert!(serving.is_some_and(|line| line.contains(" at http")), "it serves");
    // It says that it shuts down, before it does.
    kill(Pid::from_raw(server.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = timeout(PATIENCE, server.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
}

/// So it is with `postern status | head -1`, or with a terminal that is closed while the command works.
#[tokio::test]
async fn a_command_that_nobody_listens_to_comes_to_its_end() {
    let cluster = Cluster::start().await;
    for command in ["migrate", "check", "status"] {
        let run = |stdout: Stdio, stderr: Stdio| {
            let mut program = postern();
            program
                .arg(command)
                .env("POSTERN_DOMAIN", HOME)
                .env("POSTERN_DATABASE_URL", cluster.server_url())
                .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url())
                .env("POSTERN_MASTER_KEY", cluster.master_key())
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(stderr)
                .kill_on_drop(true);
            async move { program.spawn().unwrap().wait_with_output().await.unwrap() }
        };
        let heard = run(Stdio::piped(), Stdio::piped()).await;
        assert!(!heard.stdout.is_empty(), "{command} has something to say");
        let unheard = run(to_nobody(), Stdio::piped()).await;
        let said = String::from_utf8_lossy(&unheard.stderr);
        assert_eq!(unheard.status.code(), heard.status.code(), "{command}: {said}");
        assert!(!said.contains("panicked"), "{command}: {said}");
        // There is nobody to tell of an error, either.
        assert_eq!(run(to_nobody(), to_nobody()).await.status.code(), heard.status.code(), "{command}");
    }
}
