//! Operators, monitoring and backups log in to a private cluster as themselves: each as the system user of the role's name, and
//! nobody else does (OPS-3).

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    process::Stdio,
};

use nix::unistd::{Uid, User};
use postern_tests_kit::{Cluster, program};
use tokio::process::Command;

/// PostgreSQL knows no rule for such a role in such a database.
const NO_RULE: &str = "no pg_hba.conf entry";
/// The system user is another one than the role's.
const ANOTHER_USER: &str = "Peer authentication failed";
/// The way to the socket is closed to the system user.
const NO_WAY: &str = "Permission denied";

/// A way into a cluster: who goes it, and as whom.
struct Login<'a> {
    /// Numbers of the system user and of its group; none for ourselves.
    user: Option<(u32, u32)>,
    role: &'a str,
    database: &'a str,
}

impl Login<'_> {
    /// The result of a statement, or what `psql` complains of.
    async fn ask(&self, cluster: &Cluster, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(program("psql"));
        psql.args(["-XAtq", "--no-password", "--username", self.role, "--dbname", self.database])
            .args(["--command", sql, "--host"])
            .arg(cluster.socket_dir())
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            // Root's supplementary groups are dropped with that.
            psql.uid(user).gid(group);
        }
        let output = psql.output().await.expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    async fn assert_refused(&self, cluster: &Cluster, why: &str) {
        let answer = self.ask(cluster, "SELECT current_user").await;
        let is_refused = answer.as_ref().is_err_and(|complaint| complaint.contains(why));
        assert!(is_refused, "{:?} as {} in {}: {answer:?}", self.user, self.role, self.database);
    }
}

#[tokio::test]
async fn a_member_of_a_role_for_operators_logs_in_as_the_system_user_of_its_name() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let ourselves = User::from_uid(Uid::effective()).unwrap().expect("we have a name").name;
    let now = async |sql: &str| admin.batch_execute(sql).await.unwrap();
    now(&format!(
        "CREATE ROLE \"{ourselves}\" LOGIN; CREATE ROLE another LOGIN IN ROLE postern_operator; CREATE ROLE team NOLOGIN"
    ))
    .await;
    let own = Login { user: None, role: &ourselves, database: "postern" };
    own.assert_refused(&cluster, NO_RULE).await;
    for role in ["postern_operator", "postern_monitor", "postern_backup"] {
        now(&format!("GRANT {role} TO \"{ourselves}\"")).await;
        assert_eq!(own.ask(&cluster, "SELECT current_user").await, Ok(ourselves.clone()), "{role}");
        now(&format!("REVOKE {role} FROM \"{ourselves}\"")).await;
        own.assert_refused(&cluster, NO_RULE).await;
    }
    // As a member of a role that is one.
    now(&format!("GRANT postern_operator TO team; GRANT team TO \"{ourselves}\"")).await;
    assert_eq!(own.ask(&cluster, "SELECT count(*) FROM operator.users()").await, Ok("0".to_owned()));
    let elsewhere = Login { database: "postgres", ..own };
    elsewhere.assert_refused(&cluster, NO_RULE).await;
    let other = Login { user: None, role: "another", database: "postern" };
    other.assert_refused(&cluster, ANOTHER_USER).await;
    // A superuser is none of the operators by that alone.
    now(&format!("REVOKE team FROM \"{ourselves}\"; ALTER ROLE \"{ourselves}\" SUPERUSER")).await;
    own.assert_refused(&cluster, NO_RULE).await;
}

mod as_root {
    use super::*;
    use crate::expect_root;

    #[tokio::test]
    async fn other_users_of_the_machine_log_in_by_their_roles_once_the_sockets_directory_is_open() {
        expect_root("log in as another user");
        let mut cluster = Cluster::start().await;
        let users = "CREATE ROLE daemon LOGIN IN ROLE postern_operator;
                     CREATE ROLE bin LOGIN IN ROLE postern_monitor;
                     CREATE ROLE mail LOGIN IN ROLE postern_backup;
                     CREATE ROLE games LOGIN;
                     CREATE ROLE nobody LOGIN SUPERUSER";
        cluster.admin().await.batch_execute(users).await.unwrap();
        let user =
            |name: &str| User::from_name(name).unwrap().unwrap_or_else(|| panic!("there is no user {name}"));
        let (let_in, others) = (user("daemon").gid.as_raw(), user("nobody").gid.as_raw());
        let login = |name: &str, role, database| {
            let user = Some((user(name).uid.as_raw(), let_in));
            Login { user, role, database }
        };
        let operator = login("daemon", "daemon", "postern");
        operator.assert_refused(&cluster, NO_WAY).await;

        let sockets = cluster.socket_dir().to_owned();
        chown(&sockets, None, Some(let_in)).unwrap();
        fs::set_permissions(&sockets, Permissions::from_mode(0o710)).unwrap();
        // A start leaves that as it is.
        cluster.restart().await;
        let found = fs::metadata(&sockets).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o710, let_in));

        let users = "SELECT count(*) FROM operator.users()";
        let (monitor, backup) = (login("bin", "bin", "postern"), login("mail", "mail", "postern"));
        assert_eq!(operator.ask(&cluster, users).await, Ok("0".to_owned()));
        let health = "SELECT count(*) > 0 FROM operator.health()";
        assert_eq!(monitor.ask(&cluster, health).await, Ok("t".to_owned()));
        assert_eq!(backup.ask(&cluster, "SELECT count(*) FROM auth.users").await, Ok("0".to_owned()));
        for denied in [&monitor, &backup] {
            let complaint = denied.ask(&cluster, users).await.expect_err("it is an operator's");
            assert!(complaint.contains("permission denied"), "{complaint}");
        }

        for (name, role, database, why) in [
            ("games", "games", "postern", NO_RULE),
            ("nobody", "nobody", "postern", NO_RULE),
            ("daemon", "daemon", "postgres", NO_RULE),
            ("daemon", "bin", "postern", ANOTHER_USER),
            ("games", "daemon", "postern", ANOTHER_USER),
            ("daemon", "postern_operator", "postern", ANOTHER_USER),
            ("daemon", "postern_server", "postern", ANOTHER_USER),
            ("daemon", "postern_admin", "postern", ANOTHER_USER),
            ("daemon", "postern_admin", "postgres", ANOTHER_USER),
        ] {
            login(name, role, database).assert_refused(&cluster, why).await;
        }
        let stranger = Login { user: Some((user("daemon").uid.as_raw(), others)), ..operator };
        stranger.assert_refused(&cluster, NO_WAY).await;
    }
}
