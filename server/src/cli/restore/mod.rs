//! `postern restore`: makes a database of a backup, where there is none (OPS-5), and begins another generation in it, so
//! that clients go on (QS-12). No server can come in before that is done: the row of the generation, without which none
//! starts and nothing migrates, is the last of all that is restored. What an interrupted restore left, the next one removes;
//! if only its last steps are left to do, it does those. A private cluster is nobody else's until a restore into it succeeded,
//! however many fail.
//!
//! `fitting` refuses a backup of another homeserver, and knows the least number of the generation; `work` has the steps, up to
//! another generation; `target` looks at the database that a restore goes into, and removes what an interrupted one left there;
//! `fill` lets `pg_restore` fill it; `roles` makes roles that are not here for as long as that takes.

mod fill;
mod fitting;
mod roles;
mod target;
mod work;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use postern_cluster::{PrivateCluster, TakenOver};
use tokio::task::spawn_blocking;

use self::{
    fitting::expect_fitting,
    work::{Failure, Restored, Work},
};
use super::{backup, migrate::admin_url, own_settings, private_cluster, setup, user::load};
use crate::{config::Settings, keys::master_keys::Sources, say::say, telemetry};

const PURPOSE: &str = "postern restore";
/// The context of an error in the steps that a restore takes in the data directory once the database is done.
const CLUSTER_REMAINS: &str = "everything was restored; only the last steps in the data directory failed, the settings of the private cluster (ALTER SYSTEM) among them: run the same command again";

#[derive(Args)]
pub struct Restore {
    /// Directory with a backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Tables and indexes that are made at once [default: one for each core, 4 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Restore a backup that was taken without the master key at hand: whoever could write to it then commands the database
    #[arg(long)]
    unauthenticated: bool,
    /// Least number of the generation that begins, in seconds since 2020, where the clock is or was wrong: greater than any that
    /// was in use before [default: by the clock, which must not be behind the backup]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=2_147_483_647))]
    at_least: Option<i64>,
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(restore: Restore) -> anyhow::Result<()> {
    let mut config = load(&restore.settings)?;
    telemetry::start_logging(&config.log)?;
    let jobs = backup::jobs(restore.jobs);
    say("verifying the backup");
    let (dir, manifest) = backup::verify(restore.dir).await?;
    let least = expect_fitting(&manifest, &config, restore.at_least)?;
    private_cluster::expect_place_for_restore(&config)?;
    if !restore.unauthenticated {
        // A backup of a database that no server has used yet needs no key; it says so itself.
        manifest.expect_authentic(&dir, &Sources::of(&config).at_hand()?)?;
    }
    let (mut cluster, makes) = private_cluster::start_restore(&mut config).await?.unzip();
    let mut goes_on = makes == Some(false);
    let work = Work { dir: &dir, manifest: &manifest, jobs, least };
    let mut done = work.restore_into(admin_url(&config), goes_on, cluster.as_ref()).await;
    if matches!(done, Err(Failure::Part)) {
        say("removing what an interrupted restore left");
        // The whole cluster, with what the dump has of the operator's own.
        if let Some(cluster) = cluster.take() {
            spawn_blocking(move || cluster.remove()).await??;
        }
        cluster = private_cluster::start_restore(&mut config).await?.map(|(cluster, _)| cluster);
        goes_on = false;
        done = work.restore_into(admin_url(&config), goes_on, cluster.as_ref()).await;
    }
    let (emptied, stopped) = leave(cluster, &config.data_dir, goes_on, &done).await;
    let Restored { left_out, without_password } = match done {
        Ok(restored) => restored,
        Err(Failure::Untouched(error) | Failure::Removed(error)) => {
            stopped?;
            return Err(error);
        }
        Err(Failure::Part) => bail!("what an interrupted restore left is there still: restore again"),
        // Its whole cluster is gone.
        Err(Failure::Remains(error)) if emptied && stopped.is_ok() => return Err(error),
        Err(Failure::Remains(error)) => {
            return Err(
                error.context("what was restored could not be removed: restore again, which removes it")
            );
        }
        Err(Failure::Done) => {
            if let Some(taken) = stopped? {
                own_settings::tell_taken(&taken);
            }
            bail!(
                "an interrupted restore into {} had come to its end, and left only its mark, which is gone now: `postern check` says how it is. For another backup choose another --data-dir",
                config.data_dir.display()
            )
        }
        Err(Failure::Whole(error)) => {
            match stopped {
                Ok(taken) => own_settings::tell(manifest.settings.as_ref(), taken.as_ref()),
                Err(stopped) => say(format!("{stopped:#}")),
            }
            return Err(error.context(
                "everything was restored, and another generation began; only the last step failed: run `postern migrate` and `postern check`",
            ));
        }
    };
    for what in left_out {
        say(format!("left out: {what}"));
    }
    say(format!("restored: {}", backup::describe(&manifest)));
    say(
        "what came since is lost. Clients learn of it with their next request and fetch new tokens, since spent ones cannot be told from others; operate/back-up.md of the documentation says what else to look at",
    );
    if !without_password.is_empty() {
        say(format!(
            "a backup has no passwords: set those of {}, unless your pg_hba.conf lets them in without",
            without_password.join(", ")
        ));
    }
    own_settings::tell(manifest.settings.as_ref(), stopped?.as_ref());
    Ok(())
}

/// Ends with a restore's private cluster, and returns whether it was deleted, and how that went, with what became of the
/// operator's settings where one stays. Of a restore that failed nothing stays but the data directory's mark, with which nobody
/// makes another homeserver there. Where a setup was interrupted before, one that succeeded is its end: the backup has a policy of
/// registration.
async fn leave(
    cluster: Option<PrivateCluster>,
    data_dir: &Path,
    goes_on: bool,
    done: &Result<Restored, Failure>,
) -> (bool, anyhow::Result<Option<TakenOver>>) {
    let Some(cluster) = cluster else { return (false, Ok(None)) };
    match done {
        Ok(_) | Err(Failure::Whole(_) | Failure::Done) => {
            let trying = spawn_blocking(move || {
                let taken = cluster.take_settings_over();
                (cluster, taken)
            });
            let (cluster, taken) = match trying.await {
                Ok(tried) => tried,
                Err(error) => return (false, Err(error.into())),
            };
            let ended = taken.and_then(|taken| {
                setup::end(data_dir)?;
                cluster.end_restore(&taken)?;
                Ok(Some(taken))
            });
            let stopped = private_cluster::stop(Some(cluster)).await;
            (false, ended.context(CLUSTER_REMAINS).and_then(|taken| stopped.map(|()| taken)))
        }
        // It has all of a backup, perhaps.
        Err(Failure::Untouched(_)) if goes_on => {
            (false, private_cluster::stop(Some(cluster)).await.map(|()| None))
        }
        Err(_) => {
            let removed = spawn_blocking(move || cluster.remove()).await;
            (true, removed.map_err(anyhow::Error::from).flatten().map(|()| None))
        }
    }
}
