//! `PUT /as/contact` (AS-5)

use ciborium::Value;
use postern_protocol::{
    auth::{PublishContact, SignedContact},
    key::SigningKey,
    name::Domain,
    problem::ProblemType,
};
use postern_tests_kit::{Call, World, fresh_address, home, hpke_key};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::every_route::Valid;

pub fn contact(domain: &Domain, client: &SigningKey) -> SignedContact {
    SignedContact::sign(domain.clone(), fresh_address(), hpke_key(), client)
}

pub fn publishing(contact: &SignedContact, client: &SigningKey) -> Call {
    Call::put("/as/contact").with(&PublishContact { contact: contact.clone() }).signed_by(client)
}

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let key = &user.device.key;
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(publishing(&contact(&home(), key), key), StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn a_client_publishes_its_contact_and_replaces_it() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    assert_eq!(world.look_up(&alice.name).await.clients[0].contact, None);
    for _ in 0..2 {
        let contact = contact(&home(), &alice.device.key);
        world.pay(&publishing(&contact, &alice.device.key)).await.assert_ok("publishing");
        assert_eq!(world.look_up(&alice.name).await.clients[0].contact, Some(contact.clone()));
        let address = hex::encode(contact.address.as_bytes());
        assert!(!world.cluster.dump().await.contains(&address), "a dump joins no name to a queue (PRIV-1)");
    }
    world.close();
}

#[tokio::test]
async fn a_contact_that_its_client_did_not_sign_is_refused() {
    let world = World::start().await;
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let (key, other) = (&alice.device.key, &bob.device.key);
    let of_bob = contact(&home(), other);
    world.assert_refuses("another's contact", &publishing(&of_bob, key), ProblemType::NotAllowed).await;
    let foreign = contact(&"elsewhere.example".parse().unwrap(), key);
    world.assert_refuses("on another domain", &publishing(&foreign, key), ProblemType::ForeignDomain).await;
    let good = contact(&home(), key);
    let moved = SignedContact { address: fresh_address(), ..good.clone() };
    world.assert_refuses("another address", &publishing(&moved, key), ProblemType::NotAllowed).await;
    let rekeyed = SignedContact { hpke_key: hpke_key(), ..good.clone() };
    world.assert_refuses("another HPKE key", &publishing(&rekeyed, key), ProblemType::NotAllowed).await;
    let stranger = SigningKey::generate();
    let unknown = publishing(&contact(&home(), &stranger), &stranger);
    world.assert_refuses("a key that is no client's", &unknown, ProblemType::NotAllowed).await;
    let mut carol = world.user("carol").await;
    let pending = world.add_pending_device(&mut carol).await.key;
    let pending = publishing(&contact(&home(), &pending), &pending);
    world.assert_refuses("a pending client", &pending, ProblemType::NotAllowed).await;

    let valid = publishing(&good, key);
    for field in ["domain", "address", "hpke_key", "signature"] {
        let (_, contact) = valid.fields().remove(0);
        let fields =
            contact.into_map().unwrap().into_iter().filter(|(name, _)| name.as_text() != Some(field));
        let call = valid.with_field("contact", Value::Map(fields.collect()));
        world.assert_refuses(&format!("without {field}"), &call, ProblemType::MalformedBody).await;
    }
    world.close();
}
