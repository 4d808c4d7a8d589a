//! Generations of the database, and the marks and days by which one that was put back, or a clock that was wrong, is known
//! (QS-12): the database's part, and the files that go with it.
//!
//! Elsewhere: what servers and clients make of it (backup/, recovery.rs).

use std::{fs, path::Path};

use postern_tests_kit::{Cluster, HOME, KeptOrder, Killer, Server, ServerBuilder, eventually, postern};

use crate::backup::{BackedUp, fails, into_database, succeeds};

/// A server with a witness in this file.
fn with_witness(cluster: &Cluster, witness: &Path) -> ServerBuilder {
    Server::builder(cluster).env("POSTERN_WITNESS_FILE", witness.to_str().expect("its name is text"))
}

/// Another function in the place of the one that notes marks.
const NOTES_ALL: &str = "
    CREATE OR REPLACE FUNCTION operator.note_mark(
        witness bytea, known bytea[], mark bytea, decided bigint, OUT outcome operator.note_mark_outcome, OUT decision bigint)
    LANGUAGE sql AS $$ SELECT 'written'::operator.note_mark_outcome, 0::bigint $$";

#[tokio::test]
async fn a_mark_is_noted_where_the_last_one_is_known_or_somebody_decided_since() {
    let cluster = Cluster::start().await;
    // It is in use.
    assert!(Server::start(&cluster).await.terminate().await.success());
    let admin = cluster.admin().await;
    let sql = "SELECT outcome::text, decision FROM operator.note_mark($1, $2, $3, $4)";
    let bytes = |byte: u8| vec![byte; 16];
    let witness = bytes(0xab);
    let note = async |known: Option<u8>, mark: u8, decided: i64| -> (String, i64) {
        let known = vec![known.map(bytes)];
        let row = admin.query_one(sql, &[&witness, &known, &bytes(mark), &decided]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let (noted, behind) = ("noted".to_owned(), "behind".to_owned());
    assert_eq!(note(None, 1, 0).await, (noted.clone(), 0), "the first one");
    assert_eq!(note(Some(1), 2, 0).await, (noted.clone(), 0));
    assert_eq!(note(Some(1), 3, 0).await, (behind.clone(), 0), "the database has another one");
    assert_eq!(note(None, 3, 0).await, (behind.clone(), 0), "it has one");
    admin.execute("SELECT operator.keep_generation()", &[]).await.unwrap();
    let (outcome, decision) = note(Some(1), 4, 0).await;
    assert!(outcome == noted && decision > 0, "somebody decided since: {outcome} {decision}");
    assert_eq!(note(Some(1), 5, decision).await, (behind, decision), "that was before");
    assert_eq!(note(Some(4), 5, decision).await, (noted.clone(), decision));

    // Witnesses come and go: those that noted nothing for long are forgotten.
    let others = "INSERT INTO operator.witnesses (witness, mark, noted)
                  SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), decode(repeat('00', 16), 'hex'), 1000 + n
                    FROM generate_series(1, 1000) n";
    admin.execute(others, &[]).await.unwrap();
    let (new, nothing) = (bytes(0xcd), vec![None::<Vec<u8>>]);
    let row = admin.query_one(sql, &[&new, &nothing, &bytes(1), &decision]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), noted);
    let sql = "SELECT count(*), bool_or(witness = $1), bool_or(witness = $2) FROM operator.witnesses";
    let row = admin.query_one(sql, &[&new, &witness]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1), row.get::<_, bool>(2)), (1000, true, false));
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_gives_a_mark_starts_again() {
    let cluster = Cluster::start().await;
    let places = tempfile::tempdir().unwrap();
    let witness = places.path().join("witness");
    assert!(with_witness(&cluster, &witness).start().await.terminate().await.success());
    let mut serve = postern();
    serve
        .arg("serve")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_LISTEN", "127.0.0.1:0")
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key())
        .env("POSTERN_WITNESS_FILE", &witness);
    // The mark is not in the file yet: so it is not in the database either.
    Killer::compiled().kill(&mut serve, "rename", "witness.new>").await;
    assert!(with_witness(&cluster, &witness).start().await.terminate().await.success());
}

#[tokio::test]
async fn a_mark_is_on_disk_before_it_has_its_name() {
    let cluster = Cluster::start().await;
    let places = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(places.path()).unwrap();
    let (witness, new) = (dir.join("witness"), dir.join("witness.new"));
    let order = KeptOrder::begin();
    let server = with_witness(&cluster, &witness);
    let server = order.environment().iter().fold(server, |server, (name, value)| server.env(name, value));
    assert!(server.start().await.terminate().await.success());
    let sync = |path: &Path| order.place(&format!("sync {}", path.display()));
    let named = order.place(&format!("rename {} {}", new.display(), witness.display()));
    assert!(sync(&new) < named && named < sync(&dir));
}

/// A fault of ours is no snapshot that was put back.
#[tokio::test]
async fn an_answer_about_a_mark_that_is_none_is_told_of_and_ends_no_session() {
    let cluster = Cluster::start().await;
    let places = tempfile::tempdir().unwrap();
    let witness = places.path().join("witness");
    assert!(with_witness(&cluster, &witness).start().await.terminate().await.success());
    let admin = cluster.admin().await;
    let other = "ALTER TYPE operator.note_mark_outcome RENAME VALUE 'noted' TO 'written'";
    admin.batch_execute(other).await.unwrap();
    admin.batch_execute(NOTES_ALL).await.unwrap();
    let server = with_witness(&cluster, &witness).start().await;
    eventually("it is told of", async || {
        server.log().contains("goes unnoticed: the database answered with an outcome").then_some(())
    })
    .await;
    eventually("it works with the database", async || {
        let answer = reqwest::get(format!("{}/ready", server.url())).await.expect("it answers");
        answer.status().is_success().then_some(())
    })
    .await;
    assert!(!server.log().contains("put back to an earlier state"), "{}", server.log());
    drop(server);
    // A check says, too, what it cannot find out.
    let mut check = postern();
    check
        .arg("check")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key())
        .env("POSTERN_WITNESS_FILE", &witness);
    succeeds(&mut check).await;
    let revoke = "REVOKE EXECUTE ON FUNCTION operator.current_mark FROM postern_server";
    admin.batch_execute(revoke).await.unwrap();
    fails(&mut check, "problem  witness: ").await;
}

#[tokio::test]
async fn the_operators_least_number_of_a_generation_is_heeded() {
    let BackedUp { admin, cluster, places: _places, dir, elsewhere } = BackedUp::start().await;
    // A clock that was decades ahead takes not the last numbers.
    let far = "BEGIN; UPDATE operator.schema_state SET applied = '2100-01-01'";
    admin.batch_execute(far).await.unwrap();
    let ahead = "SELECT operator.begin_generation(1)
                        - extract(epoch FROM now() - timestamptz '2020-01-01 00:00:00+00')::bigint";
    let ahead: i64 = admin.query_one(ahead, &[]).await.unwrap().get(0);
    assert!((-1..3600).contains(&ahead), "it is by the clock: {ahead} seconds off");
    admin.batch_execute("ROLLBACK").await.unwrap();

    let mut begin = postern();
    begin
        .args(["generation", "begin", "--at-least", "2000000000"])
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url());
    let said = succeeds(&mut begin).await;
    assert!(said.contains("generation 2000000000 begins"), "{said}");

    let mut restore = into_database(&cluster, &dir, &elsewhere);
    let said = succeeds(restore.args(["--at-least", "2000000000"])).await;
    assert!(said.contains("generation 2000000000 begins"), "{said}");
}

/// Everything that comes is dated by the newest day that is known, so that nothing expires early when the clock is right again.
#[tokio::test]
async fn a_clock_that_is_behind_is_believed_on_its_third_day() {
    let cluster = Cluster::start().await;
    assert!(Server::start(&cluster).await.terminate().await.success());
    let admin = cluster.admin().await;
    let today = async || -> i32 {
        let sql = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - date '1970-01-01'";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    for (known, ahead) in [("58, 59, 60", 60), ("-1", 60), ("-2, -1", 0)] {
        let days = format!(
            "DELETE FROM operator.days;
             INSERT INTO operator.days (day)
             SELECT (now() AT TIME ZONE 'UTC')::date + n.days FROM unnest(ARRAY[{known}]) AS n (days);
             UPDATE operator.calendar SET day = (now() AT TIME ZONE 'UTC')::date + 60;
             SELECT operator.note_day();"
        );
        // Once more, if the day ended meanwhile.
        let found = loop {
            let before = today().await;
            admin.batch_execute(&days).await.unwrap();
            let sql = "SELECT operator.today() - (now() AT TIME ZONE 'UTC')::date";
            let found: i32 = admin.query_one(sql, &[]).await.unwrap().get(0);
            if today().await == before {
                break found;
            }
        };
        assert_eq!(found, ahead, "{known}");
    }
}
