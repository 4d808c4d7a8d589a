//! Finds what is tested: the release build's programs and its staged extension.

use std::path::{Path, PathBuf};

/// `target/release`, unless POSTERN_BIN_DIR names another place.
fn bin_dir() -> PathBuf {
    match std::env::var_os("POSTERN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
    }
}

/// The program under test with this name.
pub fn binary(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} does not exist: `make build` first", path.display());
    path
}

/// Where `make build` stages the PostgreSQL extension.
pub fn extension_dir() -> PathBuf {
    bin_dir().join("extension")
}
