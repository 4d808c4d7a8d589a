//! Roles that own something in the backup and are not here exist for as long as a restore takes; those that log in need a
//! password after it.

use anyhow::Context;
use tokio_postgres::Client;

use crate::{cli::roles::execute, database::DatabaseError};

/// The comment of a role that exists for the time of a restore only.
const FOR_A_RESTORE: &str = "Made by postern restore, which drops it";

/// Makes those of these roles that are not here, until [`drop_absent`], and returns their names.
pub(super) async fn make_absent(client: &Client, roles: &[String]) -> anyhow::Result<Vec<String>> {
    let absent = absent(client, roles).await?;
    for role in &absent {
        // One of an interrupted restore is there already. Both in one transaction: none stays without the comment.
        let exists = "SELECT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1)";
        if !client.query_one(exists, &[role]).await.map_err(DatabaseError::from)?.get::<_, bool>(0) {
            let make = "CREATE ROLE %1$I NOLOGIN; COMMENT ON ROLE %1$I IS %2$L";
            execute(client, make, &[role, FOR_A_RESTORE]).await.context("cannot make a role")?;
        }
    }
    Ok(absent)
}

/// Drops roles that [`make_absent`] made. What they own goes to this session's role: others are in their place here.
pub(super) async fn drop_absent(client: &Client, roles: &[String]) -> anyhow::Result<()> {
    for role in roles {
        let reassign = "REASSIGN OWNED BY %1$I TO CURRENT_USER; DROP OWNED BY %1$I; DROP ROLE %1$I";
        execute(client, reassign, &[role]).await.context("cannot give a role's objects to another")?;
    }
    Ok(())
}

/// The names of the roles that are not here, or only since an interrupted restore.
async fn absent(client: &Client, roles: &[String]) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT n.name FROM unnest($1::text[]) AS n (name)
              WHERE NOT EXISTS (SELECT FROM pg_roles r
                                 WHERE r.rolname = n.name
                                   AND shobj_description(r.oid, 'pg_authid') IS DISTINCT FROM $2::text)",
            &[&roles, &FOR_A_RESTORE],
        )
        .await
        .map_err(DatabaseError::from)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The roles of this database that can log in and have no password. The restore's own way is no sign of theirs: it comes over a
/// socket where servers come from other machines.
pub(super) async fn without_password(client: &Client) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT a.rolname::text FROM pg_authid a
              WHERE a.rolcanlogin AND NOT a.rolsuper AND a.rolpassword IS NULL
                AND (a.rolname = 'postern_server'
                     OR pg_has_role(a.oid, 'postern_operator', 'MEMBER') OR pg_has_role(a.oid, 'postern_monitor', 'MEMBER')
                     OR pg_has_role(a.oid, 'postern_backup', 'MEMBER'))
              ORDER BY 1",
            &[],
        )
        .await
        .map_err(DatabaseError::from)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
