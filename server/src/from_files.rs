//! Values that are made of files, such as certificates (OPS-8), and made anew when the files hold something else. Files that
//! are of no use, such as a certificate whose key is not there yet, change nothing: the value stays the one before.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

/// Files that somebody looks at by the clock.
pub trait Watched: Send + Sync {
    /// Completes "could not …".
    fn name(&self) -> &'static str;

    /// Reads the files again, and makes the value anew if they hold something else.
    ///
    /// # Errors
    /// Files that cannot be read or are of no use; the value stays the one that it was.
    fn renew(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// A value that is made of files.
pub struct FromFiles<T> {
    files: Vec<PathBuf>,
    words: Words,
    make: Box<Make<T>>,
    made: RwLock<Made<T>>,
    /// Whether the files hold what the value was made of.
    is_current: AtomicBool,
}

/// The words for the log.
pub struct Words {
    /// Completes "could not …".
    pub name: &'static str,
    /// Says that the value is another one.
    pub renewed: &'static str,
}

/// Makes a value of what the files hold, in the place of the present one, if there is one.
type Make<T> = dyn Fn(&Contents, Option<&T>) -> anyhow::Result<T> + Send + Sync;

struct Made<T> {
    value: Arc<T>,
    of: Contents,
}

/// The contents of files.
#[derive(PartialEq, Eq)]
pub struct Contents(Vec<(PathBuf, Zeroizing<Vec<u8>>)>);

impl Contents {
    /// The content of a file; nothing for one that is not among them.
    pub fn of(&self, file: &Path) -> &[u8] {
        let found = self.0.iter().find(|(path, _)| path == file);
        found.map_or(&[][..], |(_, content)| content.as_slice())
    }
}

impl<T> FromFiles<T> {
    /// Reads the files, and makes the value.
    ///
    /// # Errors
    /// Files that cannot be read, or are of no use.
    pub fn load(
        files: Vec<PathBuf>,
        words: Words,
        make: impl Fn(&Contents, Option<&T>) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let mut of = Vec::new();
        for file in &files {
            let content = std::fs::read(file).with_context(|| cannot_read(file))?;
            of.push((file.clone(), content.into()));
        }
        let of = Contents(of);
        let value = Arc::new(make(&of, None)?);
        let (made, is_current) = (RwLock::new(Made { value, of }), AtomicBool::new(true));
        Ok(Self { files, words, make: Box::new(make), made, is_current })
    }

    /// The value as it is now.
    pub fn now(&self) -> Arc<T> {
        self.made.read().unwrap_or_else(PoisonError::into_inner).value.clone()
    }

    /// Whether the files held what the value was made of at the last look; else they are of no use.
    pub fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Relaxed)
    }

    /// Whether there are files to look at.
    pub fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    async fn take_over(&self) -> anyhow::Result<()> {
        let mut of = Vec::new();
        for file in &self.files {
            let content = tokio::fs::read(file).await.with_context(|| cannot_read(file))?;
            of.push((file.clone(), content.into()));
        }
        let of = Contents(of);
        if self.made.read().unwrap_or_else(PoisonError::into_inner).of == of {
            return Ok(());
        }
        let present = self.now();
        let value = Arc::new((self.make)(&of, Some(present.as_ref()))?);
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = Made { value, of };
        tracing::info!("{}", self.words.renewed);
        Ok(())
    }
}

fn cannot_read(file: &Path) -> String {
    format!("cannot read {}", file.display())
}

impl<T: Send + Sync> Watched for FromFiles<T> {
    fn name(&self) -> &'static str {
        self.words.name
    }

    fn renew(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let renewed = self.take_over().await;
            self.is_current.store(renewed.is_ok(), Ordering::Relaxed);
            renewed
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_value_is_made_anew_of_other_contents_and_stays_where_these_are_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (first, second) = (one.clone(), two.clone());
        let load = || {
            let (first, second) = (first.clone(), second.clone());
            let words = Words { name: "take over other files", renewed: "they are others from now on" };
            FromFiles::load(
                vec![one.clone(), two.clone()],
                words,
                move |contents, present: Option<&String>| {
                    let both = [contents.of(&first), contents.of(&second)].map(String::from_utf8_lossy);
                    anyhow::ensure!(both[0] == both[1], "they are no pair");
                    Ok(format!("{} after {}", both[0], present.map_or("none", String::as_str)))
                },
            )
        };
        let write = |file: &Path, text: &str| fs::write(file, text).unwrap();
        write(&one, "1");
        assert!(load().is_err(), "one of them is not there");
        write(&two, "1");
        let value = load().unwrap();
        value.renew().await.unwrap();
        assert_eq!((value.now().as_str(), value.is_current()), ("1 after none", true));
        write(&one, "2");
        assert_eq!(value.renew().await.unwrap_err().to_string(), "they are no pair");
        assert_eq!((value.now().as_str(), value.is_current()), ("1 after none", false));
        write(&two, "2");
        value.renew().await.unwrap();
        assert_eq!((value.now().as_str(), value.is_current()), ("2 after 1 after none", true));
        fs::remove_file(&two).unwrap();
        assert!(value.renew().await.unwrap_err().to_string().starts_with("cannot read "));
        assert_eq!((value.now().as_str(), value.is_current()), ("2 after 1 after none", false));
    }
}
