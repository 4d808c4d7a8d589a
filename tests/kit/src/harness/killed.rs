//! Programs that are killed, by SIGKILL, at a step that a test names, so that what they leave is known. A few lines of
//! C are preloaded into them.

use std::os::unix::process::ExitStatusExt as _;

use tempfile::NamedTempFile;
use tokio::process::Command;

use super::preload::{compile, readable_by_all};

const SOURCE: &str = include_str!("killed.c");

/// Kills programs. It goes with its last use.
pub struct Killer {
    library: NamedTempFile,
}

impl Killer {
    pub fn compiled() -> Self {
        let library = readable_by_all();
        compile(SOURCE, library.path());
        Self { library }
    }

    /// Runs a program that is killed before its first step of this kind (`mkdir`, `unlink`, `fsync`, `chown`; `rename`, `link`:
    /// then the path is `FROM>TO<`) that is about a path with this text in it; or (`open`) once such a file was made,
    /// and is empty; or before it writes this text (`write`) into a file, to PostgreSQL in a statement, or onto its standard
    /// output. Programs that it runs itself live on.
    ///
    /// # Panics
    /// If it comes to another end.
    pub async fn kill(&self, command: &mut Command, step: &str, path: &str) {
        self.kill_at(1, command, step, path).await;
    }

    /// The same before another of the steps that fit: 1 is the first.
    ///
    /// # Panics
    /// If it comes to another end.
    pub async fn kill_at(&self, number: usize, command: &mut Command, step: &str, path: &str) {
        command
            .env("LD_PRELOAD", self.library.path())
            .env("KILLED_BEFORE", format!("{step} {number} {path}"));
        let output = command.output().await.expect("it runs");
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert_eq!(
            output.status.signal(),
            Some(9),
            "killed before {step} {number} {path}: {}",
            said.concat()
        );
    }
}
