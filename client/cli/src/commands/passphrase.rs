//! The passphrase of an encrypted state: from a file, from the environment, or typed; and its change.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use postern_client::{ClientBuilder, Passphrase};

use super::{Global, note};

/// The variable that may hold the passphrase.
const VARIABLE: &str = "POSTERN_PASSPHRASE";

#[derive(Subcommand)]
pub enum Command {
    /// Encrypt the state under a new passphrase
    Change {
        /// The file with the new passphrase, in its first line; by default it is asked for
        #[arg(long, value_name = "FILE")]
        new_file: Option<PathBuf>,
    },
    /// Encrypt the state no more
    Remove,
}

pub fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let builder = global.builder()?;
    match command {
        Command::Change { new_file } => {
            let new = match new_file {
                Some(file) => read(&file)?,
                None => ask_twice()?,
            };
            builder.change_passphrase(Some(&new))?;
            note("The state is encrypted under the new passphrase. Nobody can open it without.");
        }
        Command::Remove => {
            builder.change_passphrase(None)?;
            note("The state is not encrypted any more.");
        }
    }
    Ok(())
}

/// The passphrase that was given; else, where the state is encrypted, one that is typed.
pub fn of(global: &Global, builder: &ClientBuilder) -> anyhow::Result<Option<Passphrase>> {
    match given(global)? {
        None if builder.is_encrypted()? == Some(true) => ask("Passphrase: ").map(Some),
        given => Ok(given),
    }
}

/// The passphrase of a state that is to be made: as [`of`], or asked for.
pub fn of_new(global: &Global, builder: &ClientBuilder, asks: bool) -> anyhow::Result<Option<Passphrase>> {
    let is_new = builder.is_encrypted()?.is_none();
    match given(global)? {
        None if asks && is_new => ask_twice().map(Some),
        given => Ok(given),
    }
}

fn given(global: &Global) -> anyhow::Result<Option<Passphrase>> {
    if let Some(file) = &global.passphrase_file {
        return read(file).map(Some);
    }
    match std::env::var(VARIABLE) {
        Ok(text) => not_empty(text).map(Some),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(VARIABLE),
    }
}

fn read(file: &Path) -> anyhow::Result<Passphrase> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    not_empty(text.lines().next().unwrap_or_default().to_owned())
}

fn ask(prompt: &str) -> anyhow::Result<Passphrase> {
    let text = rpassword::prompt_password(prompt).context(
        "a passphrase is needed, and there is no terminal to ask for it: --passphrase-file or POSTERN_PASSPHRASE \
         gives it",
    )?;
    not_empty(text)
}

fn ask_twice() -> anyhow::Result<Passphrase> {
    let new = ask("New passphrase: ")?;
    anyhow::ensure!(ask("The same again: ")? == new, "the two are not the same");
    Ok(new)
}

fn not_empty(text: String) -> anyhow::Result<Passphrase> {
    Passphrase::new(text).context("a passphrase must not be empty")
}
