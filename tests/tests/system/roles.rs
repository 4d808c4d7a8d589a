//! OPS-3: what each role can do is what `sql/grants.sql` says, and nothing else. The catalog is walked, so nothing
//! that is added later is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use postern_tests_kit::{Cluster, in_tree};
use tokio_postgres::{Client, error::SqlState};

const ROLES: [&str; 3] = ["postern_server", "postern_operator", "postern_monitor"];
const OURS: &str =
    "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'";

async fn refusal(client: &Client, sql: &str) -> Option<SqlState> {
    client.batch_execute(sql).await.err().and_then(|error| error.code().cloned())
}

async fn assert_denied(client: &Client, role: &str, sql: &str) {
    assert_eq!(refusal(client, sql).await, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {sql}");
}

async fn names(admin: &Client, sql: &str) -> Vec<String> {
    let rows = admin.query(sql, &[]).await.expect("the catalog can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The functions that grants.sql grants to a role, as `schema.name`.
fn granted(role: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(in_tree("sql/grants.sql")).expect("sql/grants.sql is there");
    let code: String =
        text.lines().map(|line| line.split("--").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut functions = BTreeSet::new();
    for statement in code.split(';') {
        let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some((list, roles)) =
            statement.strip_prefix("GRANT EXECUTE ON FUNCTION ").and_then(|rest| rest.split_once(" TO "))
        else {
            continue;
        };
        if roles.split(", ").any(|name| name == role) {
            // Commas within parentheses separate argument types.
            let mut depth = 0;
            let names = list.split(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                c == ',' && depth == 0
            });
            functions.extend(names.filter_map(|name| Some(name.split('(').next()?.trim().to_owned())));
        }
    }
    functions
}

#[tokio::test]
async fn no_role_reaches_a_table_or_sequence() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let of_kind = |kinds: &str| {
        format!(
            "SELECT format('%I.%I', n.nspname, c.relname)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ({kinds}) AND {OURS} ORDER BY 1"
        )
    };
    let tables = names(&admin, &of_kind("'r', 'p', 'v', 'm', 'f'")).await;
    let sequences = names(&admin, &of_kind("'S'")).await;
    assert!(tables.contains(&"operator.settings".to_owned()), "{tables:?}");
    for role in ROLES {
        let client = cluster.connect_as(role).await;
        for table in &tables {
            assert_denied(&client, role, &format!("SELECT FROM {table} LIMIT 0")).await;
            assert_denied(&client, role, &format!("INSERT INTO {table} DEFAULT VALUES")).await;
            assert_denied(&client, role, &format!("DELETE FROM {table} WHERE false")).await;
            assert_denied(&client, role, &format!("TRUNCATE {table}")).await;
            assert_denied(&client, role, &format!("COPY {table} TO STDOUT")).await;
        }
        for sequence in &sequences {
            assert_denied(&client, role, &format!("SELECT nextval('{sequence}')")).await;
            assert_denied(&client, role, &format!("SELECT last_value FROM {sequence}")).await;
        }
    }
    // UPDATE needs a column's name, and privileges can be per column.
    let columns = "SELECT r.rolname || ': ' || c.oid::regclass
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles r
                    WHERE r.rolname IN ('postern_server', 'postern_operator', 'postern_monitor')
                      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                      AND has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') AND ";
    assert_eq!(names(&admin, &format!("{columns}{OURS}")).await, Vec::<String>::new());
}

#[tokio::test]
async fn each_role_executes_what_grants_sql_names_and_nothing_else() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for role in ROLES {
        let granted = granted(role);
        assert!(!granted.is_empty(), "{role}");
        let client = cluster.connect_as(role).await;
        let functions = admin
            .query(
                &format!(
                    "SELECT format('%I.%I', n.nspname, p.proname),
                            has_schema_privilege($1, n.oid, 'USAGE') AND has_function_privilege($1, p.oid, 'EXECUTE'),
                            CASE WHEN p.prokind = 'p' THEN 'CALL' ELSE 'SELECT' END
                                || format(' %I.%I(', n.nspname, p.proname)
                                || (SELECT coalesce(string_agg('NULL::' || format_type(a, NULL), ', '), '')
                                      FROM unnest(p.proargtypes) a)
                                || ')',
                            p.proisstrict
                       FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {OURS}"
                ),
                &[&role],
            )
            .await
            .expect("the catalog can be read");
        let mut executable = BTreeSet::new();
        for row in functions {
            let (name, allowed, call, strict): (String, bool, String, bool) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            if allowed {
                executable.insert(name);
            } else if !strict {
                // A strict function of null is never called, so PostgreSQL does not ask for the privilege.
                assert_denied(&client, role, &call).await;
            }
        }
        assert_eq!(executable, granted, "{role}");
    }
}

#[tokio::test]
async fn the_server_role_cannot_make_or_become_anything() {
    let cluster = Cluster::start().await;
    let client = cluster.connect_as("postern_server").await;
    for sql in [
        "CREATE TABLE public.t ()",
        "CREATE TABLE qs.t ()",
        "CREATE TEMP TABLE t ()",
        "CREATE SCHEMA s",
        "CREATE ROLE r",
        "CREATE DATABASE d",
        "CREATE FUNCTION operator.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE postern_owner",
        "SET ROLE postern_operator",
        "SET SESSION AUTHORIZATION postern_admin",
        "SET session_replication_role = replica",
        "ALTER ROLE postern_server SUPERUSER",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_reload_conf()",
        "CHECKPOINT",
    ] {
        assert_denied(&client, "postern_server", sql).await;
    }
    client.batch_execute("LISTEN postern_wake").await.expect("the server listens for wake-ups");
}

/// Privileges that PostgreSQL gives everybody would let monitoring hold up migrations, fill the disk, or pass for the
/// database.
#[tokio::test]
async fn a_role_that_only_reads_figures_can_hold_up_write_and_forge_nothing() {
    let cluster = Cluster::start().await;
    let writing = [
        "SELECT lo_creat(-1)",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'large')",
        "SELECT lo_put(1, 0, 'large')",
        "SELECT pg_logical_emit_message(true, 'large', repeat('x', 1000000))",
        "SELECT pg_logical_emit_message(false, 'large', 'x'::bytea)",
        "CREATE TEMP TABLE t ()",
        "SELECT 1 INTO TEMP t",
        "CREATE TABLE public.t ()",
        "DO $$ BEGIN END $$",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT postern.wake_secret()",
        "SELECT postern.open_wakeup('*')",
        "SELECT postern.wake_all()",
        "SELECT pg_notify('postern_wake', '*')",
        "SELECT pg_notify('postern_issuer_keys', '')",
    ];
    let locks = ["", "_shared"].into_iter().flat_map(|shared| {
        let lock = move |wait: &str, scope: &str| format!("SELECT pg_{wait}advisory_{scope}lock{shared}(1)");
        ["", "try_"].into_iter().flat_map(move |wait| [lock(wait, ""), lock(wait, "xact_")])
    });
    let denied: Vec<String> = writing.iter().map(|sql| (*sql).to_owned()).chain(locks).collect();
    for role in ROLES {
        let client = cluster.connect_as(role).await;
        for sql in denied.iter().filter(|sql| role != "postern_server" || !sql.contains("wake_secret")) {
            assert_denied(&client, role, sql).await;
        }
    }
}

#[tokio::test]
async fn api_functions_run_as_their_owner_and_find_only_their_own_names() {
    let cluster = Cluster::start().await;
    let careless = names(
        &cluster.admin().await,
        "SELECT p.oid::regprocedure::text
           FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')
            AND (p.proowner <> 'postern_owner'::regrole
                 OR p.proacl IS NULL
                 OR has_function_privilege('postern_server', p.oid, 'EXECUTE') AND NOT p.prosecdef
                 OR p.prosecdef AND NOT coalesce(p.proconfig::text ~ 'search_path=pg_catalog, pg_temp', false))",
    )
    .await;
    assert_eq!(careless, Vec::<String>::new());
}

#[tokio::test]
async fn everything_belongs_to_postern_owner_and_says_what_it_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let foreign = "SELECT c.oid::regclass::text
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')
                      AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I')
                      AND c.relowner <> 'postern_owner'::regrole";
    assert_eq!(names(&admin, foreign).await, Vec::<String>::new());
    let silent = "WITH ours AS (SELECT oid, nspname FROM pg_namespace
                                 WHERE nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')),
                       tables AS (SELECT c.oid FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
                                   WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition)
                  SELECT n.nspname::text FROM ours n WHERE obj_description(n.oid, 'pg_namespace') IS NULL
                  UNION ALL
                  SELECT t.oid::regclass::text FROM tables t WHERE obj_description(t.oid, 'pg_class') IS NULL
                  UNION ALL
                  SELECT t.oid::regclass || '.' || a.attname
                    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                   WHERE col_description(t.oid, a.attnum) IS NULL
                  UNION ALL
                  SELECT t.oid::regtype::text FROM pg_type t JOIN ours n ON n.oid = t.typnamespace
                   WHERE t.typtype IN ('d', 'e') AND obj_description(t.oid, 'pg_type') IS NULL
                  UNION ALL
                  SELECT p.oid::regprocedure::text FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
                   WHERE obj_description(p.oid, 'pg_proc') IS NULL";
    assert_eq!(names(&admin, silent).await, Vec::<String>::new());
}

/// The text of the comment that a file of `sql/` begins with, without the line breaks and the function's name.
fn header(text: &str, function: &str) -> String {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("--")).collect();
    let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
    assert_eq!(words.first().copied(), Some(format!("{function}:").as_str()), "the header of {function}");
    words[1..].join(" ")
}

#[tokio::test]
async fn each_function_of_sql_says_what_its_header_says() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let mut headers = 0;
    for schema in std::fs::read_dir(in_tree("sql")).expect("sql/ is there") {
        let schema = schema.expect("it can be read").path();
        for file in std::fs::read_dir(&schema).into_iter().flatten() {
            let file = file.expect("it can be read").path();
            if file.extension().is_none_or(|extension| extension != "sql") {
                continue;
            }
            let [schema, name] = [&schema, &file].map(|path| path.file_stem().unwrap().to_str().unwrap());
            let function = format!("{schema}.{name}");
            let comment = format!("SELECT obj_description('{function}'::regproc, 'pg_proc')");
            let comment = names(&admin, &comment).await.remove(0);
            let comment: Vec<&str> = comment.split_whitespace().collect();
            let header = header(&std::fs::read_to_string(&file).expect("it is text"), &function);
            assert_eq!(comment.join(" ").to_lowercase(), header.to_lowercase());
            assert!(comment[0].starts_with(char::is_uppercase), "{function}: {comment:?}");
            headers += 1;
        }
    }
    assert!(headers > 80, "{headers} functions");
}

/// Whether a text has a name as a word.
fn names_word(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

/// Whether a comment has a line for a parameter, alone or together with others: `name: …`, `one, name: …`.
fn explains(comment: &str, name: &str) -> bool {
    let explained = comment.lines().filter_map(|line| line.split_once(": "));
    explained.into_iter().any(|(names, _)| names.split(", ").any(|one| one == name))
}

#[tokio::test]
async fn each_function_for_operators_explains_its_parameters_and_columns() {
    let cluster = Cluster::start().await;
    let rows = cluster
        .admin()
        .await
        .query(
            "SELECT p.proname::text, obj_description(p.oid, 'pg_proc'), p.proretset,
                    coalesce(p.proargnames, '{}'),
                    coalesce(p.proargmodes::text[], array_fill('i'::text, ARRAY[coalesce(cardinality(p.proargnames), 0)]))
               FROM pg_proc p
              WHERE p.pronamespace = 'operator'::regnamespace
                AND (has_function_privilege('postern_operator', p.oid, 'EXECUTE')
                     OR has_function_privilege('postern_monitor', p.oid, 'EXECUTE'))",
            &[],
        )
        .await
        .unwrap();
    let mut silent = Vec::new();
    for row in &rows {
        let (function, comment, returns_rows): (&str, &str, bool) = (row.get(0), row.get(1), row.get(2));
        let (names, modes): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let outputs = modes.iter().filter(|mode| *mode != "i").count();
        for (name, mode) in names.iter().zip(&modes) {
            let is_clear = match mode.as_str() {
                "i" => explains(comment, name),
                // One value is what the first sentence tells of.
                _ if outputs == 1 && !returns_rows => true,
                _ => names_word(comment, name),
            };
            if !is_clear {
                silent.push(format!("operator.{function} says nothing of {name}"));
            }
        }
    }
    assert!(rows.len() > 60, "{} functions", rows.len());
    assert!(silent.is_empty(), "{silent:#?}");
}

/// A label may be explained by another function that the comment names.
#[tokio::test]
async fn each_function_explains_its_outcomes() {
    let cluster = Cluster::start().await;
    let rows = cluster
        .admin()
        .await
        .query(
            "SELECT DISTINCT n.nspname || '.' || p.proname, obj_description(p.oid, 'pg_proc'), e.enumlabel::text
               FROM pg_proc p
               JOIN pg_namespace n ON n.oid = p.pronamespace
              CROSS JOIN LATERAL unnest(coalesce(p.proallargtypes, '{}') || p.prorettype) AS a (type)
               JOIN pg_type t ON t.oid = a.type AND t.typname LIKE '%\\_outcome'
               JOIN pg_enum e ON e.enumtypid = t.oid
              WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation', 'operator')",
            &[],
        )
        .await
        .unwrap();
    let comments: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(comments.len() > 60, "{} functions", comments.len());
    let mut silent = Vec::new();
    for row in &rows {
        let (function, comment, label): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let mut named = comments.iter().filter(|(other, _)| comment.contains(other.as_str()));
        if !names_word(comment, label) && !named.any(|(_, other)| names_word(other, label)) {
            silent.push(format!("{function} says nothing of {label}"));
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

/// A group's members may have their queues in another database: delivery there is not for these functions.
#[tokio::test]
async fn nothing_in_the_schema_joins_a_group_with_queues() {
    let cluster = Cluster::start().await;
    let joined = "SELECT conrelid::regclass || ' refers to ' || confrelid::regclass
                    FROM pg_constraint k
                    JOIN pg_class one ON one.oid = k.conrelid
                    JOIN pg_class other ON other.oid = k.confrelid
                   WHERE k.contype = 'f' AND one.relnamespace <> other.relnamespace
                     AND (one.relnamespace::regnamespace::text IN ('ds', 'qs')
                          OR other.relnamespace::regnamespace::text IN ('ds', 'qs'))
                  UNION ALL
                  SELECT p.oid::regprocedure || ' names the other schema'
                    FROM pg_proc p
                   WHERE p.pronamespace = 'ds'::regnamespace AND p.prosrc ~ '\\mqs\\.\\w+'
                      OR p.pronamespace = 'qs'::regnamespace AND p.prosrc ~ '\\mds\\.\\w+'";
    let joined: Vec<String> = names(&cluster.admin().await, joined).await;
    assert_eq!(joined, Vec::<String>::new());
}
