//! HTTP Message Signatures (RFC 9421): a signed route takes nothing else than a fresh signature, by the right key,
//! over exactly this request.

use ciborium::Value;
use postern_protocol::{key::SigningKey, problem::ProblemType};
use postern_tests_kit::{
    Wire, World,
    signature::{Input, content_digest},
};

use super::every_request;

type Tampering = fn(&mut Wire, &SigningKey, &SigningKey);

/// Each gets a request without a signature, its signer's key and another one.
const TAMPERINGS: [(&str, Tampering); 30] = [
    ("no signature", |_, _, _| {}),
    ("no Signature-Input", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.headers.remove("signature-input");
    }),
    ("no Signature", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.headers.remove("signature");
    }),
    ("no Content-Digest", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.headers.remove("content-digest");
    }),
    ("another key's signature", |wire, key, other| {
        let keyid = format!("\"{}\"", key.public_key().to_base64url());
        wire.sign(other, |input| input.set("keyid", keyid));
    }),
    ("a signature of zeros", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.set("signature", &format!("sig=:{}=:", "A".repeat(86) + "="));
    }),
    ("a short signature", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.set("signature", "sig=:AAAA:");
    }),
    ("a signature over another body", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.body = another(&wire.body);
    }),
    ("a signature over another body, with this one's digest", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.body = another(&wire.body);
        wire.set("content-digest", &content_digest(&wire.body));
    }),
    ("a signature for another domain", |wire, key, _| {
        wire.sign(key, |input| "elsewhere.example".clone_into(&mut input.authority));
    }),
    ("a signature for the host that leads to the server", |wire, key, _| {
        wire.sign(key, |input| "127.0.0.1".clone_into(&mut input.authority));
    }),
    ("a signature over another path", |wire, key, _| {
        let target = std::mem::replace(&mut wire.target, "/ds/group-ids".to_owned());
        wire.sign(key, |_| {});
        wire.target = target;
    }),
    ("a signature over another query", |wire, key, _| {
        wire.sign(key, |_| {});
        wire.target += "?page=2";
    }),
    ("a signature over another method", |wire, key, _| {
        let method = std::mem::replace(&mut wire.method, reqwest::Method::PATCH);
        wire.sign(key, |_| {});
        wire.method = method;
    }),
    ("a signature over another Authorization", |wire, key, _| {
        let before = wire.headers.clone();
        wire.set("authorization", "PrivateToken token=\"AAAA\"");
        wire.sign(key, |_| {});
        match before.get("authorization") {
            Some(token) => wire.headers.insert("authorization", token.clone()),
            None => wire.headers.remove("authorization"),
        };
    }),
    ("a signature that leaves out the method", |wire, key, _| {
        wire.sign(key, |input| leave_out(input, "@method"));
    }),
    ("a signature that leaves out the domain", |wire, key, _| {
        wire.sign(key, |input| leave_out(input, "@authority"));
    }),
    ("a signature that leaves out the path", |wire, key, _| {
        wire.sign(key, |input| leave_out(input, "@path"));
    }),
    ("a signature that leaves out the query", |wire, key, _| {
        wire.sign(key, |input| leave_out(input, "@query"));
    }),
    ("a signature that leaves out the digest", |wire, key, _| {
        wire.sign(key, |input| leave_out(input, "content-digest"));
    }),
    ("a signature over nothing", |wire, key, _| wire.sign(key, |input| input.components.clear())),
    ("a signature in another order", |wire, key, _| wire.sign(key, |input| input.components.reverse())),
    ("a signature 310 s old", |wire, key, _| wire.sign(key, |input| input.shift(-310))),
    ("a signature 90 s ahead", |wire, key, _| wire.sign(key, |input| input.shift(90))),
    ("a signature that expired", |wire, key, _| wire.sign(key, |input| input.set("expires", "1600000000"))),
    ("a signature without a time", |wire, key, _| {
        wire.sign(key, |input| input.parameters.retain(|(name, _)| *name != "created"));
    }),
    ("a signature without a key id", |wire, key, _| {
        wire.sign(key, |input| input.parameters.retain(|(name, _)| *name != "keyid"));
    }),
    ("a key id that is no key", |wire, key, _| wire.sign(key, |input| input.set("keyid", "\"alice\""))),
    ("another algorithm", |wire, key, _| wire.sign(key, |input| input.set("alg", "\"hmac-sha256\""))),
    ("two signatures", |wire, key, _| {
        wire.sign(key, |_| {});
        let (input, signature) =
            (wire.header("signature-input").to_owned(), wire.header("signature").to_owned());
        wire.set("signature-input", &format!("{input}, two{}", input.trim_start_matches("sig")));
        wire.set("signature", &format!("{signature}, two{}", signature.trim_start_matches("sig")));
    }),
];

/// Another body that says the same: a route may look at the form of a body before it looks at its signature.
fn another(body: &[u8]) -> Vec<u8> {
    let Ok(Value::Map(mut fields)) = ciborium::from_reader(body) else { return [body, b" "].concat() };
    fields.push((Value::from("of tomorrow"), Value::from(1)));
    let mut another = Vec::new();
    ciborium::into_writer(&Value::Map(fields), &mut another).expect("it can be encoded");
    another
}

fn leave_out(input: &mut Input, component: &str) {
    input.components.retain(|found| *found != component);
}

#[tokio::test]
async fn a_signed_route_takes_nothing_but_a_fresh_signature_over_this_very_request() {
    let world = World::start().await;
    world.restock(1000).await;
    let other = SigningKey::generate();
    let mut signed_routes = 0;
    for entry in every_request(&world).await {
        let Some(key) = &entry.valid.call.signer else { continue };
        signed_routes += 1;
        for (kind, tamper) in TAMPERINGS {
            let mut wire = entry.paid(&world).unsigned();
            tamper(&mut wire, key, &other);
            let what = format!("{} with {kind}", entry.name);
            world.assert_refused(&what, &wire, ProblemType::SignatureRequired).await;
        }
        if entry.paid {
            let mut wire = entry.paid(&world).unsigned();
            wire.sign(key, |input| leave_out(input, "authorization"));
            let what = format!("{} with a signature that leaves out the token", entry.name);
            world.assert_refused(&what, &wire, ProblemType::SignatureRequired).await;
        }
        entry.assert_accepted(&world).await;
    }
    assert!(signed_routes >= 10, "{signed_routes}");
    world.close();
}

#[tokio::test]
async fn a_signature_by_a_key_without_the_right_is_refused() {
    let world = World::start().await;
    let mut tried = 0;
    for entry in every_request(&world).await {
        let Some(expected) = entry.valid.stranger else { continue };
        tried += 1;
        let call = entry.paid(&world).signed_by(&SigningKey::generate());
        world.assert_refused(&format!("{} by a stranger", entry.name), &call.wire(), expected).await;
        entry.assert_accepted(&world).await;
    }
    assert!(tried >= 9, "{tried}");
    world.close();
}

#[tokio::test]
async fn a_signature_may_say_more_and_in_any_order() {
    let world = World::start().await;
    world.stock(100).await;
    let variations: [(&str, fn(&mut Input)); 6] = [
        ("parameters in another order", |input| input.parameters.reverse()),
        ("no algorithm", |input| input.parameters.retain(|(name, _)| *name != "alg")),
        ("a nonce and a tag", |input| {
            input.set("tag", "\"postern\"");
            input.set("nonce", "\"once\"");
        }),
        ("a parameter of tomorrow", |input| input.set("mood", "\"cheerful\"")),
        ("an expiry to come", |input| input.set("expires", "4000000000")),
        ("another label and 270 s of age", |input| {
            input.label = "postern";
            input.shift(-270);
        }),
    ];
    for (kind, vary) in variations {
        for entry in every_request(&world).await {
            let Some(key) = &entry.valid.call.signer else { continue };
            let mut wire = entry.paid(&world).unsigned();
            wire.sign(key, vary);
            let reply = world.send(&wire).await;
            assert_eq!(reply.status, entry.valid.status, "{} with {kind}: {reply:?}", entry.name);
        }
        world.stock(100).await;
    }
    world.close();
}
