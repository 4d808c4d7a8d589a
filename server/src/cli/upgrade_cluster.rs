//! `postern upgrade-cluster`: changes the private cluster to the newest PostgreSQL that is installed (OPS-7).

use clap::Args;
use postern_cluster::{ClusterOptions, Upgraded, drop_kept, upgrade};

use super::user::load;
use crate::{
    config::{Config, Settings},
    say::say,
    telemetry,
};

#[derive(Args)]
pub struct Command {
    /// Delete the old cluster that an earlier upgrade kept, instead
    #[arg(long)]
    drop_old: bool,
    #[command(flatten)]
    settings: Settings,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let config = load(&command.settings)?;
    telemetry::start_logging(&config.log)?;
    let work = move || if command.drop_old { drop_old(&config) } else { upgrade_to_newest(&config) };
    tokio::task::spawn_blocking(work).await?
}

fn upgrade_to_newest(config: &Config) -> anyhow::Result<()> {
    let options = ClusterOptions::new(&config.data_dir, &config.extension_dir);
    match upgrade(&options, &|step| say(format_args!("{step} …")))? {
        Upgraded::Current(major) => {
            say(format_args!(
                "the private cluster is PostgreSQL {major}'s; no newer one is here together with its extension"
            ));
        }
        Upgraded::Done { from, to, kept, refused, is_decided } => {
            say(format_args!(
                "the private cluster is PostgreSQL {to}'s now; the one of PostgreSQL {from} stays in {}",
                kept.display()
            ));
            if let Some(file) = refused {
                say(format_args!(
                    "PostgreSQL {to} does not take your settings (ALTER SYSTEM) as they are: they are in {}, make them again",
                    file.display()
                ));
            }
            if !is_decided {
                say(
                    "the database was restored, recovered or promoted before, and no server starts on it until you say whether it lost something: `postern generation begin`; if nothing at all was lost, `postern generation keep`; with the same settings",
                );
            }
            say(
                "when all is well, `postern upgrade-cluster --drop-old` with the same settings deletes the old one",
            );
        }
    }
    Ok(())
}

fn drop_old(config: &Config) -> anyhow::Result<()> {
    let dropped = drop_kept(&config.data_dir)?;
    if dropped.is_empty() {
        say("no old cluster is kept");
    }
    for old in dropped {
        say(format_args!("deleted {}", old.display()));
    }
    Ok(())
}
