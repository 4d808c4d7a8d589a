//! PgBouncer between a server and PostgreSQL.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use nix::unistd::Uid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use super::{Cluster, eventually};

/// A running pooler. Dropping it kills it.
pub struct PgBouncer {
    dir: TempDir,
    _child: Child,
}

impl PgBouncer {
    /// A pooler in a mode: `session`, `transaction` or `statement`.
    pub async fn start(cluster: &Cluster, mode: &str) -> Self {
        let dir =
            tempfile::Builder::new().prefix("postern-pooler-").tempdir_in("/tmp").expect("/tmp is writable");
        let path = dir.path();
        // As root it becomes the user that PostgreSQL runs as, which has to write its socket here.
        fs::set_permissions(path, Permissions::from_mode(0o777)).expect("it is ours");
        let settings = path.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n\
             postern = host={} dbname=postern user=postern_server\n\
             [pgbouncer]\n\
             pool_mode = {mode}\n\
             listen_port = 5432\n\
             unix_socket_dir = {}\n\
             auth_type = any\n",
            cluster.socket_dir().display(),
            path.display(),
        );
        fs::write(&settings, text).expect("it can be written");
        fs::set_permissions(&settings, Permissions::from_mode(0o644)).expect("it is ours");
        let mut command = Command::new("/usr/sbin/pgbouncer");
        if Uid::effective().is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg("-q").arg(&settings).current_dir("/").kill_on_drop(true);
        let child = command.stdin(Stdio::null()).spawn().expect("PgBouncer is installed: .ci/setup tests");
        let pooler = Self { dir, _child: child };
        eventually("the pooler takes connections", async || {
            let (_client, _connection) = tokio_postgres::connect(&pooler.server_url(), NoTls).await.ok()?;
            Some(())
        })
        .await;
        pooler
    }

    /// The connection string for a server that goes through the pooler.
    pub fn server_url(&self) -> String {
        format!("host={} user=postern_server dbname=postern", self.dir.path().display())
    }
}
