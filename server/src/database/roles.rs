//! Roles, their settings in the database, and the database's own privileges: a dump leaves them out, and a hand may change
//! them. `postern migrate` makes them anew each time, and `postern check` looks whether the settings are there (OPS-3).

use tokio_postgres::{Client, Transaction};

use super::{Database, DatabaseError};

/// The settings of `postern_server` in the database.
const SETTINGS: [(&str, &str); 6] = [
    // Names are always qualified, so nothing is found by accident.
    ("search_path", "pg_catalog"),
    // A server that is frozen in a transaction must not hold its locks for long.
    ("idle_in_transaction_session_timeout", "30s"),
    // The server's statements are planned once, and by index. A backend whose plans were made while the tables were small
    // must not read them whole when they are large; and deliveries lock queues in the order in which their ids are joined,
    // which a hash would shuffle. These are settings of the role and not SET clauses of the functions, because a SET
    // clause costs a delivery to 10 queues a fifth of its time.
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Makes the roles where they are missing, with their comments, and gives the one that servers connect as its login. This
/// comes before the migrations, which make objects for them. What is right is left alone, because roles are the whole
/// cluster's, and another database of it may be migrated at the same time.
const ROLES: &str = "
    DO $$
    DECLARE
        wanted record;
    BEGIN
        FOR wanted IN SELECT * FROM (VALUES
            ('postern_owner', 'Owns everything of Postern; nobody logs in as it'),
            ('postern_server', 'The Postern server: executes API functions, listens, and nothing else'),
            ('postern_operator', 'Manages Postern through the functions of schema operator'),
            ('postern_monitor', 'Reads health and figures through functions of schema operator'),
            ('postern_backup', 'Reads everything, for backups, and changes nothing')) v (role, comment)
        LOOP
            IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = wanted.role) THEN
                BEGIN
                    EXECUTE format('CREATE ROLE %I NOLOGIN', wanted.role);
                EXCEPTION WHEN duplicate_object THEN
                    NULL;
                END;
            END IF;
            IF shobj_description((SELECT r.oid FROM pg_roles r WHERE r.rolname = wanted.role), 'pg_authid')
               IS DISTINCT FROM wanted.comment THEN
                EXECUTE format('COMMENT ON ROLE %I IS %L', wanted.role, wanted.comment);
            END IF;
        END LOOP;
        IF NOT (SELECT r.rolcanlogin FROM pg_roles r WHERE r.rolname = 'postern_server') THEN
            ALTER ROLE postern_server LOGIN;
        END IF;
        -- It sees standbys and sessions, of which operator.standbys and operator.health tell.
        IF NOT pg_has_role('postern_owner', 'pg_read_all_stats', 'MEMBER') THEN
            GRANT pg_read_all_stats TO postern_owner;
        END IF;
        IF NOT pg_has_role('postern_backup', 'pg_read_all_data', 'MEMBER') THEN
            GRANT pg_read_all_data TO postern_backup;
        END IF;
    END
    $$";

/// Lets those into the database that are to come, and nobody else, and takes rights that PostgreSQL gives every role of a
/// database and that none of ours needs: to make objects in schema public or large objects, to hold advisory locks (the
/// one of `postern migrate`, for ever), to notify, to write messages of any size into the WAL, to run anonymous code. The
/// NOTIFY statement needs no privilege: servers recognise the notifications of the database (QS-9).
const PRIVILEGES: &str = r"
    DO $$
    DECLARE
        free regprocedure;
        role text;
    BEGIN
        IF has_database_privilege('public', current_database(), 'CONNECT')
           OR has_database_privilege('public', current_database(), 'TEMPORARY') THEN
            EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
        END IF;
        FOREACH role IN ARRAY ARRAY['postern_server', 'postern_operator', 'postern_monitor', 'postern_backup'] LOOP
            IF NOT has_database_privilege(role, current_database(), 'CONNECT') THEN
                EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
            END IF;
        END LOOP;
        IF has_schema_privilege('public', 'public', 'USAGE') OR has_schema_privilege('public', 'public', 'CREATE') THEN
            REVOKE ALL ON SCHEMA public FROM PUBLIC;
        END IF;
        FOR free IN
            SELECT p.oid FROM pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace
               AND p.proname ~ '^(lo_\w+|loread|lowrite|pg_(try_)?advisory_\w+|pg_notify|pg_logical_emit_message)$'
               AND has_function_privilege('public', p.oid, 'EXECUTE')
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', free);
        END LOOP;
        FOR role IN
            SELECT l.lanname FROM pg_language l
             WHERE l.lanname IN ('plpgsql', 'sql') AND has_language_privilege('public', l.oid, 'USAGE')
        LOOP
            EXECUTE format('REVOKE USAGE ON LANGUAGE %I FROM PUBLIC', role);
        END LOOP;
        IF NOT has_language_privilege('postern_owner', 'plpgsql', 'USAGE')
           OR NOT has_language_privilege('postern_owner', 'sql', 'USAGE') THEN
            GRANT USAGE ON LANGUAGE plpgsql, sql TO postern_owner;
        END IF;
        IF NOT has_function_privilege('postern_owner', 'pg_notify(text, text)', 'EXECUTE') THEN
            GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify TO postern_owner;
        END IF;
        IF NOT has_function_privilege('postern_owner', 'pg_control_system()', 'EXECUTE') THEN
            -- For operator.origin().
            GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system TO postern_owner;
        END IF;
        IF NOT has_function_privilege('postern_owner', 'pg_ls_waldir()', 'EXECUTE') THEN
            -- For operator.figures().
            GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir TO postern_owner;
        END IF;
        IF NOT has_function_privilege('postern_owner', 'pg_ls_archive_statusdir()', 'EXECUTE') THEN
            -- For operator.health().
            GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_archive_statusdir TO postern_owner;
        END IF;
    END
    $$";

/// The settings of a role in this database, each as `name=value`.
const SET: &str = "SELECT unnest(s.setconfig)
                     FROM pg_db_role_setting s
                     JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
                     JOIN pg_roles r ON r.oid = s.setrole AND r.rolname = 'postern_server'";

/// Makes what is missing, and returns whether anything was.
///
/// # Errors
/// A refusal of PostgreSQL.
pub(super) async fn set_up(client: &mut Client) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(ROLES).await?;
    transaction.batch_execute(PRIVILEGES).await?;
    let missing = missing(&settings(&transaction).await?);
    for (name, value) in &missing {
        let set = "SELECT format('ALTER ROLE postern_server IN DATABASE %I SET %I = %L', current_database(), $1::text, $2::text)";
        let statement = transaction.query_one(set, &[name, value]).await?;
        transaction.batch_execute(statement.get(0)).await?;
    }
    transaction.commit().await?;
    Ok(!missing.is_empty())
}

/// The settings of `postern_server` that this database lacks.
///
/// # Errors
/// A database that does not answer.
pub async fn missing_settings(database: &Database) -> Result<Vec<&'static str>, DatabaseError> {
    let found: Vec<String> = database.query(SET, &[]).await?.iter().map(|row| row.get(0)).collect();
    Ok(missing(&found).into_iter().map(|(name, _)| name).collect())
}

async fn settings(transaction: &Transaction<'_>) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(transaction.query(SET, &[]).await?.iter().map(|row| row.get(0)).collect())
}

fn missing(found: &[String]) -> Vec<(&'static str, &'static str)> {
    let is_there = |(name, value): &(&str, &str)| found.contains(&format!("{name}={value}"));
    SETTINGS.into_iter().filter(|setting| !is_there(setting)).collect()
}
