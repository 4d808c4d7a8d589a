//! Homeservers that accept each connection and never answer. Hundreds of them, of many families of names, some of which took
//! deliveries before, have none of the places for attempts at a good neighbour; and those of one family have its share of
//! attempts, however many they are (FED-6).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use postern_protocol::{ds::MessageAccepted, name::Domain};
use postern_tests_kit::{Commit, Neighbours, Party, World, eventually, fresh_address};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::{
    groups::{drained, group, texts},
    outbox::make_due,
};

/// Groups with members at silent hosts, and the hosts of each: as many as a group may have.
const GROUPS: usize = 6;
const OF_GROUP: usize = 50;
/// Families of names that the hosts are of. Every other one took deliveries before.
const FAMILIES: usize = 30;
/// Attempts at silent hosts that are under way, at least, when the good neighbour's turn comes.
const UNDER_WAY: usize = 8;
/// Texts that are said, at most, until one's turn comes so.
const TEXTS: usize = 20;
/// Hosts of a family of which all are silent, and of another one.
const OF_FAMILY: usize = 12;

/// Has the database note, for each claim of a lane to the good neighbour, its standing, the attempts at silent hosts that are
/// under way in places of that kind, and all of them.
const NOTE_CLAIMS: &str = "
    CREATE TABLE public.claims (standing text NOT NULL, of_its_kind bigint NOT NULL, silent bigint NOT NULL);
    CREATE FUNCTION public.note_claim() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO public.claims (standing, of_its_kind, silent)
        SELECT NEW.standing, count(*) FILTER (WHERE d.standing = NEW.standing), count(*)
          FROM federation.due d
         WHERE d.domain LIKE 'host%' AND d.holder IS NOT NULL AND d.due > now();
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER note_claim AFTER UPDATE OF holder ON federation.due
        FOR EACH ROW WHEN (NEW.domain = 'b.example' AND NEW.holder IS NOT NULL)
        EXECUTE FUNCTION public.note_claim();";

/// A host that accepts every connection, reads whatever comes, and never answers. Dropping it ends its connections.
struct SilentHost {
    address: SocketAddr,
    figures: Arc<Figures>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Figures {
    accepted: AtomicUsize,
    /// The connections that their other side gave up.
    ended: AtomicUsize,
}

impl SilentHost {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let figures = Arc::<Figures>::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&figures)));
        Self { address, figures, accepting }
    }

    /// The connections that are there now.
    fn open(&self) -> usize {
        let ended = self.figures.ended.load(Ordering::SeqCst);
        self.figures.accepted.load(Ordering::SeqCst).saturating_sub(ended)
    }
}

impl Drop for SilentHost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, figures: Arc<Figures>) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        figures.accepted.fetch_add(1, Ordering::SeqCst);
        let figures = Arc::clone(&figures);
        connections.spawn(async move {
            let mut bytes = vec![0; 16 * 1024];
            while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            figures.ended.fetch_add(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A group at this world whose other members are at these domains: a Welcome waits for each.
async fn found(world: &World, domains: &[Domain]) {
    let mut group = world.group(1).await;
    let newcomer = |domain| {
        let mut party = Party::newcomer();
        party.leaf = party.leaf_at(domain, fresh_address());
        party.key_package()
    };
    let (_, call) =
        group.make(0, Commit { add: domains.iter().map(newcomer).collect(), ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 0, "something waits for each");
    group.party(0).merge();
    let said = group.party(0).say(b"is anybody there?");
    let accepted: MessageAccepted = world.pay(&group.submit(0, &said, None)).await.decode();
    assert_eq!(accepted.undelivered, 0, "and something more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_a_good_neighbour_has_places_that_none_of_hundreds_of_silent_hosts_has() {
    let silent = SilentHost::start().await;
    let domains: Vec<Domain> = (0..GROUPS * OF_GROUP)
        .map(|number| {
            let family = number % FAMILIES;
            let kind = ["known", "made-up"][family % 2];
            format!("host{number}.{kind}{family}.example").parse().expect("it is a domain")
        })
        .collect();
    let builder = Neighbours::builder().tokens(200);
    let builder =
        domains.iter().fold(builder, |builder, domain| builder.host(domain.as_str(), silent.address));
    let neighbours = builder.start().await;
    let world = &neighbours[0];
    let mut good = group(&neighbours, &[1]).await;
    drained(world).await;

    for of_group in domains.chunks(OF_GROUP) {
        found(world, of_group).await;
    }
    let waiting = "SELECT count(DISTINCT domain) FROM federation.outbox WHERE domain LIKE 'host%'";
    assert_eq!(world.value::<i64>(waiting).await, (GROUPS * OF_GROUP) as i64);
    // Those took deliveries until today, and nobody knows yet that one does not answer.
    let known = "UPDATE federation.outgoing_lanes SET is_stranger = false WHERE domain LIKE 'host%.known%';
                 INSERT INTO federation.neighbours (domain, first_success, last_success)
                 SELECT DISTINCT l.domain, current_date, current_date
                   FROM federation.outgoing_lanes l
                  WHERE l.domain LIKE 'host%.known%';
                 DELETE FROM federation.attempts WHERE domain LIKE 'host%.known%';
                 DELETE FROM federation.looks WHERE domain LIKE 'host%';
                 UPDATE federation.due SET standing = 'good', due = now(), holder = NULL
                  WHERE domain LIKE 'host%.known%'";
    world.admin.batch_execute(known).await.expect("it can be so");

    world.admin.batch_execute(NOTE_CLAIMS).await.expect("claims can be noted");
    let beside_many = format!("public.claims WHERE standing = 'prompt' AND silent >= {UNDER_WAY}");
    let mut said = 0;
    while world.count(&beside_many).await == 0 {
        let claims =
            "SELECT string_agg(concat_ws(' ', standing, of_its_kind, silent), ', ') FROM public.claims";
        assert!(said < TEXTS, "its turns came so: {:?}", world.value::<Option<String>>(claims).await);
        eventually("silent hosts are tried", async || (silent.open() >= UNDER_WAY).then_some(())).await;
        world.restock(1).await;
        let text = good.party(0).say(format!("text {said}").as_bytes());
        let accepted: MessageAccepted = world.pay(&good.submit(0, &text, None)).await.decode();
        assert_eq!(accepted.undelivered, 0);
        assert_eq!(texts(&neighbours, &mut good.members[1], 1).await.len(), 1);
        said += 1;
    }
    let shared = "public.claims WHERE standing = 'prompt' AND of_its_kind > 0";
    assert_eq!(world.count(shared).await, 0, "silent hosts have places for those that are prompt");
    assert_eq!(world.value::<i64>(waiting).await, (GROUPS * OF_GROUP) as i64, "they are all waited for");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_silent_hosts_take_the_share_of_their_family_until_they_end() {
    let silent = SilentHost::start().await;
    // Nobody listens at the others, so that attempts at them end at once.
    let hosts = (1..=OF_FAMILY).map(|number| {
        format!("x{number}.evil.example={},y{number}.good.example=127.0.0.1:1", silent.address)
    });
    let world = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &hosts.collect::<Vec<_>>().join(","))
        // Eight attempts at once at homeservers that took deliveries before, two of them at those of a family.
        .setting("POSTERN_FEDERATION_DELIVERIES_AT_ONCE", "16")
        .start()
        .await;
    let under_way = async || {
        let evil =
            "federation.due WHERE domain LIKE '%.evil.example' AND standing = 'good' AND holder IS NOT NULL";
        let under_way = world.count(evil).await;
        assert!(under_way <= 2, "{under_way} attempts at a family are under way");
        under_way
    };
    make_due(&world, "'x' || n || '.evil.example'", OF_FAMILY, "good").await;
    let share = async || (under_way().await == 2).then_some(());
    eventually("the family has its share", share).await;
    // Each turn of the other family is followed by one of this one, as long as something of it is due.
    make_due(&world, "'y' || n || '.good.example'", OF_FAMILY, "good").await;
    let tried = "federation.attempts WHERE domain LIKE '%.good.example'";
    eventually("all of the other family were tried", async || {
        under_way().await;
        (world.count(tried).await == OF_FAMILY as i64).then_some(())
    })
    .await;
    world.close();
}
