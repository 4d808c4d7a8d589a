//! The layers put together: defaults, a file, and settings.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use figment::{Figment, providers::Serialized};
use nix::unistd::Uid;

use super::{Config, Settings};

/// The name of a configuration file that nothing else names.
pub const FILE_NAME: &str = "postern.toml";

/// The bit of a directory's mode by which only owners rename and delete files in it.
const STICKY: u32 = 0o1000;

impl Config {
    /// The configuration file that counts: the one that was named, else the package's if it exists, else
    /// `./postern.toml` if it exists.
    pub fn file(settings: &Settings) -> Option<PathBuf> {
        let defaults = [installed_file(), Some(PathBuf::from(FILE_NAME))];
        settings.config.clone().or_else(|| defaults.into_iter().flatten().find(|file| file.exists()))
    }

    /// Merges defaults, file and settings, and checks what can be checked without the database.
    ///
    /// # Errors
    /// A mistake in a value or in the file; or nobody named the file, and another user could have put it into the working
    /// directory.
    pub fn load(settings: &Settings) -> anyhow::Result<Self> {
        let file = Self::file(settings);
        if settings.config.is_none() && file.as_deref() == Some(Path::new(FILE_NAME)) {
            expect_own(Path::new(FILE_NAME))?;
        }
        let file = file.map(|path| read_file(&path)).transpose()?.unwrap_or_default();
        Self::from_layers(&file, settings)
    }

    /// [`Config::load`] with the values of a file that may not be written yet.
    pub fn from_layers(file: &toml::Table, settings: &Settings) -> anyhow::Result<Self> {
        let config: Config = Figment::from(Serialized::defaults(Config::default()))
            .merge(Serialized::defaults(file))
            .merge(Serialized::defaults(settings))
            .extract()
            .map_err(|error| anyhow!("{}", describe(error)))?;
        config.validated()
    }
}

/// The values of a configuration file. A mistake is reported with its file and key.
pub fn read_file(path: &Path) -> anyhow::Result<toml::Table> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let file = parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Figment::from(Serialized::defaults(&file))
        .extract::<Config>()
        .map_err(|error| anyhow!("{}: {}", path.display(), describe(error)))?;
    Ok(file)
}

/// The configuration file of the package that this program belongs to: a link next to it, `postern.toml`, leads there.
pub fn installed_file() -> Option<PathBuf> {
    fs::read_link(std::env::current_exe().ok()?.parent()?.join(FILE_NAME)).ok()
}

/// Refuses a file of the working directory that somebody else may have put there: it says what this process loads and
/// runs, and root works in directories of others.
///
/// # Errors
/// That is so, or it cannot be looked at.
pub fn expect_own(path: &Path) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read the configuration file {}", path.display());
    // The bits of a mode by which others write. A group is trusted by an ordinary user, whose own it often is.
    let writable = if Uid::effective().is_root() { 0o022 } else { 0o002 };
    let is_foreign = |found: &Metadata| found.uid() != 0 && found.uid() != Uid::effective().as_raw();
    let link = fs::symlink_metadata(path).with_context(unreadable)?;
    let file = fs::metadata(path).with_context(unreadable)?;
    let dir = fs::metadata(".").with_context(unreadable)?;
    // In a directory such as /tmp nobody replaces another's file.
    let is_open = dir.mode() & writable != 0 && dir.mode() & STICKY == 0;
    ensure!(
        ![&link, &file, &dir].into_iter().any(is_foreign) && file.mode() & writable == 0 && !is_open,
        "the configuration file {FILE_NAME} is in the working directory, and other users can write it or are its owner: if it is the right one, name it with --config {FILE_NAME}"
    );
    Ok(())
}

/// Reads TOML. An error names the line and not its text, in which there may be a password.
fn parse(text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })
}

/// figment's message with the key's full name, and without figment's profiles.
fn describe(error: figment::Error) -> String {
    error
        .into_iter()
        .map(|error| match error.path.is_empty() {
            true => error.kind.to_string(),
            false => format!("`{}`: {}", error.path.join("."), error.kind),
        })
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_wins_over_the_file_and_the_file_over_the_default() {
        let file =
            parse("domain = 'a.example'\nlisten = '127.0.0.1:1'\n[limits]\nmax_body_bytes = 7").unwrap();
        let settings = Settings { listen: "127.0.0.1:2".parse().ok(), ..Settings::default() };
        let config = Config::from_layers(&file, &settings).unwrap();
        assert_eq!((config.listen.port(), config.limits.max_body_bytes), (2, 7));
        assert_eq!(config.limits.long_poll_max_seconds, Config::default().limits.long_poll_max_seconds);
    }

    #[test]
    fn a_mistake_is_told_by_its_line_or_key_and_without_its_text() {
        let error = parse("domain = 'a.example'\nurl = 'password").unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains("password"), "{error}");
        let file = parse("domain = 'a.example'\n[limits]\nmax_bodies = 7").unwrap();
        let error = Config::from_layers(&file, &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("max_bodies"), "{error}");
    }
}
