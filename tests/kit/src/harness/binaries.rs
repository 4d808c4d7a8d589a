//! The programs under test: the release build's programs and its staged extension.

use std::path::{Path, PathBuf};

/// A place in the source tree. Cargo says where that is when it runs a test, which may not be where it was built.
pub fn in_tree(path: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).ancestors().find(|dir| dir.join("Cargo.lock").exists());
    root.expect("packages lie in the tree").join(path)
}

/// `target/release`, unless POSTERN_BIN_DIR names another place.
fn bin_dir() -> PathBuf {
    std::env::var_os("POSTERN_BIN_DIR").map_or_else(|| in_tree("target/release"), PathBuf::from)
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
