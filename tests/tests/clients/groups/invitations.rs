//! Invitations by the KeyPackages that a user's QS hands out (QS-6), where the server hands out others.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postern_client::{Event, Options};
use postern_protocol::{
    encoding::Encoding,
    key::{PublishedKey, SigningKey},
    name::Domain,
    problem::ProblemType,
    qs::{KeyPackageBatch, QueuingKeys, StockedKeyPackage},
};
use postern_tests_kit::{BadLine, World, joined};

use super::{eager, group_of_three, patient, receive, with};

/// The end of the key that the liar publishes.
const FAR: u64 = 4_000_000_000;
const HOUR: u64 = 60 * 60;

type Change = Box<dyn Fn(KeyPackageBatch) -> KeyPackageBatch + Send + Sync>;

/// Changes the batches of KeyPackages that the server hands out over a line.
fn hands_out(line: &BadLine, change: Change) {
    line.rewrite("POST /qs/key-packages/fetch", move |body| {
        let Ok(batch) = Encoding::Cbor.decode(&body) else { return body };
        Encoding::Cbor.encode(&change(batch))
    });
}

/// The batch's KeyPackages, or others in their place, handed out by the QS of `domain` with this key, so many seconds ago.
fn signed(key: &SigningKey, domain: &Domain, ago: u64, others: Option<&[StockedKeyPackage]>) -> Change {
    let (key, domain, others) = (key.clone(), domain.clone(), others.map(<[_]>::to_vec));
    Box::new(move |batch: KeyPackageBatch| {
        let key_packages = others.clone().unwrap_or(batch.key_packages);
        KeyPackageBatch::sign(&domain, batch.time - ago, key_packages, &key)
    })
}

#[tokio::test]
async fn key_packages_that_the_server_swaps_bring_nobody_in() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], _) = group_of_three(&world).await;
    let alice = with(alice, Options { server: Some(line.url()), ..eager() });
    let group = alice.create_group("two").await.unwrap();

    // The server keeps what it hands out of Carol's.
    let kept = Arc::new(Mutex::new(Vec::<StockedKeyPackage>::new()));
    let keeper = Arc::clone(&kept);
    hands_out(
        &line,
        Box::new(move |batch: KeyPackageBatch| {
            keeper.lock().unwrap().clone_from(&batch.key_packages);
            batch
        }),
    );
    let invited = group.invite(carol.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0));
    joined(&carol, 1).await;
    let carols = kept.lock().unwrap().clone();
    assert_eq!(carols.len(), 1);
    drop(alice.sync(Duration::ZERO).await.unwrap());

    // It has a key among those of its QS.
    let (home, elsewhere) = (world.domain(), "elsewhere.example".parse().unwrap());
    let (liar, unknown) = (SigningKey::generate(), SigningKey::generate());
    let published = PublishedKey { public_key: liar.public_key(), not_before: 0, not_after: FAR };
    line.rewrite("GET /qs/keys", move |body| {
        let mut keys: QueuingKeys = Encoding::Cbor.decode(&body).expect("they are keys");
        keys.keys.push(published);
        Encoding::Cbor.encode(&keys)
    });
    let (not_handed_out, unusable) = ("batch of KeyPackages does not hold", "is unusable");
    let (taken, relinked) = (carols.clone(), carols.clone());
    let under_its_signature: Change =
        Box::new(move |batch: KeyPackageBatch| KeyPackageBatch { key_packages: taken.clone(), ..batch });
    let (key, domain) = (liar.clone(), home.clone());
    let with_his_link: Change = Box::new(move |batch: KeyPackageBatch| {
        let swap = |(his, other): (&StockedKeyPackage, &StockedKeyPackage)| StockedKeyPackage {
            key_package: other.key_package.clone(),
            attachment: his.attachment.clone(),
        };
        let key_packages = batch.key_packages.iter().zip(&relinked).map(swap).collect();
        KeyPackageBatch::sign(&domain, batch.time, key_packages, &key)
    });
    for (what, change, expected) in [
        ("by a key that is not published", signed(&unknown, home, 0, None), not_handed_out),
        ("by another domain's QS", signed(&liar, &elsewhere, 0, None), not_handed_out),
        ("of an hour ago", signed(&liar, home, HOUR, None), not_handed_out),
        ("Carol's under the signature of his", under_its_signature, not_handed_out),
        ("Carol's", signed(&liar, home, 0, Some(carols.as_slice())), unusable),
        ("Carol's with his link", with_his_link, unusable),
    ] {
        hands_out(&line, change);
        let invited = group.invite(bob.user()).await.unwrap();
        assert_eq!((invited.members, invited.waiting), (0, 1), "{what}");
        let events = alice.sync(Duration::ZERO).await.unwrap();
        let is_told = |event: &Event| matches!(event, Event::Ignored { reason } if reason.contains(expected));
        assert!(events.iter().any(is_told), "{what}: {events:?}");
        assert_eq!(group.members().unwrap().len(), 2, "{what}");
    }

    // His own come in, handed out with the same key.
    hands_out(&line, signed(&liar, home, 0, None));
    let invited = group.invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0));
    joined(&bob, 1).await;
}

#[tokio::test]
async fn whose_key_package_the_server_refuses_is_added_by_another_one_that_is_asked_for_once() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], _) = group_of_three(&world).await;
    let alice = with(alice, Options { server: Some(line.url()), ..patient() });
    let group = alice.create_group("two").await.unwrap();
    let path = format!("POST /ds/groups/{}/messages", group.id().to_base64url());
    let refuses = |times| line.answer(&path, times, &BadLine::refusal(ProblemType::InvalidMls));
    let says = |events: &[Event], expected: &str| {
        events.iter().any(|event| matches!(event, Event::Ignored { reason } if reason.contains(expected)))
    };
    let (asked, given_up) = ("another KeyPackage is asked for", "cannot be added");

    refuses(1);
    let invited = group.invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (0, 1));
    assert_eq!(line.mend(), 1);
    let events = alice.sync(Duration::ZERO).await.unwrap();
    assert!(says(&events, asked) && !says(&events, given_up), "{events:?}");
    receive(&alice).await;
    joined(&bob, 1).await;
    assert_eq!(group.members().unwrap().len(), 2);

    drop(alice.sync(Duration::ZERO).await.unwrap());
    drop(line.take_requests());
    refuses(2);
    let invited = group.invite(carol.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (0, 1));
    let mut events = alice.sync(Duration::ZERO).await.unwrap();
    receive(&alice).await;
    events.extend(alice.sync(Duration::ZERO).await.unwrap());
    assert!(says(&events, asked) && says(&events, given_up), "{events:?}");
    let fetches = |request: &&String| request.contains("/qs/key-packages/fetch");
    assert_eq!(line.take_requests().iter().filter(fetches).count(), 2, "each with one that is new");
    assert_eq!(line.mend(), 2);
    receive(&alice).await;
    assert_eq!(group.members().unwrap().len(), 2, "nothing of the invitation is left");
}
