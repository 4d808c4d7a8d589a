//! The order in which a program makes its files survive a crash of the machine: no test can pull a plug, but what would be
//! there is what was synced before it was named.

use std::{fs, path::Path};

use tempfile::NamedTempFile;

use super::preload::{LIBRARY, compile, readable_by_all};

const SOURCE: &str = include_str!("kept_order.c");

pub struct KeptOrder {
    log: NamedTempFile,
    library: NamedTempFile,
}

impl KeptOrder {
    pub fn begin() -> Self {
        let (log, library) = (readable_by_all(), readable_by_all());
        compile(SOURCE, library.path());
        Self { log, library }
    }

    /// The environment of a program that it records. What that starts is recorded if it has the same.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().expect("its name is text").to_owned();
        vec![(LIBRARY, text(self.library.path())), ("KEPT_ORDER", text(self.log.path()))]
    }

    /// The place of an act in the order: `sync` and a path, or `rename` and two.
    ///
    /// # Panics
    /// When it did not happen.
    pub fn place(&self, act: &str) -> usize {
        let log = fs::read_to_string(self.log.path()).expect("it is ours");
        log.lines().position(|line| line == act).unwrap_or_else(|| panic!("no {act:?} in\n{log}"))
    }
}
