//! Lines between homeservers are as bad as the tests say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_tests_kit::{Authority, FaultProxy, Weather, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_when_a_line_falls_silent_does_not_come() {
    /// Bytes that come at once.
    const PART: usize = 2 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let line = FaultProxy::start(address.ip(), vec![address], &Authority::new().certify(&["b.example"]));
    // Four of eight parts in a second.
    line.set(Weather::Trickle(4 * PART));
    let mut client = TcpStream::connect(line.address()).await.unwrap();
    client.write_all(&[7; 8 * PART]).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let come = Arc::new(AtomicUsize::new(0));
    let counted = come.clone();
    let reading = tokio::spawn(async move {
        let mut bytes = vec![0; PART];
        while let Ok(read @ 1..) = server.read(&mut bytes).await {
            counted.fetch_add(read, Ordering::SeqCst);
        }
    });
    eventually("something comes", async || (come.load(Ordering::SeqCst) > 0).then_some(())).await;
    line.set(Weather::Silent);
    let before = come.load(Ordering::SeqCst);
    // Longer than the rest would take.
    sleep(Duration::from_secs(3)).await;
    let after = come.load(Ordering::SeqCst);
    // A part may have gone through at that moment, and another one not have been counted.
    assert!(after <= before + 2 * PART, "{before} bytes, and {after} though nothing comes through");
    line.set(Weather::Fair);
    drop(client);
    reading.await.unwrap();
}
