//! Accounts: what a user does with their own, its devices and its identity, happens once though answers are lost.

use std::time::Duration;

use postern_client::{Client, Event, ProfileChange};
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{BadLine, PATIENCE, World};

use super::{ALL_ATTEMPTS, Scene, insist_after, months_pass, options, written_down};

#[tokio::test]
async fn a_device_is_added_once_though_answers_were_lost() {
    let scene = Scene::start().await;
    for named in ["POST /as/eid/commits", "GET /as/users/"] {
        for times in [1, ALL_ATTEMPTS] {
            let name = format!("device-{}-{times}", named.len());
            let builder = Client::builder(scene.world.homes.path().join(name))
                .server(scene.line.url())
                .options(options());
            let request = builder.request_link(scene.alice.user()).unwrap();
            let grant = scene.insist(named, times, async || scene.alice.approve_link(&request).await).await;
            scene
                .insist("POST /as/credentials", times, async || builder.complete_link(&grant).await.map(drop))
                .await;
            let device = builder.open().unwrap();
            assert_eq!(device.user(), scene.alice.user());
        }
    }
    let found = scene.bob.look_up(scene.alice.user()).await.unwrap();
    assert_eq!(found.clients.len(), 5);
}

#[tokio::test]
async fn what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost() {
    let scene = Scene::start().await;
    let (alice, bob, world) = (&scene.alice, &scene.bob, &scene.world);
    world.admin.batch_execute("SELECT operator.set_user_limit('invites_per_user', 2)").await.unwrap();
    let mut key = written_down(alice);
    for (invites, times) in [1, ALL_ATTEMPTS].into_iter().enumerate() {
        let name = format!("Alice, lost {times} times");
        let change = ProfileChange { display_name: Some(name.clone()), ..ProfileChange::default() };
        scene.insist("PUT /as/profile", times, async || alice.change_profile(&change).await).await;
        bob.look_up(alice.user()).await.unwrap();
        assert_eq!(bob.profile(alice.user()).unwrap().display_name, name);

        // The beginning of a PNG, and another rest each time.
        let beginning = &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x40\x08\x06\0\0\0\0\0\0\0"[..];
        let picture = [beginning, name.as_bytes()].concat();
        let change = ProfileChange { picture: Some(picture.clone()), ..ProfileChange::default() };
        bob.change_profile(&change).await.unwrap();
        alice.look_up(bob.user()).await.unwrap();
        let seen = scene.insist("/picture ", times, async || alice.picture(bob.user()).await).await;
        assert_eq!(seen, Some(picture));

        let (code, _) = scene.insist("POST /as/invites", times, async || alice.make_invite().await).await;
        assert_eq!(world.count("auth.invites").await, invites as i64 + 1, "one more");
        let sql = "SELECT count(*) FROM auth.invites WHERE digest = $1";
        let digest = code.digest();
        let row = world.admin.query_one(sql, &[&digest.as_bytes().as_slice()]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1, "whoever has the code can use it");

        let named = "PUT /as/account/recovery-key";
        let new = scene.insist(named, times, async || alice.replace_recovery_key(&key).await).await;
        assert_ne!(new, key);
        key = written_down(alice);
        assert_eq!(key, new);
    }
    let full = alice.make_invite().await.unwrap_err();
    assert_eq!(full.problem(), Some(ProblemType::TooManyInvites));
}

#[tokio::test]
async fn a_user_is_renamed_once_though_answers_were_lost() {
    for times in [1, ALL_ATTEMPTS] {
        let scene = Scene::start().await;
        let (old, key) = (scene.alice.user().clone(), written_down(&scene.alice));
        let named = "PUT /as/account/name";
        let alice = scene.insist(named, times, async || scene.alice.rename("alicia", &key).await).await;
        assert_eq!(alice.user().to_string(), "alicia@home.example");
        assert_eq!(scene.world.count("auth.former_names").await, 1);
        scene.bob.look_up(alice.user()).await.unwrap();
        let renamed = Event::Renamed { from: old, to: alice.user().clone() };
        assert!(scene.bob.sync(Duration::ZERO).await.unwrap().contains(&renamed));
        alice.group_with_id(&scene.group).send("under another name").await.unwrap();
        let said =
            |event: &Event| matches!(event, Event::Message { text, .. } if text == "under another name");
        assert!(scene.bob.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
    }
}

#[tokio::test]
async fn an_identity_is_begun_anew_once_though_answers_were_lost() {
    for named in ["POST /as/account/end", "POST /as/account/reset"] {
        for times in [1, ALL_ATTEMPTS] {
            let world = World::builder().start().await;
            let line = BadLine::to(world.server().address()).await;
            let bob = world.person("bob").await;
            let key = written_down(&bob);
            let phone = Client::builder(world.homes.path().join("new-phone")).server(line.url());
            let reset = async || phone.reset("bob", &key).await;
            let again = insist_after(&line, (named, 0), times, reset).await;
            assert_ne!(again.client_key(), bob.client_key());
            assert_eq!(again.devices().await.unwrap().len(), 1, "{named}, {times}");
            assert_eq!(world.count("auth.incarnations").await, 2, "{named}, {times}");
        }
    }
}

/// After months the AS has no credential of the client that began the identity any more. Whatever it says to the repeat,
/// that client's key is given up only when it is nobody's.
#[tokio::test]
async fn an_identity_whose_beginning_had_no_answer_is_its_clients_after_months() {
    for is_refused in [false, true] {
        let world = World::builder().start().await;
        let line = BadLine::to(world.server().address()).await;
        let bob = world.person("bob").await;
        let key = written_down(&bob);
        let phone = Client::builder(world.homes.path().join("new-phone")).server(line.url());
        line.cut("POST /as/account/reset", ALL_ATTEMPTS, 0);
        let lost = phone.reset("bob", &key).await;
        assert!(lost.err().expect("there is no answer").is_passing());
        line.mend();
        months_pass(&world).await;
        if is_refused {
            line.answer("POST /as/account/reset", 100, &BadLine::refusal(ProblemType::NotAllowed));
        }
        let again = phone.reset("bob", &key).await.unwrap_or_else(|error| panic!("{is_refused}: {error}"));
        line.mend();
        again.create_group("mine").await.unwrap();
        assert_eq!(again.devices().await.unwrap().len(), 1);
        assert_eq!(world.count("auth.incarnations").await, 2, "{is_refused}");
        assert_eq!(world.count("auth.clients WHERE credential IS NULL").await, 0, "{is_refused}");
    }
}

#[tokio::test]
async fn an_account_is_deleted_though_answers_were_lost() {
    // A rehearsal comes before.
    for spared in [0, 1] {
        for times in [1, ALL_ATTEMPTS] {
            let scene = Scene::start().await;
            let (alice, key) = (&scene.alice, written_down(&scene.alice));
            let deleting = ("DELETE /as/account", spared);
            insist_after(&scene.line, deleting, times, async || alice.delete_account(&key).await).await;
            assert!(Client::open(alice.directory()).is_err(), "it is no client any more");
            let sql = "SELECT count(*) FROM auth.users WHERE name = 'alice'";
            assert_eq!(scene.world.value::<i64>(sql).await, 0, "spared {spared}, lost {times}");
        }
    }
}
