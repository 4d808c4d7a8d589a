//! The roles of a database in a backup, as data: nothing that a role's name or setting holds is ever executed as it stands
//! (OPS-3). Every role may give itself settings in every database of its cluster, of any text.
//!
//! They are Postern's own roles, their members, and all roles that own something in the database or may do something with
//! it: without passwords. Superusers are in it by name only, since a restore makes nobody one.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::dump::connect;
use crate::{config::ConnectionString, database::DatabaseError};

/// Settings that are lists of names, which PostgreSQL keeps as they are written.
const LISTS: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "local_preload_libraries",
    "session_preload_libraries",
    "unix_socket_directories",
];
/// The comment of a role that a restore made, as long as it has not all of its settings.
const UNFINISHED: &str = "Made by postern restore, which gives it its settings";

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    roles: Vec<Role>,
    memberships: Vec<Membership>,
    settings: Vec<Setting>,
    rights: Vec<Right>,
    /// The superusers that somebody made, by name: all but PostgreSQL's first. Missing in backups of before, as what follows is.
    #[serde(default)]
    superusers: Vec<String>,
    /// The settings of all roles in all databases (`ALTER ROLE ALL`), of a private cluster only.
    #[serde(default)]
    settings_of_all: Vec<Everywhere>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Role {
    name: String,
    login: bool,
    inherit: bool,
    create_databases: bool,
    create_roles: bool,
    connection_limit: i32,
    valid_until: Option<String>,
    /// Missing in backups of before, as what follows is.
    #[serde(default)]
    replication: bool,
    #[serde(default)]
    bypass_row_security: bool,
    /// Its settings in every database of the cluster.
    #[serde(default)]
    settings: Vec<Everywhere>,
}

/// A role's setting in every database.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Everywhere {
    name: String,
    value: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Membership {
    role: String,
    member: String,
    admin: bool,
    /// `None`: the backup is of PostgreSQL 15, where roles inherit or do not.
    #[serde(default)]
    inherit: Option<bool>,
    /// As `inherit`.
    #[serde(default)]
    set: Option<bool>,
}

/// A setting in the database.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    /// `None`: it is everybody's.
    role: Option<String>,
    name: String,
    value: String,
}

/// A right on the database.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Right {
    role: String,
    privilege: String,
    grantable: bool,
}

impl Roles {
    /// Reads the roles as a superuser, or as a role that may read everything. `private`: the cluster is Postern's alone, and so are
    /// settings of all roles in it.
    pub async fn of(client: &Client, private: bool) -> anyhow::Result<Self> {
        let row = client.query_one(READ, &[&private]).await.map_err(DatabaseError::from)?;
        serde_json::from_str(row.get(0)).context("the roles of the database cannot be read")
    }

    /// Makes the roles that are missing, with their settings in every database, and gives all of them their memberships and
    /// settings in this one; each statement can be repeated. Returns what had to be left out, in words.
    ///
    /// # Errors
    /// A role cannot be made.
    pub async fn make(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let mut left_out = Vec::new();
        let mut expect = |what: String, done: Result<(), DatabaseError>| {
            if let Err(error) = done {
                left_out.push(format!("{what} ({error})"));
            }
        };
        for role in &self.roles {
            let cannot = || format!("cannot make the role {:?}", role.name);
            if !role.make(client).await.with_context(cannot)? {
                continue;
            }
            for Everywhere { name, value } in &role.settings {
                let done = set(client, "ALTER ROLE %I SET %I", &[&role.name], name, value).await;
                expect(format!("the setting {name:?} of {:?} in all databases", role.name), done);
            }
            execute(client, "COMMENT ON ROLE %I IS NULL", &[&role.name]).await.with_context(cannot)?;
        }
        let has_options = "SELECT current_setting('server_version_num')::integer >= 160000";
        let has_options: bool = client.query_one(has_options, &[]).await.map_err(DatabaseError::from)?.get(0);
        for membership in &self.memberships {
            let Membership { role, member, .. } = membership;
            let done = execute(client, &membership.grant(has_options), &[role, member]).await;
            expect(format!("the membership of {member:?} in {role:?}"), done);
        }
        for setting in &self.settings {
            let whose = setting.role.as_ref().map_or("everybody".to_owned(), |role| format!("{role:?}"));
            expect(format!("the setting {:?} of {whose}", setting.name), setting.make(client).await);
        }
        Ok(left_out)
    }

    /// Says, in words, which superusers of the backup are left out: those among roles that are not here.
    pub fn superusers_left_out(&self, absent: &[String]) -> Vec<String> {
        let lost = self.superusers.iter().filter(|name| absent.contains(name));
        lost.map(|name| {
            format!("the superuser {name:?} (a restore makes nobody one: make it again if you want it)")
        })
        .collect()
    }

    /// Makes the settings of all roles in all databases, in the private cluster to which `private` leads; each statement can be
    /// repeated. One with which no session begins, such as a library that is not here, is taken back. Returns what had to be left
    /// out, in words: in a PostgreSQL of one's own, all of them.
    pub async fn make_settings_of_all(
        &self,
        client: &Client,
        private: Option<&ConnectionString>,
    ) -> Vec<String> {
        let mut left_out = Vec::new();
        for Everywhere { name, value } in &self.settings_of_all {
            let what = format!("the setting {name:?} of all roles");
            let Some(url) = private else {
                left_out
                    .push(format!("{what} (ALTER ROLE ALL is yours to do: it is for the whole PostgreSQL)"));
                continue;
            };
            if let Err(error) = set(client, "ALTER ROLE ALL SET %I", &[], name, value).await {
                left_out.push(format!("{what} ({error})"));
                continue;
            }
            // They are for new sessions: this one, which began before, can take them back.
            if let Err(error) = connect(url, "postern restore").await {
                let taken_back = execute(client, "ALTER ROLE ALL RESET %I", &[name]).await;
                let remains = taken_back.err().map(|error| format!("; it could not be taken back: {error}"));
                let remains = remains.unwrap_or_default();
                left_out.push(format!("{what} (no session begins with it: {error:#}{remains})"));
            }
        }
        left_out
    }

    /// Gives the roles their rights on the database, which let them in: once everything else is there. Returns what had to be
    /// left out, in words.
    pub async fn make_rights(&self, client: &Client) -> Vec<String> {
        let mut left_out = Vec::new();
        for right in &self.rights {
            if let Err(error) = right.make(client).await {
                left_out.push(format!("the right {} of {:?} ({error})", right.privilege, right.role));
            }
        }
        left_out
    }
}

impl Membership {
    /// The statement that makes it. `has_options`: PostgreSQL is 16 or later.
    fn grant(&self, has_options: bool) -> String {
        match (self.inherit, self.set, self.admin) {
            (Some(inherit), Some(set), admin) if has_options => {
                format!("GRANT %I TO %I WITH ADMIN {admin}, INHERIT {inherit}, SET {set}")
            }
            (_, _, true) => "GRANT %I TO %I WITH ADMIN OPTION".to_owned(),
            (_, _, false) => "GRANT %I TO %I".to_owned(),
        }
    }
}

impl Role {
    /// Makes it, unless it is there; returns whether it is a restore's, and may lack settings. One that was there before keeps
    /// its own.
    async fn make(&self, client: &Client) -> Result<bool, DatabaseError> {
        let found = "SELECT shobj_description(r.oid, 'pg_authid') IS NOT DISTINCT FROM $2::text
                       FROM pg_roles r WHERE r.rolname = $1";
        if let Some(row) = client.query_opt(found, &[&self.name, &UNFINISHED]).await? {
            return Ok(row.get(0));
        }
        let option = |is: bool, name: &str| if is { name.to_owned() } else { format!("NO{name}") };
        let options = [
            option(self.login, "LOGIN"),
            option(self.inherit, "INHERIT"),
            option(self.create_databases, "CREATEDB"),
            option(self.create_roles, "CREATEROLE"),
            option(self.replication, "REPLICATION"),
            option(self.bypass_row_security, "BYPASSRLS"),
            format!("CONNECTION LIMIT {}", self.connection_limit),
        ];
        let until = self.valid_until.as_ref().map_or("", |_| " VALID UNTIL %3$L");
        // Both in one transaction: after a kill the next restore knows that it is not finished.
        let template = format!("CREATE ROLE %1$I {}{until}; COMMENT ON ROLE %1$I IS %2$L", options.join(" "));
        let day = self.valid_until.as_deref().unwrap_or_default();
        execute(client, &template, &[&self.name, UNFINISHED, day]).await?;
        Ok(true)
    }
}

impl Setting {
    async fn make(&self, client: &Client) -> Result<(), DatabaseError> {
        let database = database(client).await?;
        let Self { role, name, value } = self;
        match role {
            Some(role) => {
                set(client, "ALTER ROLE %I IN DATABASE %I SET %I", &[role, &database], name, value).await
            }
            None => set(client, "ALTER DATABASE %I SET %I", &[&database], name, value).await,
        }
    }
}

/// Makes a setting by a statement that names whose it is, and then the setting.
async fn set(
    client: &Client,
    alter: &str,
    whose: &[&str],
    name: &str,
    value: &str,
) -> Result<(), DatabaseError> {
    let mut names = whose.to_vec();
    names.push(name);
    if !LISTS.contains(&name) {
        names.push(value);
        return execute(client, &format!("{alter} = %L"), &names).await;
    }
    // A list is no string: PostgreSQL takes it from the transaction's own setting, as it is.
    let alter = formatted(client, &format!("{alter} FROM CURRENT"), &names).await?;
    let local = formatted(client, "PERFORM pg_catalog.set_config(%L, %L, true)", &[name, value]).await?;
    execute(client, "DO %L", &[&format!("BEGIN {local}; {alter}; END")]).await
}

impl Right {
    async fn make(&self, client: &Client) -> Result<(), DatabaseError> {
        // A database has no other privileges.
        let privilege = match self.privilege.as_str() {
            "CONNECT" => "CONNECT",
            "CREATE" => "CREATE",
            "TEMPORARY" => "TEMPORARY",
            _ => return Ok(()),
        };
        let option = if self.grantable { " WITH GRANT OPTION" } else { "" };
        let template = format!("GRANT {privilege} ON DATABASE %I TO %I{option}");
        execute(client, &template, &[&database(client).await?, &self.role]).await
    }
}

async fn database(client: &Client) -> Result<String, DatabaseError> {
    Ok(client.query_one("SELECT current_database()::text", &[]).await?.get(0))
}

/// A statement with its names (`%I`) and texts (`%L`) in it, quoted by PostgreSQL.
async fn formatted(client: &Client, template: &str, arguments: &[&str]) -> Result<String, DatabaseError> {
    let sql = "SELECT format($1::text, VARIADIC $2::text[])";
    Ok(client.query_one(sql, &[&template, &arguments]).await?.get(0))
}

/// Executes a statement with its names (`%I`) and texts (`%L`) in it.
pub async fn execute(client: &Client, template: &str, arguments: &[&str]) -> Result<(), DatabaseError> {
    let statement = formatted(client, template, arguments).await?;
    Ok(client.batch_execute(&statement).await?)
}

const READ: &str = "
    WITH RECURSIVE here AS (
        SELECT d.oid, d.datacl FROM pg_database d WHERE d.datname = current_database()
    ), used AS (
        SELECT r.oid FROM pg_roles r
         WHERE r.rolname IN ('postern_owner', 'postern_server', 'postern_operator', 'postern_monitor',
                             'postern_backup')
         UNION
        SELECT d.refobjid FROM pg_shdepend d, here
         WHERE d.refclassid = 'pg_authid'::regclass
           AND (d.dbid = here.oid OR d.dbid = 0 AND d.classid = 'pg_database'::regclass AND d.objid = here.oid)
         UNION
        SELECT s.setrole FROM pg_db_role_setting s, here WHERE s.setdatabase = here.oid
         UNION
        SELECT m.member FROM pg_auth_members m JOIN used u ON m.roleid = u.oid
    ), roles AS (
        SELECT r.* FROM pg_roles r JOIN used u ON u.oid = r.oid
         WHERE NOT r.rolsuper AND r.rolname !~ '^pg_'
    ), members AS (
        SELECT g.rolname AS role, r.rolname AS member, bool_or(m.admin_option) AS admin,
               -- From PostgreSQL 16 on.
               bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) AS inherit,
               bool_or((to_jsonb(m) ->> 'set_option')::boolean) AS set
          FROM pg_auth_members m
          JOIN roles r ON r.oid = m.member
          JOIN pg_roles g ON g.oid = m.roleid
         WHERE g.oid IN (SELECT a.oid FROM roles a) OR g.rolname ~ '^pg_'
         GROUP BY g.rolname, r.rolname
    ), settings AS (
        SELECT r.rolname AS role, c.place,
               split_part(c.setting, '=', 1) AS name, substr(c.setting, strpos(c.setting, '=') + 1) AS value
          FROM here
          JOIN pg_db_role_setting s ON s.setdatabase = here.oid
         CROSS JOIN LATERAL unnest(s.setconfig) WITH ORDINALITY AS c (setting, place)
          LEFT JOIN roles r ON r.oid = s.setrole
         WHERE (s.setrole = 0 OR r.oid IS NOT NULL)
           -- The mark of a restore is left out: it is about this database.
           AND NOT starts_with(c.setting, 'postern_restore.')
    ), everywhere AS (
        SELECT s.setrole AS role, c.place,
               split_part(c.setting, '=', 1) AS name, substr(c.setting, strpos(c.setting, '=') + 1) AS value
          FROM pg_db_role_setting s
         CROSS JOIN LATERAL unnest(s.setconfig) WITH ORDINALITY AS c (setting, place)
         WHERE s.setdatabase = 0
    ), rights AS (
        SELECT r.rolname AS role, a.privilege_type AS privilege, a.is_grantable AS grantable
          FROM here
         CROSS JOIN LATERAL aclexplode(here.datacl) a
          JOIN roles r ON r.oid = a.grantee
         -- The restore lets Postern's own roles in itself, as its last step.
         WHERE r.rolname <> 'postern_server'
           AND NOT (r.rolname IN ('postern_operator', 'postern_monitor', 'postern_backup') AND a.privilege_type = 'CONNECT')
    )
    SELECT jsonb_build_object(
        'roles', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                             'name', r.rolname, 'login', r.rolcanlogin, 'inherit', r.rolinherit,
                             'create_databases', r.rolcreatedb, 'create_roles', r.rolcreaterole,
                             'connection_limit', r.rolconnlimit,
                             'valid_until', to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SSOF'),
                             'replication', r.rolreplication, 'bypass_row_security', r.rolbypassrls,
                             'settings', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', e.name, 'value', e.value)
                                                          ORDER BY e.place), '[]')
                                            FROM everywhere e WHERE e.role = r.oid))
                         ORDER BY r.rolname), '[]') FROM roles r),
        'memberships', (SELECT coalesce(jsonb_agg(jsonb_build_object('role', m.role, 'member', m.member, 'admin', m.admin,
                                                                     'inherit', m.inherit, 'set', m.set)
                               ORDER BY m.role, m.member), '[]') FROM members m),
        'settings', (SELECT coalesce(jsonb_agg(jsonb_build_object('role', s.role, 'name', s.name, 'value', s.value)
                            ORDER BY s.role, s.place), '[]') FROM settings s),
        'rights', (SELECT coalesce(jsonb_agg(jsonb_build_object('role', r.role, 'privilege', r.privilege,
                                                                'grantable', r.grantable)
                          ORDER BY r.role, r.privilege), '[]') FROM rights r),
        -- PostgreSQL's first role, 10, has its like in each cluster.
        'superusers', (SELECT coalesce(jsonb_agg(r.rolname ORDER BY r.rolname), '[]')
                         FROM pg_roles r WHERE r.rolsuper AND r.oid <> 10),
        'settings_of_all', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', e.name, 'value', e.value) ORDER BY e.place), '[]')
                              FROM everywhere e WHERE $1::boolean AND e.role = 0))::text";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_inherit_does_not_after_a_restore() {
        let member = |inherit| Membership {
            role: "postern_operator".to_owned(),
            member: "alice".to_owned(),
            admin: false,
            inherit,
            set: Some(true),
        };
        assert_eq!(
            member(Some(false)).grant(true),
            "GRANT %I TO %I WITH ADMIN false, INHERIT false, SET true"
        );
        assert_eq!(member(Some(false)).grant(false), "GRANT %I TO %I");
        assert_eq!(member(None).grant(true), "GRANT %I TO %I");
    }
}
