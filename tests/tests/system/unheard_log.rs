//! A log that nobody takes any more, as when the program that collects it is gone.

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

#[tokio::test]
async fn a_server_whose_log_nobody_takes_any_more_ends_in_peace() {
    let cluster = Cluster::start().await;
    let (nobody, log) = UnixStream::pair().unwrap();
    drop(nobody);
    let mut serve = postern();
    serve
        .arg("serve")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_LISTEN", "127.0.0.1:0")
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(OwnedFd::from(log)))
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
