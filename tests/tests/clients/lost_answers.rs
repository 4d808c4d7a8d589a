//! Lost answers: the server has acted, and the client does not know. Every call of the client has its answer lost once
//! (then the client repeats it by itself) and four times (then it gives up, and its next step goes on). An outcome that
//! is not known is never taken for a refusal, and nothing happens twice. [`LOST`] has each endpoint that clients call.

use std::{collections::BTreeSet, time::Duration};

use postern_client::{Client, Error, Event, Group, Options, ProfileChange, RecoveryKey};
use postern_protocol::{
    ds::GroupId,
    problem::{Problem, ProblemType},
    qs::QueueKind,
};
use postern_server::routes;
use postern_tests_kit::{BadLine, PATIENCE, PushService, World, befriend, eventually, joined};

/// The client's own attempts at one request.
const ALL_ATTEMPTS: usize = 4;

fn options() -> Options {
    Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() }
}

async fn register(world: &World, line: &BadLine, name: &str) -> Result<Client, Error> {
    let builder = Client::builder(world.homes.path().join(name)).server(line.url()).options(options());
    builder.register(name).await
}

/// The same device after a restart of its program.
fn restart(client: Client) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).options(options()).open().unwrap()
}

/// Somebody whose line may be bad, in a group with somebody whose line is good.
struct Scene {
    world: World,
    line: BadLine,
    alice: Client,
    bob: Client,
    /// Alice made it, and Bob is in it.
    group: GroupId,
}

impl Scene {
    async fn start() -> Self {
        let world = World::builder().pushing().start().await;
        let line = BadLine::to(world.server().address()).await;
        let alice = register(&world, &line, "alice").await.unwrap();
        let bob = world.person("bob").await;
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        befriend(&alice, &bob, &group).await;
        joined(&bob, 1).await;
        for client in [&alice, &bob] {
            client.sync(Duration::ZERO).await.unwrap();
        }
        Self { world, line, alice, bob, group }
    }

    fn alices(&self) -> Group {
        self.alice.group_with_id(&self.group)
    }

    /// Everything that Bob reads until a last message of Alice's.
    async fn bob_reads(&self) -> Vec<String> {
        self.alices().send("that is all").await.unwrap();
        let last = |event: &Event| matches!(event, Event::Message { text, .. } if text == "that is all");
        let events = self.bob.sync_until(PATIENCE, last).await.unwrap();
        let mut texts = texts(events);
        assert_eq!(texts.pop().as_deref(), Some("that is all"));
        texts
    }

    /// Does something of Alice's while the answers to requests like this are lost, and again until it is done.
    async fn insist<T>(&self, named: &str, times: usize, work: impl AsyncFn() -> Result<T, Error>) -> T {
        insist_after(&self.line, (named, 0), times, work).await
    }
}

/// Does something while the answers to requests like this are lost, after so many that are not, and again until it is done.
async fn insist_after<T>(
    line: &BadLine,
    (named, spared): (&str, usize),
    times: usize,
    work: impl AsyncFn() -> Result<T, Error>,
) -> T {
    line.cut_after(named, spared, times);
    let first = work().await;
    assert_eq!(line.mend(), times, "{named} was asked for, and its answer lost");
    if times < ALL_ATTEMPTS {
        return first.unwrap_or_else(|error| panic!("{named}, lost {times} times: {error}"));
    }
    let error = first.err().unwrap_or_else(|| panic!("{named} has no answer"));
    assert!(error.is_passing(), "{named}: {error}");
    work().await.unwrap_or_else(|error| panic!("{named}, after {times} lost answers: {error}"))
}

/// The recovery key as its owner wrote it down.
fn written_down(client: &Client) -> RecoveryKey {
    let key = client.recovery_key().unwrap().expect("it was not shown yet");
    client.forget_recovery_key().unwrap();
    key
}

fn texts(events: Vec<Event>) -> Vec<String> {
    let text = |event| match event {
        Event::Message { text, .. } => Some(text),
        _ => None,
    };
    events.into_iter().filter_map(text).collect()
}

#[tokio::test]
async fn all_that_is_said_while_the_server_is_away_arrives_once_and_in_order_in_each_group() {
    let Scene { world, line, mut alice, bob, group } = Scene::start().await;
    let other = alice.create_group("sailing").await.unwrap().id().clone();
    alice.group_with_id(&other).invite(bob.user()).await.unwrap();
    joined(&bob, 1).await;
    alice.sync(Duration::ZERO).await.unwrap();

    line.go_away();
    for text in ["1", "2"] {
        let away = alice.group_with_id(&group).send(text).await.unwrap_err();
        assert!(away.is_passing(), "{away}");
        alice.group_with_id(&other).keep(&format!("other {text}")).unwrap();
        alice = restart(alice);
    }
    for text in ["3", "4", "5"] {
        alice.group_with_id(&group).keep(text).unwrap();
    }
    assert_eq!(alice.group_with_id(&group).unsent().unwrap(), 5);
    assert!(alice.has_errands().unwrap());

    // The line is back, and loses answers.
    line.mend();
    line.cut("/messages", 3, 0);
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(line.mend(), 3);
    for id in [&group, &other] {
        assert_eq!(alice.group_with_id(id).unsent().unwrap(), 0);
        alice.group_with_id(id).send("that is all").await.unwrap();
    }
    let mut read: [Vec<String>; 2] = Default::default();
    while read.iter().any(|texts| texts.last().is_none_or(|text| text != "that is all")) {
        for event in bob.sync(PATIENCE).await.unwrap() {
            let Event::Message { group: of, text, .. } = event else { continue };
            let place = usize::from(bob.group_with_id(&of).id() != &group);
            read[place].push(text);
        }
    }
    assert_eq!(read[0], ["1", "2", "3", "4", "5", "that is all"]);
    assert_eq!(read[1], ["other 1", "other 2", "that is all"]);
    drop(world);
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for_and_the_sender_is_told() {
    let Scene { world: _world, line, alice, bob: _, group } = Scene::start().await;
    let directory = alice.directory().to_owned();
    drop(alice);
    let options = Options { unsent_messages: 2, ..options() };
    let alice = Client::builder(directory).options(options).open().unwrap();
    line.go_away();
    let group = alice.group_with_id(&group);
    for text in ["1", "2"] {
        group.keep(text).unwrap();
    }
    let full = group.keep("3").unwrap_err();
    assert!(matches!(full, Error::OutboxFull { messages: 2 }), "{full}");
    line.mend();
    group.deliver().await.unwrap();
    group.send("3").await.unwrap();
}

#[tokio::test]
async fn a_message_that_the_server_refuses_is_not_in_the_way_of_the_next() {
    let scene = Scene::start().await;
    let group = scene.alices();
    let too_long = "x".repeat(200_000);
    let refused = group.send(&too_long).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::MessageTooLarge));
    assert_eq!(group.unsent().unwrap(), 0);
    // The same, where nobody waits for the answer.
    group.keep(&too_long).unwrap();
    group.keep("after it").unwrap();
    group.deliver().await.unwrap();
    let events = scene.alice.sync(Duration::ZERO).await.unwrap();
    let unsent = |event: &&Event| matches!(event, Event::Unsent { text, .. } if *text == too_long);
    assert_eq!(events.iter().filter(unsent).count(), 1, "the other one was told at once");
    assert_eq!(scene.bob_reads().await, ["after it"]);
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_costs_a_repeat_and_nothing_else() {
    let scene = Scene::start().await;
    let mut said = Vec::new();
    // The answers have some 150 bytes: a few of these cuts come after the end.
    for bytes in 0..180 {
        let text = format!("cut after {bytes} bytes");
        scene.line.cut("/messages", 1, bytes);
        scene.alices().send(&text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(scene.line.mend(), 1);
        said.push(text);
        if bytes % 50 == 49 {
            let read = scene.bob_reads().await;
            assert_eq!(read, std::mem::take(&mut said));
        }
    }
    assert_eq!(scene.bob_reads().await, said);
}

#[tokio::test]
async fn a_founding_and_a_delivery_may_be_cut_at_any_byte() {
    let scene = Scene::start().await;
    let before = scene.world.count("ds.groups").await;
    let cuts: Vec<usize> = (0..160).step_by(9).collect();
    for bytes in &cuts {
        scene.line.cut("POST /ds/groups ", 1, *bytes);
        scene.alice.create_group(&format!("cut after {bytes}")).await.unwrap();
        assert_eq!(scene.line.mend(), 1);
    }
    assert_eq!(scene.world.count("ds.groups").await, before + cuts.len() as i64);

    let mut heard = Vec::new();
    let said: Vec<String> = (0..700).step_by(29).map(|bytes| format!("cut after {bytes}")).collect();
    for (text, bytes) in said.iter().zip((0..700).step_by(29)) {
        scene.bob.group_with_id(&scene.group).send(text).await.unwrap();
        scene.line.cut("/dequeue", 1, bytes);
        heard.extend(texts(scene.alice.sync(Duration::ZERO).await.unwrap()));
        assert_eq!(scene.line.mend(), 1);
    }
    assert_eq!(heard, said);
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_taken_up_with_the_same_key() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    for (name, times) in [("once", 1), ("often", ALL_ATTEMPTS)] {
        line.cut("POST /as/users", times, 0);
        let first = register(&world, &line, name).await;
        assert_eq!(line.mend(), times);
        if times == ALL_ATTEMPTS {
            assert!(first.err().expect("there is no answer").is_passing());
            // The account exists by now. A refusal for now says nothing about the key.
            let body = Problem::new(ProblemType::TooManyRegistrations).to_json();
            let head = format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: {}\r\n\r\n", body.len());
            line.answer("POST /as/users", 100, &[head.as_bytes(), &body].concat());
            let error = register(&world, &line, name).await.err().expect("it is refused for now");
            assert_eq!(error.problem(), Some(ProblemType::TooManyRegistrations));
            line.mend();
            // Neither does a lack of tokens.
            let away = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            line.answer("POST /aas/token-request", 100, away);
            let error = register(&world, &line, name).await.err().expect("there are no tokens");
            assert!(error.is_passing(), "{error}");
            line.mend();
            register(&world, &line, name).await.expect("the key is there");
        } else {
            first.expect("the client asked again by itself");
        }
    }
    assert_eq!(world.count("auth.users").await, 2);
}

#[tokio::test]
async fn a_name_that_is_taken_leaves_nothing_behind_that_is_in_the_way_of_another() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    register(&world, &line, "alice").await.unwrap();
    let home = world.homes.path().join("another");
    let builder = Client::builder(&home).server(line.url()).options(options());
    let taken = builder.register("alice").await.err().expect("it is taken");
    assert_eq!(taken.problem(), Some(ProblemType::NameTaken));
    builder.register("another").await.expect("the directory can be used");
}

#[tokio::test]
async fn every_step_of_a_registration_may_lose_its_answer() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let steps = [
        "GET /as/keys",
        "GET /.well-known/private-token-issuer-directory",
        "POST /aas/token-request",
        "POST /qs/queues ",
        "/addresses ",
        "PUT /qs/key-packages",
        "PUT /as/contact",
    ];
    for (place, named) in steps.into_iter().enumerate() {
        for times in [1, ALL_ATTEMPTS] {
            let name = format!("user-{place}-{times}");
            line.cut(named, times, 0);
            let first = register(&world, &line, &name).await;
            assert_eq!(line.mend(), times, "{named}");
            let client = match first {
                Ok(client) => client,
                Err(error) => {
                    assert!(times == ALL_ATTEMPTS && error.is_passing(), "{named}: {error}");
                    register(&world, &line, &name).await.unwrap_or_else(|error| panic!("{named}: {error}"))
                }
            };
            client.create_group("mine").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_group_whose_founding_has_no_answer_is_founded_once() {
    let scene = Scene::start().await;
    for (place, named) in ["/addresses ", "POST /ds/group-ids", "POST /ds/groups "].into_iter().enumerate() {
        for times in [1, ALL_ATTEMPTS] {
            let before = scene.world.count("ds.groups").await;
            let title = format!("group {place}, lost {times} times");
            let group = scene.insist(named, times, async || scene.alice.create_group(&title).await).await;
            assert_eq!(scene.world.count("ds.groups").await, before + 1, "{named}");
            assert_eq!(scene.alice.group(&title).unwrap().id(), group.id(), "there is one of this title");
            group.send("it is there").await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_said_in_a_group_that_has_no_answer_yet_is_sent_once_it_is_founded() {
    let scene = Scene::start().await;
    scene.line.cut("POST /ds/groups ", ALL_ATTEMPTS, 0);
    scene.alice.create_group("sailing").await.unwrap_err();
    scene.line.go_away();
    let alice = restart(scene.alice);
    alice.group("sailing").unwrap().keep("first").unwrap();
    scene.line.mend();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(alice.group("sailing").unwrap().unsent().unwrap(), 0);
    alice.group("sailing").unwrap().invite(scene.bob.user()).await.unwrap();
    joined(&scene.bob, 1).await;
}

#[tokio::test]
async fn changes_of_a_group_whose_answers_are_lost_are_made_once() {
    let scene = Scene::start().await;
    let carol = scene.world.person("carol").await;
    befriend(&scene.alice, &carol, &scene.group).await;
    joined(&carol, 1).await;
    for times in [1, ALL_ATTEMPTS] {
        let epoch = scene.alices().epoch().unwrap();
        scene.insist("/messages", times, async || scene.alices().set_attributes(b"rope").await).await;
        assert!(scene.alices().epoch().unwrap() > epoch);
        scene.line.cut("/messages", times, 0);
        let removed = scene.alices().remove(carol.user()).await;
        scene.line.mend();
        if removed.is_err() {
            scene.alice.receive(Duration::ZERO).await.unwrap();
        }
        assert_eq!(scene.alices().members().unwrap().len(), 2);
        // She is invited again, by another KeyPackage of hers.
        scene.line.cut("/messages", times, 0);
        let invited = scene.alices().invite(carol.user()).await;
        scene.line.mend();
        if invited.is_err() {
            scene.alice.receive(Duration::ZERO).await.unwrap();
        }
        joined(&carol, 1).await;
        assert_eq!(scene.alices().members().unwrap().len(), 3);
        carol.group_with_id(&scene.group).send("here").await.unwrap();
        let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "here");
        assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
    }
}

#[tokio::test]
async fn who_leaves_is_out_though_the_answer_was_lost() {
    for (times, restarts) in [(1, false), (ALL_ATTEMPTS, false), (ALL_ATTEMPTS, true)] {
        let world = World::builder().start().await;
        let line = BadLine::to(world.server().address()).await;
        let (alice, bob) = (world.person("alice").await, register(&world, &line, "bob").await.unwrap());
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        befriend(&alice, &bob, &group).await;
        joined(&bob, 1).await;
        bob.receive(Duration::ZERO).await.unwrap();

        line.cut("/messages", times, 0);
        let left = bob.group_with_id(&group).leave().await;
        assert_eq!(line.mend(), times);
        let mut bob = bob;
        if times == ALL_ATTEMPTS {
            assert!(left.unwrap_err().is_passing());
            if restarts {
                bob = restart(bob);
            }
            bob.group_with_id(&group).leave().await.unwrap();
        } else {
            left.unwrap();
        }
        let said = bob.group_with_id(&group).keep("one more thing").unwrap_err();
        assert!(matches!(said, Error::Leaving), "{said}");
        alice.receive(Duration::ZERO).await.unwrap();
        alice.group_with_id(&group).send("who is there?").await.unwrap();
        let out = |event: &Event| matches!(event, Event::Left { .. });
        let events = bob.sync_until(PATIENCE, out).await.unwrap();
        assert!(events.iter().any(out), "{events:?}");
        assert!(bob.groups().unwrap().iter().all(|group| !group.active));
        assert_eq!(alice.group_with_id(&group).members().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn who_wants_to_leave_while_the_server_is_away_leaves_when_it_is_back() {
    let scene = Scene::start().await;
    let line = BadLine::to(scene.world.server().address()).await;
    let carol = register(&scene.world, &line, "carol").await.unwrap();
    befriend(&scene.alice, &carol, &scene.group).await;
    joined(&carol, 1).await;
    carol.receive(Duration::ZERO).await.unwrap();
    line.go_away();
    carol.group_with_id(&scene.group).keep("good bye").unwrap();
    assert!(carol.group_with_id(&scene.group).leave().await.unwrap_err().is_passing());
    let carol = restart(carol);
    line.mend();
    carol.receive(Duration::ZERO).await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "good bye");
    assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
    scene.alices().send("who is there?").await.unwrap();
    assert_eq!(scene.alices().members().unwrap().len(), 2);
    let out = |event: &Event| matches!(event, Event::Left { .. });
    assert!(carol.sync_until(PATIENCE, out).await.unwrap().iter().any(out));
}

#[tokio::test]
async fn the_last_admin_stays_in_and_is_told() {
    let scene = Scene::start().await;
    let refused = scene.alices().leave().await.unwrap_err();
    assert!(matches!(refused, Error::LastAdmin), "{refused}");
    scene.alices().send("I am still here").await.unwrap();
}

#[tokio::test]
async fn who_comes_back_is_back_though_answers_were_lost() {
    let scene = Scene::start().await;
    for named in ["/group-info", "/messages"] {
        for times in [1, ALL_ATTEMPTS] {
            scene.insist(named, times, async || scene.alices().rejoin().await).await;
            scene.alices().send("back").await.unwrap();
            assert_eq!(scene.bob_reads().await, ["back"], "{named}, {times}");
            scene.bob.group_with_id(&scene.group).send("welcome").await.unwrap();
            let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "welcome");
            assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
        }
    }
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_is_read_once_though_its_sender_came_back_meanwhile() {
    let scene = Scene::start().await;
    scene.line.cut("/messages", ALL_ATTEMPTS, 0);
    scene.alices().send("once").await.unwrap_err();
    scene.line.mend();
    scene.alices().rejoin().await.unwrap();
    assert_eq!(scene.alices().unsent().unwrap(), 1, "nobody knows whether it arrived");
    assert_eq!(scene.bob_reads().await, ["once"]);
}

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
async fn everything_else_that_a_client_does_may_lose_its_answer() {
    let scene = Scene::start().await;
    let (subscription, _) = PushService::start().await.subscribe("/alice", b"");
    for times in [1, ALL_ATTEMPTS] {
        let alice = &scene.alice;
        scene.insist("/dequeue", times, async || alice.receive(Duration::ZERO).await).await;
        scene.insist("/keys ", times, async || alice.renew_mailbox_keys().await).await;
        for named in ["/push-subscription", "/addresses/push"] {
            let wake = async || alice.wake_by_push(QueueKind::Group, Some(subscription.clone())).await;
            // A subscription that was told is not told again.
            alice.create_group(&format!("{named} {times}")).await.unwrap();
            scene.insist(named, times, wake).await;
        }
        scene.insist("GET /as/users/", times, async || alice.look_up(scene.bob.user()).await).await;
        scene.insist("/group-info", times, async || scene.alices().attributes().await).await;
    }
    scene.bob.group_with_id(&scene.group).send("do you hear me?").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { .. });
    assert!(scene.alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
}

#[tokio::test]
async fn a_first_contact_comes_about_though_answers_were_lost() {
    let world = World::builder().start().await;
    let (line, other) =
        (BadLine::to(world.server().address()).await, BadLine::to(world.server().address()).await);
    for times in [1, ALL_ATTEMPTS] {
        let alice = register(&world, &line, &format!("alice-{times}")).await.unwrap();
        let bob = register(&world, &other, &format!("bob-{times}")).await.unwrap();
        let group = alice.create_group("climbing").await.unwrap();
        let patient = async |client: &Client| {
            // A step that was lost is made by the next one.
            while let Err(error) = client.receive(Duration::ZERO).await {
                assert!(error.is_passing(), "{error}");
            }
        };
        line.cut("POST /qs/deposits", times, 0);
        let invited = group.invite(bob.user()).await;
        assert_eq!((line.mend(), invited.is_err()), (times, times == ALL_ATTEMPTS));
        patient(&alice).await;
        for named in ["GET /as/users/", "POST /qs/deposits"] {
            other.cut(named, times, 0);
            patient(&bob).await;
            other.mend();
        }
        patient(&bob).await;
        for named in ["POST /qs/key-packages/fetch", "/messages"] {
            line.cut(named, times, 0);
            patient(&alice).await;
            line.mend();
        }
        patient(&alice).await;
        assert_eq!(group.members().unwrap().len(), 2);
        joined(&bob, 1).await;
    }
}

#[tokio::test]
async fn a_user_is_blocked_and_a_device_gone_though_answers_were_lost() {
    let scene = Scene::start().await;
    let carol = scene.world.person("carol").await;
    befriend(&carol, &scene.alice, &carol.create_group("hers").await.unwrap().id().clone()).await;
    scene
        .insist("/key-packages/rotate", ALL_ATTEMPTS, async || {
            let blocked = scene.alice.block_user(carol.user()).await;
            // It is on its way, and not begun again.
            if blocked.is_err() { blocked } else { Ok(()) }
        })
        .await;
    let group = carol.create_group("another").await.unwrap();
    let invited = group.invite(scene.alice.user()).await.unwrap();
    assert_eq!(invited.members, 0);
    for named in ["/key-packages/remove", "/delete "] {
        scene.line.cut(named, ALL_ATTEMPTS, 0);
        assert!(scene.alice.log_out().await.unwrap_err().is_passing());
        scene.line.mend();
    }
    scene.alice.log_out().await.unwrap();
    assert!(Client::open(scene.alice.directory()).is_err());
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
async fn who_hides_gives_groups_the_key_though_the_answer_was_lost() {
    for times in [1, ALL_ATTEMPTS] {
        let world = World::builder().start().await;
        let line = BadLine::to(world.server().address()).await;
        let (alice, carol) = (world.person("alice").await, world.person("carol").await);
        let bob = register(&world, &line, "bob").await.unwrap();
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        for other in [&carol, &bob] {
            befriend(&alice, other, &group).await;
            joined(other, 1).await;
        }
        for client in [&alice, &bob, &carol, &bob] {
            client.sync(Duration::ZERO).await.unwrap();
        }
        let epoch = async || world.value::<i64>("SELECT max(epoch) FROM ds.groups").await;
        let before = epoch().await;
        let hiding = ProfileChange { discoverable: Some(false), ..ProfileChange::default() };
        insist_after(&line, ("PUT /as/profile", 0), times, async || bob.change_profile(&hiding).await).await;
        // By a message, and for those that come later by a commit.
        eventually("he tells groups", async || {
            bob.sync(Duration::ZERO).await.unwrap();
            (epoch().await > before).then_some(())
        })
        .await;
        carol.sync(Duration::ZERO).await.unwrap();
        assert_eq!(carol.look_up(bob.user()).await.unwrap().clients.len(), 1);
        let stranger = world.person("erin").await.look_up(bob.user()).await.unwrap_err();
        assert_eq!(stranger.problem(), Some(ProblemType::NotFound));
    }
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

#[tokio::test]
async fn what_a_device_asks_now_and_then_may_lose_its_answer() {
    let scene = Scene::start().await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let first = bob.create_group("Bob's").await.unwrap().id().clone();
    befriend(bob, alice, &first).await;
    joined(alice, 1).await;
    for times in [1, ALL_ATTEMPTS] {
        let receive = async || alice.receive(Duration::ZERO).await;
        let title = format!("Bob's, lost {times} times");
        bob.create_group(&title).await.unwrap().invite(alice.user()).await.unwrap();
        scene.insist("/welcome-tree", times, &receive).await;
        alice.group(&title).expect("she is in it").send("here").await.unwrap();

        let moved = async || scene.alices().renew_address().await;
        scene.insist("/addresses/revoke", times, moved).await;
        scene.bob.receive(Duration::ZERO).await.unwrap();
        scene.bob.group_with_id(&scene.group).send("to the new address").await.unwrap();
        let said =
            |event: &Event| matches!(event, Event::Message { text, .. } if text == "to the new address");
        assert!(alice.sync_until(PATIENCE, said).await.unwrap().iter().any(said));

        let counted = async || {
            alice.forget_the_count()?;
            receive().await
        };
        scene.insist("/key-packages/count", times, counted).await;
        scene.insist("GET /qs/keys", times, async || alice.application_server_key().await).await;
        let nobody = Client::builder(scene.world.homes.path().join("nobody")).server(scene.line.url());
        scene.insist("GET /as/registration", times, async || nobody.registration_terms().await).await;

        // Whether the server hears of it or not: the offer is withdrawn here, and ends there by itself.
        let offer = alice.offer_link().await.unwrap();
        scene.line.cut("DELETE /rendezvous/", times, 0);
        offer.withdraw().await.unwrap();
        assert_eq!(scene.line.mend(), times);
        alice.offer_link().await.unwrap().withdraw().await.unwrap();

        let going = alice.create_group(&format!("to go, lost {times} times")).await.unwrap();
        let before = scene.world.count("ds.groups").await;
        scene.insist("DELETE /ds/groups/", times, async || going.delete().await).await;
        assert_eq!(scene.world.count("ds.groups").await, before - 1);
    }
}

const HERE: &str = include_str!("lost_answers.rs");
const LINKING: &str = include_str!("linking.rs");
const ACROSS: &str = include_str!("../federation/lost_answers.rs");

/// Each endpoint that clients call, the name by which a test loses its answers, and that test with its file.
const LOST: [(&str, &str, (&str, &str)); 47] = [
    (
        "POST /ds/groups/{group_id}/messages",
        "/messages",
        (HERE, "changes_of_a_group_whose_answers_are_lost_are_made_once"),
    ),
    (
        "POST /qs/queues/{queue_id}/dequeue",
        "/dequeue",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /ds/group-ids",
        "POST /ds/group-ids",
        (HERE, "a_group_whose_founding_has_no_answer_is_founded_once"),
    ),
    ("POST /ds/groups", "POST /ds/groups ", (HERE, "a_group_whose_founding_has_no_answer_is_founded_once")),
    (
        "DELETE /ds/groups/{group_id}",
        "DELETE /ds/groups/",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /ds/groups/{group_id}/group-info",
        "/group-info",
        (HERE, "who_comes_back_is_back_though_answers_were_lost"),
    ),
    (
        "POST /ds/groups/{group_id}/welcome-tree",
        "/welcome-tree",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    ("POST /qs/queues", "POST /qs/queues ", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    (
        "POST /qs/queues/{queue_id}/addresses",
        "/addresses ",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/addresses/revoke",
        "/addresses/revoke",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/addresses/push",
        "/addresses/push",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "PUT /qs/queues/{queue_id}/push-subscription",
        "/push-subscription",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/keys",
        "/keys ",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /qs/queues/{queue_id}/delete",
        "/delete ",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "POST /qs/deposits",
        "POST /qs/deposits",
        (HERE, "a_first_contact_comes_about_though_answers_were_lost"),
    ),
    (
        "PUT /qs/key-packages",
        "PUT /qs/key-packages",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "POST /qs/key-packages/fetch",
        "POST /qs/key-packages/fetch",
        (HERE, "a_first_contact_comes_about_though_answers_were_lost"),
    ),
    (
        "POST /qs/key-packages/count",
        "/key-packages/count",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /qs/key-packages/remove",
        "/key-packages/remove",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "POST /qs/key-packages/rotate",
        "/key-packages/rotate",
        (HERE, "a_user_is_blocked_and_a_device_gone_though_answers_were_lost"),
    ),
    (
        "GET /as/users/{name}",
        "GET /as/users/",
        (HERE, "everything_else_that_a_client_does_may_lose_its_answer"),
    ),
    (
        "POST /as/credentials",
        "POST /as/credentials",
        (HERE, "a_device_is_added_once_though_answers_were_lost"),
    ),
    (
        "POST /as/eid/commits",
        "POST /as/eid/commits",
        (HERE, "a_device_is_added_once_though_answers_were_lost"),
    ),
    ("PUT /as/contact", "PUT /as/contact", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    (
        "GET /as/users/{name}/picture",
        "/picture ",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/profile",
        "PUT /as/profile",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "POST /as/invites",
        "POST /as/invites",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/account/name",
        "PUT /as/account/name",
        (HERE, "a_user_is_renamed_once_though_answers_were_lost"),
    ),
    (
        "PUT /as/account/recovery-key",
        "PUT /as/account/recovery-key",
        (HERE, "what_a_user_says_of_itself_and_invites_come_about_once_though_answers_were_lost"),
    ),
    ("DELETE /as/account", "DELETE /as/account", (HERE, "an_account_is_deleted_though_answers_were_lost")),
    (
        "GET /homeservers/{domain}",
        "GET /homeservers/b.example",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "POST /relay/{domain}",
        "POST /relay/b.example ",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "POST /relay/{domain}/token-request",
        "POST /relay/b.example/token-request",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    (
        "GET /.well-known/postern",
        "GET /.well-known/postern",
        (ACROSS, "each_step_of_the_way_to_another_homeserver_may_lose_its_answer"),
    ),
    ("POST /rendezvous", "POST /rendezvous ", (LINKING, "the_old_device_goes_on_whichever_answer_was_lost")),
    ("POST /rendezvous/{number}/join", "/join", (LINKING, "the_new_device_goes_on_once_the_two_have_agreed")),
    (
        "POST /rendezvous/{number}/payloads",
        "/payloads",
        (LINKING, "the_old_device_goes_on_whichever_answer_was_lost"),
    ),
    (
        "POST /rendezvous/{number}/receive",
        "/receive",
        (LINKING, "the_old_device_goes_on_whichever_answer_was_lost"),
    ),
    (
        "DELETE /rendezvous/{number}",
        "DELETE /rendezvous/",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /as/users",
        "POST /as/users",
        (HERE, "a_registration_whose_answer_was_lost_is_taken_up_with_the_same_key"),
    ),
    (
        "GET /as/registration",
        "GET /as/registration",
        (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer"),
    ),
    (
        "POST /as/account/end",
        "POST /as/account/end",
        (HERE, "an_identity_is_begun_anew_once_though_answers_were_lost"),
    ),
    (
        "POST /as/account/reset",
        "POST /as/account/reset",
        (HERE, "an_identity_is_begun_anew_once_though_answers_were_lost"),
    ),
    ("GET /as/keys", "GET /as/keys", (HERE, "every_step_of_a_registration_may_lose_its_answer")),
    ("GET /qs/keys", "GET /qs/keys", (HERE, "what_a_device_asks_now_and_then_may_lose_its_answer")),
    (
        "POST /aas/token-request",
        "POST /aas/token-request",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
    (
        "GET /.well-known/private-token-issuer-directory",
        "GET /.well-known/private-token-issuer-directory",
        (HERE, "every_step_of_a_registration_may_lose_its_answer"),
    ),
];

/// Endpoints that the client library does not call by itself: of homeservers among themselves, of people who read, and of
/// machines that look whether a server is there.
const OF_OTHERS: [&str; 6] = [
    "POST /qs/deliveries",
    "POST /gateway",
    "POST /homeservers",
    "GET /problems/{slug}",
    "GET /health",
    "GET /ready",
];

#[test]
fn each_endpoint_that_clients_call_loses_its_answers_in_a_test() {
    let routes: BTreeSet<String> =
        routes::all().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let listed: BTreeSet<String> =
        LOST.iter().map(|(route, ..)| *route).chain(OF_OTHERS).map(str::to_owned).collect();
    assert_eq!(listed, routes, "each endpoint is in LOST or in OF_OTHERS");
    assert_eq!(listed.len(), LOST.len() + OF_OTHERS.len(), "and once");
    for (route, named, (file, test)) in LOST {
        // As a request's first line has it.
        let line = route.replace("{domain}", "b.example").replace(['{', '}'], "") + " HTTP/1.1";
        assert!(line.contains(named), "{named} is in {line}");
        let body =
            file.split(&format!("async fn {test}()")).nth(1).unwrap_or_else(|| panic!("no test {test}"));
        let body = body.split("\n}\n").next().expect("it has an end");
        assert!(body.contains(&format!("\"{named}\"")), "{test} loses answers to {named}");
    }
}
