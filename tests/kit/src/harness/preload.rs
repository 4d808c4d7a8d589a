//! A few lines of C that are preloaded into programs under test.

use std::{
    fs::Permissions,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::NamedTempFile;

/// The variable that names the library.
pub const LIBRARY: &str = "LD_PRELOAD";

/// PostgreSQL runs as another user.
pub fn readable_by_all() -> NamedTempFile {
    let file = NamedTempFile::new().expect("/tmp is writable");
    file.as_file().set_permissions(Permissions::from_mode(0o644)).expect("it is ours");
    file
}

pub fn compile(source: &str, library: &Path) {
    let mut compiler = Command::new("cc");
    compiler.args(["-x", "c", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(library).arg("-");
    let mut compiler = compiler.stdin(Stdio::piped()).spawn().expect("a C compiler is installed: .ci/setup");
    let mut input = compiler.stdin.take().expect("it was piped");
    input.write_all(source.as_bytes()).expect("it reads");
    drop(input);
    assert!(compiler.wait().expect("it was started").success(), "it does not compile");
}
