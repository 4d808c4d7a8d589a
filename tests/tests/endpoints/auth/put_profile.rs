//! `PUT /as/profile` and `GET /as/users/{name}/picture` (AS-6)

use ciborium::Value;
use postern_protocol::{
    LookupSecret, MessageDigest, Payload,
    problem::ProblemType,
    profile::{
        LOOKUP_SECRET, PictureFormat, PictureLink, Profile, ProfileKey, PutProfile, SignedProfile,
        UserPicture,
    },
};
use postern_tests_kit::{Call, Reply, User, World};
use reqwest::{Method, StatusCode};

use super::commit_identity::random_user;
use crate::every_route::Valid;

/// A PNG's beginning, which says that it has so many pixels.
fn png(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &size, &[8, 6, 0, 0, 0, 0, 0, 0, 0], &[0; 16]].concat()
}

fn link(picture: &[u8]) -> PictureLink {
    PictureLink {
        format: PictureFormat::Png,
        bytes: picture.len() as u32,
        digest: MessageDigest::of(picture),
    }
}

fn profile(version: u64, name: &str) -> Profile {
    Profile {
        incarnation: 0,
        version,
        discoverable: true,
        display_name: name.to_owned(),
        text: "climbs\non Sundays".to_owned(),
        picture: None,
        sealed: Payload::new(b"sealed".into()),
    }
}

fn putting(user: &User, profile: Profile, picture: Option<&[u8]>) -> Call {
    let body = PutProfile {
        profile: SignedProfile::sign(&user.founding.transcript, profile, &user.device.key),
        picture: picture.map(|picture| Payload::new(picture.to_vec())),
        lookup: None,
    };
    Call::put("/as/profile").with(&body).signed_by(&user.device.key)
}

fn fetching(user: &User) -> Call {
    Call::get(format!("/as/users/{}/picture", user.name))
}

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        optional: &["picture", "lookup"],
        ..Valid::new(putting(&user, profile(1, "Alice"), None), StatusCode::NO_CONTENT)
    }
}

pub async fn valid_picture(world: &World) -> Valid {
    let (user, picture) = (random_user(world).await, png(64, 64));
    let with = Profile { picture: Some(link(&picture)), ..profile(1, "Alice") };
    world.pay(&putting(&user, with, Some(&picture))).await.assert_ok("a profile");
    let malformed = ProblemType::MalformedRequest;
    let targets = vec![
        ("/as/users/nobody@home.example/picture".to_owned(), ProblemType::NotFound),
        ("/as/users/alice@elsewhere.example/picture".to_owned(), ProblemType::ForeignDomain),
        (format!("/as/users/{}@home.example/picture", user.name), malformed),
    ];
    Valid { targets, ..Valid::new(fetching(&user), StatusCode::OK) }
}

#[tokio::test]
async fn a_profile_is_shown_as_a_client_signed_it_and_goes_on_from_version_to_version() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    assert_eq!(world.look_up(&alice.name).await.profile, None);
    // More than most requests may have.
    let picture = [png(300, 200), vec![0; 100_000]].concat();
    let first = Profile { picture: Some(link(&picture)), ..profile(1, "Alice") };
    world.pay(&putting(&alice, first.clone(), Some(&picture))).await.assert_ok("a profile");
    let shown = world.look_up(&alice.name).await.profile.unwrap();
    assert_eq!(shown.profile, first);
    assert_eq!(shown.verify(&alice.founding.transcript), Ok(()));
    let fetched: UserPicture = world.pay(&fetching(&alice)).await.decode();
    assert_eq!(fetched.picture.as_bytes(), picture);

    let outdated = ProblemType::ProfileOutdated;
    for version in [0, 1] {
        world
            .assert_refuses("no later version", &putting(&alice, profile(version, "Ann"), None), outdated)
            .await;
    }
    // The picture need not be sent again, and goes when the profile names none.
    let renamed = Profile { version: 5, display_name: "Ann".into(), ..first };
    world.pay(&putting(&alice, renamed.clone(), None)).await.assert_ok("the same picture");
    world.pay(&fetching(&alice)).await.assert_ok("the picture is kept");
    world.pay(&putting(&alice, profile(6, "Ann"), None)).await.assert_ok("no picture");
    world.pay(&fetching(&alice)).await.assert_problem("none is left", ProblemType::NotFound);
    let again = putting(&alice, Profile { version: 7, ..renamed }, None);
    world.assert_refuses("a picture that the server has not", &again, ProblemType::InvalidProfile).await;
    let far = putting(&alice, profile(u64::MAX >> 1, "Ann"), None);
    world.assert_refuses("a version that nothing could follow", &far, outdated).await;
    world.close();
}

#[tokio::test]
async fn a_profile_of_somebody_else_or_of_more_than_a_profile_is_refused() {
    let world = World::start().await;
    let (mut alice, bob) = (world.user("alice").await, world.user("bob").await);
    let pending = world.add_pending_device(&mut alice).await;
    let (invalid, large) = (ProblemType::InvalidProfile, ProblemType::BodyTooLarge);
    let valid = putting(&alice, profile(1, "Alice"), None);
    let of_bob = putting(&bob, profile(1, "Bob"), None);
    let picture = png(64, 64);
    let with = |picture: &[u8], link: PictureLink| {
        putting(&alice, Profile { picture: Some(link), ..profile(1, "Alice") }, Some(picture))
    };
    let jpeg = PictureLink { format: PictureFormat::Jpeg, ..link(&picture) };
    let long = "x".repeat(2000);
    for (what, call, expected) in [
        ("another user's profile", of_bob.signed_by(&alice.device.key), invalid),
        ("a pending client", valid.clone().signed_by(&pending.key), ProblemType::NotAllowed),
        (
            "another incarnation",
            putting(&alice, Profile { incarnation: 1, ..profile(1, "Alice") }, None),
            invalid,
        ),
        ("a long name", putting(&alice, profile(1, &long), None), large),
        ("a long text", putting(&alice, Profile { text: long.clone(), ..profile(1, "Alice") }, None), large),
        ("a name with a control character", putting(&alice, profile(1, "Al\u{1b}ice"), None), invalid),
        ("a picture that is none", with(b"no picture", link(b"no picture")), invalid),
        ("a picture of another format", with(&picture, jpeg), invalid),
        ("another picture", with(&picture, link(&png(65, 64))), invalid),
        ("a picture of many pixels", with(&png(5000, 64), link(&png(5000, 64))), invalid),
        ("a picture that is not named", putting(&alice, profile(1, "Alice"), Some(&picture)), invalid),
        ("a large picture", with(&vec![0; 200_000], link(&picture)), large),
        (
            "another signature",
            {
                let (_, value) = valid.fields().remove(0);
                let mut fields = value.into_map().unwrap();
                for (name, value) in &mut fields {
                    if name.as_text() == Some("signature") {
                        *value = Value::Bytes(vec![0; 64]);
                    }
                }
                valid.with_field("profile", Value::Map(fields))
            },
            invalid,
        ),
    ] {
        world.assert_refuses(what, &call, expected).await;
    }
    world.pay(&valid).await.assert_ok("the valid one after all");
    world.close();
}

/// The call by which a user hides from all but those that have the key.
fn hiding(user: &User, profile: Profile, picture: &[u8], key: &ProfileKey) -> Call {
    let body = PutProfile {
        profile: SignedProfile::sign(&user.founding.transcript, profile, &user.device.key),
        picture: Some(Payload::new(picture.to_vec())),
        lookup: Some(key.lookup_secret().digest()),
    };
    Call::put("/as/profile").with(&body).signed_by(&user.device.key)
}

/// All headers of an answer but the moment.
fn headers(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let all = reply.headers.iter().filter(|(name, _)| *name != "date");
    all.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

#[tokio::test]
async fn a_user_who_hides_is_unknown_to_all_but_contacts() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let (key, picture) = (ProfileKey::generate(), png(64, 64));
    let hidden = Profile { picture: Some(link(&picture)), discoverable: false, ..profile(1, "Alice") };
    let hiding = hiding(&alice, hidden, &picture, &key);
    let unsaid = putting(&alice, profile(1, "Alice"), None);
    let unsaid = unsaid.with_field("lookup", Value::Bytes(vec![7; 32])).signed_by(&alice.device.key);
    world
        .assert_refuses("a secret that the profile does not tell of", &unsaid, ProblemType::InvalidProfile)
        .await;
    world.pay(&hiding).await.assert_ok("hiding");
    for path in ["", "/picture"] {
        let of = |user: &str, secret: Option<LookupSecret>| {
            Call::get(format!("/as/users/{user}@home.example{path}")).showing(secret)
        };
        let other = ProfileKey::generate().lookup_secret();
        for secret in [None, Some(other)] {
            let [hidden, unknown] = [of("alice", secret), of("nobody", secret)];
            let [hidden, unknown] = [world.pay(&hidden).await, world.pay(&unknown).await];
            hidden.assert_problem("hidden", ProblemType::NotFound);
            assert_eq!((hidden.status, &hidden.body), (unknown.status, &unknown.body));
            assert_eq!(headers(&hidden), headers(&unknown));
        }
        let of_contact = of("alice", Some(key.lookup_secret()));
        world.pay(&of_contact).await.assert_ok("a contact");
        let head = Call { method: Method::HEAD, ..of_contact.clone() };
        world.pay(&head).await.assert_ok("a contact that asks for the head");
        let secret = key.lookup_secret().to_base64url();
        for (what, values) in [("a short one", vec!["AAAA"]), ("two", vec![&secret; 2])] {
            let mut wire = world.paid(of_contact.clone()).wire();
            wire.headers.remove(LOOKUP_SECRET);
            for value in values {
                wire.headers.append(LOOKUP_SECRET, value.parse().unwrap());
            }
            world.send(&wire).await.assert_problem(what, ProblemType::MalformedRequest);
        }
        let in_url = Call::get(format!("/as/users/alice@home.example{path}?contact={secret}"));
        world.pay(&in_url).await.assert_problem("a secret in the URL", ProblemType::NotFound);
    }
    let dump = world.cluster.dump().await;
    assert!(!dump.contains(&hex::encode(key.lookup_secret().as_bytes())), "the AS does not keep the secret");
    world.close();
}

/// Blocks of tables and indexes that a call of a function reads.
async fn blocks_read(world: &World, call: &str) -> i64 {
    let mut calls = Vec::new();
    for _ in 0..10 {
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}");
        let row = world.admin.query_one(&explain, &[]).await.unwrap();
        let plan: serde_json::Value = row.get(0);
        let plan = &plan[0]["Plan"];
        let count = |key: &str| plan[key].as_i64().expect("blocks are counted");
        calls.push(count("Shared Hit Blocks") + count("Shared Read Blocks"));
    }
    // By the later calls plans and pages are as they stay; one of them may have to read the catalog again, because
    // autovacuum was there.
    *calls[5..].iter().min().expect("there were calls")
}

/// So neither the times of answers nor the load of the server tell a stranger more than the answers (AS-5, AS-8).
#[tokio::test]
async fn the_database_does_the_same_for_names_that_nobody_has_and_for_those_that_are_not_shown() {
    let world = World::start().await;
    let (alice, bob, carol) = (world.user("alice").await, world.user("bob").await, world.user("carol").await);
    let (key, picture) = (ProfileKey::generate(), png(64, 64));
    let hidden = Profile { picture: Some(link(&picture)), discoverable: false, ..profile(1, "Alice") };
    world.pay(&hiding(&alice, hidden, &picture, &key)).await.assert_ok("hiding");
    world.admin.query("SELECT operator.delete_user('carol')", &[]).await.unwrap();
    let others = "INSERT INTO auth.users (name, recovery_key, lookup)
                  SELECT 'user-' || n, sha256(''), CASE WHEN n % 2 = 0 THEN sha256(n::text::bytea) END
                    FROM generate_series(1, 5000) n";
    world.admin.batch_execute(others).await.unwrap();
    world.admin.batch_execute("VACUUM ANALYZE auth.users").await.unwrap();
    for operation in ["auth.look_up_user", "auth.fetch_picture"] {
        world.admin.execute("SELECT operator.set_price($1, 0)", &[&operation]).await.unwrap();
    }
    let (wrong, right) = (ProfileKey::generate().lookup_secret().digest(), key.lookup_secret().digest());
    let reads = async |template: &str, name: &str, digest: Option<&MessageDigest>| {
        let digest =
            digest.map_or("NULL".to_owned(), |digest| format!("'\\x{}'", hex::encode(digest.as_bytes())));
        blocks_read(&world, &template.replace("{name}", name).replace("{digest}", &digest)).await
    };
    for lookup in [
        "auth.look_up_user(1::smallint, '', '{name}', NULL, NULL, {digest})",
        "auth.look_up_user(1::smallint, '', '{name}', 0, 0, {digest})",
        "auth.fetch_picture(1::smallint, '', '{name}', {digest})",
    ] {
        for digest in [None, Some(&wrong)] {
            let unknown = reads(lookup, "nobody", digest).await;
            for name in ["alice", "carol"] {
                assert_eq!(reads(lookup, name, digest).await, unknown, "{lookup}, {name}");
            }
            if lookup.contains("look_up_user") {
                assert!(reads(lookup, bob.name.local(), digest).await > unknown, "everybody can look Bob up");
            }
        }
        let unknown = reads(lookup, "nobody", Some(&right)).await;
        assert_eq!(reads(lookup, "carol", Some(&right)).await, unknown, "{lookup}");
        assert!(reads(lookup, "alice", Some(&right)).await > unknown, "with her secret there is more");
    }
    // Each name beside one that somebody has and that comes next, or is the last.
    for (known, unknown) in [
        ("alice", "aaa"),
        ("bob", "alice-2"),
        ("user-1", "nobody"),
        ("user-1", carol.name.local()),
        ("user-2500", "user-2499-9"),
        ("user-999", "zoe"),
    ] {
        let find = "auth.find_lost_account('{name}')";
        assert_eq!(reads(find, unknown, None).await, reads(find, known, None).await, "{unknown}, {known}");
    }
    let count = "auth.count_wrong_proof('{name}')";
    let known = reads(count, bob.name.local(), None).await;
    for name in ["alice", carol.name.local(), "nobody"] {
        assert_eq!(reads(count, name, None).await, known, "{name}");
    }
    world.close();
}
