//! The steps of a restore fill a database and begin another generation in it, and remove what they made if one of them fails
//! before servers can come in.

use std::path::Path;

use anyhow::ensure;
use postern_cluster::{PrivateCluster, dump_programs};
use tokio_postgres::Client;

use super::{
    PURPOSE,
    fill::fill,
    roles::without_password,
    target::{Left, expect_alone, expect_place, mark, mark_beginning, remove},
};
use crate::{
    cli::{dump::connect, interruption::unless_interrupted, manifest::Manifest},
    config::ConnectionString,
    database::{DatabaseError, generation::BEGUN, migrate},
    say::say,
};

/// The result of a restore.
pub(super) struct Restored {
    /// Parts of roles that the database refused, in words.
    pub(super) left_out: Vec<String>,
    /// The roles that can log in and have no password; none of a private cluster, where they come over its socket.
    pub(super) without_password: Vec<String>,
}

/// A restore that does not succeed ends in one of these ways.
pub(super) enum Failure {
    /// It changed nothing.
    Untouched(anyhow::Error),
    /// A private cluster has what an interrupted restore left.
    Part,
    /// It removed what it had made.
    Removed(anyhow::Error),
    /// Parts of what it made are there still.
    Remains(anyhow::Error),
    /// Servers may have come in: everything stays.
    Whole(anyhow::Error),
    /// An interrupted restore had left nothing to do.
    Done,
}

/// A restore's task: the backup, and the way to put it back.
pub(super) struct Work<'a> {
    pub(super) dir: &'a Path,
    pub(super) manifest: &'a Manifest,
    /// Tables and indexes that are made at once.
    pub(super) jobs: u16,
    /// Least number of the generation that begins.
    pub(super) least: i64,
}

impl Work<'_> {
    /// Restores into a database, of the private cluster if there is one. `goes_on`: an interrupted restore made that.
    pub(super) async fn restore_into(
        &self,
        admin_url: anyhow::Result<&ConnectionString>,
        goes_on: bool,
        cluster: Option<&PrivateCluster>,
    ) -> Result<Restored, Failure> {
        let prepared = async {
            let url = admin_url?;
            let client = connect(url, PURPOSE).await?;
            expect_alone(&client).await?;
            let left = Left::of(&client).await?;
            anyhow::Ok((url, client, left))
        };
        let (url, client, left) = prepared.await.map_err(Failure::Untouched)?;
        let mut left_out = match left {
            Left::Whole { of, begun } => {
                say("everything was restored by an interrupted restore: doing its last steps");
                self.finish(&client, &of, begun).await.map_err(Failure::Untouched)?;
                Vec::new()
            }
            Left::Part if goes_on => return Err(Failure::Part),
            Left::Part => {
                say("removing what an interrupted restore left");
                remove(&client).await.map_err(Failure::Remains)?;
                self.restore_anew(&client, url).await?
            }
            Left::Done if goes_on => return Err(Failure::Done),
            Left::Done | Left::Nothing => self.restore_anew(&client, url).await?,
        };
        // The mark is there still: after a kill the next restore does this, too.
        if let (Some(cluster), Some(settings)) = (cluster, &self.manifest.settings)
            && let Err(error) = cluster.keep_settings(settings.to_take_over())
        {
            left_out.push(format!("the settings of the private cluster ({error:#})"));
        }
        left_out.extend(self.manifest.roles.make_settings_of_all(&client, cluster.map(|_| url)).await);
        // From here on servers can come in, and nothing is removed.
        let opened = async {
            say(migrate::run(url, None).await?);
            mark(&client, None).await?;
            match cluster {
                Some(_) => Ok(Vec::new()),
                None => without_password(&client).await,
            }
        };
        let without_password = opened.await.map_err(Failure::Whole)?;
        Ok(Restored { left_out, without_password })
    }

    /// Restores into a database where nothing is, up to another generation, and returns what had to be left out of the roles.
    async fn restore_anew(&self, client: &Client, url: &ConnectionString) -> Result<Vec<String>, Failure> {
        let prepared = async {
            let major = expect_place(client, self.manifest).await?;
            let bin = dump_programs(major)?;
            mark_beginning(client, &self.manifest.id()).await?;
            anyhow::Ok(bin)
        };
        let bin = prepared.await.map_err(Failure::Removed)?;
        let restored = async {
            let filled = fill(client, url, &bin, self.dir, self.manifest, self.jobs);
            let left_out = unless_interrupted(filled).await?;
            // No signal ends this any more: nobody would know then whether the transaction took effect, and the list of what was
            // there before goes with it.
            self.begin(client).await?;
            anyhow::Ok(left_out)
        };
        let error = match restored.await {
            Ok(left_out) => return Ok(left_out),
            Err(error) => error,
        };
        // A transaction may be open. Without a connection nothing is removed either.
        let _no_connection = client.batch_execute("ROLLBACK").await;
        // `remove` leaves the objects that were there before.
        Err(match remove(client).await {
            Ok(()) => Failure::Removed(error),
            Err(_) => Failure::Remains(error),
        })
    }

    /// Does what was left to do in a database that has everything of a backup.
    async fn finish(&self, client: &Client, of: &str, begun: bool) -> anyhow::Result<()> {
        ensure!(
            self.manifest.id() == of,
            "the database has everything of another backup, whose restore was interrupted at its last step: restore that one again, or name an empty database"
        );
        match begun {
            true => Ok(()),
            false => self.begin(client).await,
        }
    }

    /// Begins another generation, so that clients go on (QS-12).
    async fn begin(&self, client: &Client) -> anyhow::Result<()> {
        let run = async |sql: &str| client.batch_execute(sql).await.map_err(DatabaseError::from);
        // With the mark, or not at all: a second one would only cost clients their tokens, but none would cost messages.
        run("BEGIN").await?;
        let begun = async {
            let begin = "SELECT operator.begin_generation($1)";
            let row = client.query_one(begin, &[&self.least]).await.map_err(DatabaseError::from)?;
            mark(client, Some(&format!("{}{BEGUN}", self.manifest.id()))).await?;
            run("COMMIT").await?;
            anyhow::Ok(row.get::<_, i64>(0))
        };
        say(format!("generation {} begins", begun.await?));
        Ok(())
    }
}
