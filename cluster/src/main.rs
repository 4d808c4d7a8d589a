//! `postern-cluster`: starts and stops a private cluster from a script, as the extension's SQL tests do. For
//! development only: operators get `postern serve --embedded`, which runs the same cluster and watches over it.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use postern_cluster::{ADMIN, ClusterOptions, PrivateCluster};

#[derive(Parser)]
#[command(
    name = "postern-cluster",
    version,
    about = "A private PostgreSQL with Postern's extension, for tests"
)]
enum Command {
    /// Start the cluster, make it first if there is none, and print variables that lead psql to it
    Start {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Holds postern.control, postern--*.sql and <PostgreSQL major>/postern.so
        #[arg(long, value_name = "DIR")]
        extension_dir: PathBuf,
        /// Line of postgresql.conf, which wins over ours; may be given more than once
        #[arg(long = "setting", value_name = "NAME=VALUE")]
        settings: Vec<String>,
    },
    /// Stop the cluster
    Stop {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Start { data_dir, extension_dir, settings } => {
            let options = ClusterOptions::new(&data_dir, &extension_dir);
            let options = settings.into_iter().fold(options, ClusterOptions::with_setting);
            PrivateCluster::start(&options).map(|cluster| {
                println!("PGHOST={}", quoted(&cluster.socket_dir().display().to_string()));
                println!("PGDATA={}", quoted(&cluster.cluster_dir().display().to_string()));
                println!("PGUSER={ADMIN}");
            })
        }
        Command::Stop { data_dir } => PrivateCluster::stop_in(&data_dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A shell's word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
