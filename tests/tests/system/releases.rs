//! A release keeps what servers and operators of the one before it call (OPS-6). What a release has is recorded in
//! sql/releases/ when it is tagged (CONTRIBUTING.md, "Releases"), and is compared with what there is from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use postern_protocol::problem::ProblemType;
use postern_server::{
    config::ConnectionString,
    database::release::{Release, Version},
};
use postern_tests::next;
use postern_tests_kit::{Cluster, Server, World, in_tree};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

/// Set to write the record of this release.
const WRITE: &str = "POSTERN_RECORD_RELEASE";
/// How the comment of a function begins that only the release before has.
const KEPT: &str = "Kept for the release before. ";
const ADVICE: &str = "CONTRIBUTING.md, \"Releases\", says how to change what a release has";

/// The interfaces of a release in the database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    /// By name and types of parameters.
    functions: BTreeMap<String, Function>,
    /// The labels of the enums that functions return.
    labels: BTreeMap<String, Vec<String>>,
    /// The endpoints of the price list.
    endpoints: BTreeSet<String>,
    /// The formats of a group's sealed state that it reads.
    group_state: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Function {
    parameters: Vec<String>,
    /// The parameters, from the last one on, that may be left out.
    optional: i16,
    returns: String,
    /// The roles that may execute it; none for a function that only functions call.
    roles: Vec<String>,
    /// Whether only the release before has it.
    #[serde(skip)]
    is_kept: bool,
}

impl Record {
    async fn of(admin: &Client, release: &Release) -> Self {
        let functions = admin
            .query(
                "SELECT p.oid::regprocedure::text,
                        coalesce((SELECT array_agg(coalesce(n.name, '') ORDER BY n.place)
                                    FROM unnest(p.proargnames, p.proargmodes::text[]) WITH ORDINALITY AS n (name, mode, place)
                                   WHERE coalesce(n.mode, 'i') IN ('i', 'b', 'v')), '{}'),
                        p.pronargdefaults,
                        coalesce((SELECT CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || '('
                                         || string_agg(n.name || ' ' || format_type(n.type, NULL), ', ' ORDER BY n.place)
                                         || ')'
                                    FROM unnest(p.proargnames, p.proargmodes::text[], p.proallargtypes)
                                         WITH ORDINALITY AS n (name, mode, type, place)
                                   WHERE n.mode IN ('o', 'b', 't')), pg_get_function_result(p.oid)),
                        ARRAY(SELECT r.name::text
                                FROM unnest('{postern_server,postern_operator,postern_monitor,postern_backup}'::name[]) AS r (name)
                               WHERE has_function_privilege(r.name, p.oid, 'EXECUTE')),
                        coalesce(starts_with(obj_description(p.oid, 'pg_proc'), $1), false)
                   FROM pg_proc p
                   JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')
                     OR n.nspname = 'postern' AND has_function_privilege('postern_server', p.oid, 'EXECUTE')",
                &[&KEPT],
            )
            .await
            .expect("the catalog can be read");
        let functions = functions.iter().map(|row| {
            let function = Function {
                parameters: row.get(1),
                optional: row.get(2),
                returns: row.get(3),
                roles: row.get(4),
                is_kept: row.get(5),
            };
            (row.get(0), function)
        });
        let labels = "SELECT t.oid::regtype::text, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
                        FROM pg_type t
                        JOIN pg_enum e ON e.enumtypid = t.oid
                        JOIN pg_namespace n ON n.oid = t.typnamespace AND n.nspname NOT LIKE 'pg\\_%'
                       GROUP BY 1";
        let labels = admin.query(labels, &[]).await.expect("the catalog can be read");
        let endpoints = admin.query("SELECT endpoint FROM aas.prices", &[]).await.expect("it is there");
        Self {
            functions: functions.collect(),
            labels: labels.iter().map(|row| (row.get(0), row.get(1))).collect(),
            endpoints: endpoints.iter().map(|row| row.get(0)).collect(),
            group_state: release.group_state().reads.to_vec(),
        }
    }

    /// The part that is the release's own.
    fn own(&self) -> Self {
        let mut own = self.clone();
        own.functions.retain(|_, function| !function.is_kept);
        own
    }

    /// Names that servers and operators of the release before miss in this one, each in a line with what to do about it.
    fn misses(&self, before: &Self, writes: u8) -> Vec<String> {
        let mut misses = Vec::new();
        for (signature, was) in &before.functions {
            let Some(is) = self.functions.get(signature) else {
                if !was.roles.is_empty() {
                    misses.push(format!("{signature} is gone: keep its file as it was in sql/previous/"));
                }
                continue;
            };
            if (&is.parameters, &is.returns) != (&was.parameters, &was.returns) || is.optional < was.optional
            {
                misses.push(format!(
                    "{signature} has other names, results or fewer defaults: PostgreSQL does not replace it. Give the new one \
                     other parameters or another name, and keep the old file in sql/previous/"
                ));
            }
            for role in was.roles.iter().filter(|role| !is.roles.contains(role)) {
                misses.push(format!(
                    "{role} may not execute {signature} any more: grant it in sql/previous/grants.sql"
                ));
            }
            if is.is_kept || was.roles.is_empty() {
                continue;
            }
            for (name, labels) in &self.labels {
                let known = before.labels.get(name).map_or(&[][..], Vec::as_slice);
                let mut new = labels.iter().filter(|label| !known.contains(label));
                if let (true, Some(label)) = (mentions(&is.returns, name), new.next()) {
                    misses.push(format!(
                        "{signature} may return the label {label} of {name}, which servers of before do not know: give the \
                         new function other parameters, and keep the old file in sql/previous/"
                    ));
                }
            }
        }
        for (name, labels) in &before.labels {
            let now = self.labels.get(name).map_or(&[][..], Vec::as_slice);
            for label in labels.iter().filter(|label| !now.contains(label)) {
                misses.push(format!("{name} has no label {label} any more: keep it for one release"));
            }
        }
        for endpoint in before.endpoints.difference(&self.endpoints) {
            misses
                .push(format!("{endpoint} has no price any more: keep it in sql/prices.sql for one release"));
        }
        if !before.group_state.contains(&writes) {
            misses.push(format!(
                "groups are written in format {writes}, which servers of before do not read: read it in this release, and \
                 write it from the next one on"
            ));
        }
        misses
    }
}

/// Whether a result has a column of a type.
fn mentions(returns: &str, name: &str) -> bool {
    returns.split(|c: char| " ,()[]".contains(c)).any(|word| word == name)
}

fn record(version: Version) -> Option<Record> {
    let text = fs::read_to_string(in_tree(&format!("sql/releases/{version}.json"))).ok()?;
    Some(serde_json::from_str(&text).expect("a record is one"))
}

/// The releases that have a record.
fn recorded() -> BTreeSet<Version> {
    let files = fs::read_dir(in_tree("sql/releases")).expect("it is there");
    let paths = files.map(|file| file.expect("it can be read").path());
    let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let names = records.map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    names.map(|name| name.parse().unwrap_or_else(|_| panic!("{name} is no version"))).collect()
}

/// The answer of git; none where the tree is no repository, as in a tarball.
fn git(arguments: &[&str]) -> Option<String> {
    let tree = in_tree("");
    // Whosever the tree is.
    let output =
        Command::new("git").args(["-c", "safe.directory=*", "-C"]).arg(&tree).args(arguments).output();
    let output = output.ok().filter(|_| tree.join(".git").exists())?;
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("it is text"))
}

/// The releases in a list of tags, `v1.2.3`.
fn releases_of_tags(tags: &str) -> BTreeSet<Version> {
    tags.lines().filter_map(|tag| tag.strip_prefix('v')?.parse().ok()).collect()
}

/// The releases of a changelog, `## [1.2.3] - 2026-12-24`.
fn releases_of_changelog(changelog: &str) -> BTreeSet<Version> {
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split(']').next());
    headings
        .filter(|heading| *heading != "Unreleased")
        .map(|heading| heading.parse().expect(heading))
        .collect()
}

/// The records that releases lack, each in a line.
fn unfinished(
    tagged: &BTreeSet<Version>,
    told: &BTreeSet<Version>,
    recorded: &BTreeSet<Version>,
) -> Vec<String> {
    let mut missing = Vec::new();
    for release in tagged.union(told) {
        if !recorded.contains(release) {
            missing.push(format!(
                "{release} is a release, and sql/releases/{release}.json is missing: `make record`"
            ));
        }
    }
    for release in recorded.union(tagged) {
        if !told.contains(release) {
            missing.push(format!("{release} is a release, and CHANGELOG.md has no heading for it"));
        }
    }
    missing
}

#[test]
fn each_release_that_is_tagged_or_told_of_has_its_record_and_that_never_changes() {
    let tags = git(&["tag", "--list", "v*"]).unwrap_or_default();
    let tagged = releases_of_tags(&tags);
    let changelog = fs::read_to_string(in_tree("CHANGELOG.md")).unwrap();
    let (told, recorded) = (releases_of_changelog(&changelog), recorded());
    let missing = unfinished(&tagged, &told, &recorded);
    assert!(missing.is_empty(), "CONTRIBUTING.md, \"Releasing\":\n{}", missing.join("\n"));
    for release in &tagged {
        let path = format!("sql/releases/{release}.json");
        let then = git(&["show", &format!("v{release}:{path}")]).expect("it has tags");
        assert_eq!(fs::read_to_string(in_tree(&path)).unwrap(), then, "{path} is as its tag has it");
    }
    for page in ["CHANGELOG.md", "README.md", "sql/releases/README.md", "sql/previous/README.md"] {
        let text = fs::read_to_string(in_tree(page)).unwrap();
        assert!(told.is_empty() || !text.contains("Nothing is released"), "{page}");
    }
}

#[test]
fn a_release_without_a_record_or_a_heading_is_told() {
    let of = |versions: &[&str]| versions.iter().map(|it| it.parse().unwrap()).collect::<BTreeSet<Version>>();
    let changelog =
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2027-01-31\n\n### Added\n\n## [0.1.0] - 2026-12-24\n";
    assert_eq!(releases_of_changelog(changelog), of(&["0.1.0", "0.2.0"]));
    assert_eq!(releases_of_tags("v0.1.0\nv0.2.0-rc.1\nvienna\n"), of(&["0.1.0"]));
    let (both, nothing): (_, &[&str]) = (of(&["0.1.0", "0.2.0"]), &[]);
    for (tagged, told, recorded, missing) in [
        (&of(&[]), &of(&[]), &of(&[]), nothing),
        (&both, &both, &both, nothing),
        // It is about to be tagged.
        (&of(&["0.1.0"]), &both, &both, nothing),
        (&both, &both, &of(&["0.1.0"]), &["sql/releases/0.2.0.json is missing"]),
        (&of(&[]), &both, &of(&["0.1.0"]), &["sql/releases/0.2.0.json is missing"]),
        (&both, &of(&["0.1.0"]), &both, &["0.2.0 is a release, and CHANGELOG.md has no heading"]),
        (&of(&[]), &of(&["0.1.0"]), &both, &["0.2.0 is a release, and CHANGELOG.md has no heading"]),
    ] {
        let found = unfinished(tagged, told, recorded);
        let as_told = found.iter().zip(missing).all(|(found, part)| found.contains(part));
        assert!(found.len() == missing.len() && as_told, "{found:?}");
    }
}

async fn migrated(cluster: &Cluster, release: &Release) -> Record {
    let url = ConnectionString::new(cluster.admin_url());
    release.migrate(&url).await.unwrap_or_else(|error| panic!("{error:#}"));
    Record::of(&cluster.admin().await, release).await
}

#[tokio::test]
async fn what_servers_of_the_release_before_call_is_still_there() {
    let cluster = Cluster::start().await;
    let release = Release::embedded();
    let now = Record::of(&cluster.admin().await, &release).await;
    let version = release.version();
    if std::env::var_os(WRITE).is_some() {
        let tags = git(&["tag", "--list", "v*"]).unwrap_or_default();
        assert!(
            !releases_of_tags(&tags).contains(&version),
            "{version} is tagged, and its record stays as it is: the workspace has the next version, by CONTRIBUTING.md"
        );
        let folder = in_tree("sql/releases");
        fs::create_dir_all(&folder).unwrap();
        let text = serde_json::to_string_pretty(&now.own()).unwrap() + "\n";
        fs::write(folder.join(format!("{version}.json")), text).unwrap();
    }
    if let Some(tagged) = record(version) {
        let now = now.own();
        let changed: Vec<_> =
            tagged.functions.iter().filter(|(key, is)| now.functions.get(*key) != Some(*is)).collect();
        assert!(
            tagged == now,
            "{version} is recorded, and is another now. After its tag the workspace has another version: {ADVICE}. \
             {changed:#?}"
        );
    }
    if let Some(previous) = release.previous() {
        let before = record(previous).expect("it is recorded");
        let misses = now.misses(&before, release.group_state().writes);
        assert!(misses.is_empty(), "servers of {previous} would fail; {ADVICE}:\n{}", misses.join("\n"));
    }
}

/// The releases that are made up are compared as real ones will be.
#[tokio::test]
async fn a_release_that_keeps_too_little_is_told_what_to_keep_and_one_that_keeps_it_is_not() {
    let cluster = Cluster::start().await;
    let this = Record::of(&cluster.admin().await, &Release::embedded()).await.own();
    assert!(this.functions.len() > 200 && this.endpoints.len() > 30, "{}", this.functions.len());
    cluster.offer_next_extension().await;
    let next = migrated(&cluster, &next::next()).await;
    assert_eq!(next.misses(&this, next::next().group_state().writes), Vec::<String>::new());
    let described = "SELECT obj_description(oid, 'pg_proc') FROM pg_proc WHERE proname = 'load_issuer_keys'";
    let described = cluster.admin().await.query_one(described, &[]).await.unwrap();
    assert!(described.get::<_, &str>(0).starts_with(&format!("{KEPT}Lists the issuer's keys")));

    // Without sql/previous/ it is what the release after the next finds.
    let later = migrated(&cluster, &next::later()).await;
    assert_eq!(later.misses(&next.own(), next::later().group_state().writes), Vec::<String>::new());
    let misses = later.misses(&this, next::later().group_state().writes).join("\n");
    for part in [
        "aas.load_issuer_keys() is gone: keep its file as it was in sql/previous/",
        "qs.dequeue(smallint,bytea,bytea,bytea,bigint,integer,integer) is gone",
        "ds.submit_message(smallint,bytea,",
        "format 200, which servers of before do not read",
    ] {
        assert!(misses.contains(part), "{part}: {misses}");
    }
    assert_eq!(misses.lines().count(), 4, "{misses}");

    // Changes that PostgreSQL would take, or refuse on an operator's machine.
    let mut other = this.clone();
    let deposit = |record: &mut Record, change: fn(&mut Function)| {
        let (_, function) =
            record.functions.iter_mut().find(|(key, _)| key.starts_with("qs.deposit(")).expect("it is there");
        change(function);
    };
    deposit(&mut other, |function| function.roles.clear());
    deposit(&mut other, |function| function.parameters[0] = "key".to_owned());
    let backup = other.functions.get_mut("operator.note_backup()").expect("it is there");
    backup.roles.retain(|role| role != "postern_backup");
    other.labels.get_mut("qs.deposit_outcome").unwrap().push("late".to_owned());
    other.labels.get_mut("ds.create_group_outcome").unwrap().pop();
    other.endpoints.remove("qs.deposit");
    let misses = other.misses(&this, this.group_state[0]).join("\n");
    for part in [
        "postern_server may not execute qs.deposit(",
        "postern_backup may not execute operator.note_backup()",
        "has other names, results or fewer defaults",
        "may return the label late of qs.deposit_outcome",
        "ds.create_group_outcome has no label",
        "qs.deposit has no price any more",
    ] {
        assert!(misses.contains(part), "{part}: {misses}");
    }
    assert_eq!(misses.lines().count(), 6, "{misses}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_during_a_migration_which_it_cannot_follow_calls_nothing_of_it() {
    let world = World::builder().tokens(10).start().await;
    world.cluster.offer_next_extension().await;
    let mut group = world.group(1).await;
    let message = group.party(0).say(b"to the next release");
    let wire = world.paid(group.submit(0, &message, None)).wire();
    // Its network is cut, and nothing tells that it exists.
    let operate = async |sql: &str| world.admin.batch_execute(sql).await.unwrap();
    operate("ALTER ROLE postern_server CONNECTION LIMIT 0").await;
    world.end_sessions().await;
    let url = ConnectionString::new(world.cluster.admin_url());
    next::next().migrate(&url).await.unwrap();
    next::later().migrate(&url).await.unwrap();
    operate("ALTER ROLE postern_server CONNECTION LIMIT -1").await;
    for _ in 0..3 {
        // It is no fault: another server does it, and the token stays good.
        world.send(&wire).await.assert_problem("a message", ProblemType::Unavailable);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity
                     WHERE usename = 'postern_server' AND query LIKE '%ds.submit_message%'";
    assert_eq!(world.value::<i64>(sessions).await, 0);
}

#[tokio::test]
async fn a_release_does_not_migrate_under_servers_that_would_not_work_any_more_and_they_do_not_start() {
    let cluster = Cluster::start().await;
    cluster.offer_next_extension().await;
    let url = ConnectionString::new(cluster.admin_url());
    let server = Server::start(&cluster).await;
    let refused = next::later().migrate(&url).await.err().map(|error| format!("{error:#}"));
    let this = env!("CARGO_PKG_VERSION");
    let expected = format!("servers of {this} use this database");
    assert!(refused.as_ref().is_some_and(|text| text.contains(&expected)), "{refused:?}");
    let admin = cluster.admin().await;
    let tried = "SELECT count(*) FROM public.refinery_schema_history WHERE version >= 1000";
    assert_eq!(admin.query_one(tried, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing changed");

    // Beside the next release it goes on, and starts again, too.
    next::next().migrate(&url).await.unwrap();
    assert!(server.terminate().await.success());
    let server = Server::start(&cluster).await;
    assert!(
        server.log().contains("which works with this program until the release after"),
        "{}",
        server.log()
    );
    assert!(server.terminate().await.success());
    let back = Release::embedded().migrate(&url).await.err().map(|error| format!("{error:#}"));
    let expected = "the database is of 1000.0.0, ";
    assert!(back.as_ref().is_some_and(|text| text.starts_with(expected)), "{back:?}");
    let following = Server::of("postern-next", &cluster).metrics().start().await;
    let metrics = following.metrics().await;
    assert!(metrics.contains("postern_build_info{version=\"1000.0.0\"}"), "{metrics}");
    assert!(following.terminate().await.success());
    next::later().migrate(&url).await.unwrap();
    let refused = Server::builder(&cluster).try_start().await.err().expect("it does not start");
    assert!(
        refused.contains("the database is of 1000.1.0, which does not keep what this program"),
        "{refused}"
    );
}
