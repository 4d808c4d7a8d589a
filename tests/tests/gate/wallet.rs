//! The client library's wallet: refills before it runs dry, and loses nothing of what it paid for.

use postern_client::Client;
use postern_tests_kit::{PostgresRelay, Server, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn it_refills_in_the_background_before_it_runs_dry() {
    let gate = World::builder().start().await;
    let directory = tempfile::tempdir().unwrap();
    let alice = Client::register(&directory.path().join("a"), gate.servers[0].url(), "alice").await.unwrap();
    let wallet = alice.wallet();
    while wallet.count().unwrap() > 25 {
        wallet.take().await.unwrap();
    }
    // Few are left: who takes one does not wait, and soon there are more.
    for _ in 0..6 {
        wallet.take().await.unwrap();
    }
    eventually("a batch comes by itself", async || (wallet.count().unwrap() > 100).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_was_lost_comes_after_a_restart_and_was_paid_for_once() {
    let mut gate = World::builder().servers(0).start().await;
    let relay = PostgresRelay::start(&gate.cluster);
    let server = Server::builder(&gate.cluster).through(&relay).start().await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("a");
    let alice = Client::register(&state, server.url(), "alice").await.unwrap();
    let (before, held) = (gate.issued().await, alice.wallet().count().unwrap());
    // The allowance is taken, and the server dies before it answers; then so does the client.
    relay.pause_at("aas.take_allowance");
    let address = server.address();
    let (failed, ()) = tokio::join!(alice.wallet().fetch(100), async {
        relay.paused().await;
        server.kill().await;
    });
    assert!(failed.is_err());
    drop(alice);
    relay.resume();
    let started = eventually("the server's port is free again", async || {
        Server::builder(&gate.cluster).listen(address).try_start().await.ok()
    });
    let started = started.await;
    gate.servers.push(started);
    eventually("the dead server's transaction ends", async || (gate.issued().await > before).then_some(()))
        .await;

    let alice = Client::open(&state).unwrap();
    alice.wallet().fetch(100).await.unwrap();
    assert_eq!(alice.wallet().count().unwrap(), held + 100, "the batch that was asked for before");
    assert_eq!(gate.issued().await - before, 100);
}
