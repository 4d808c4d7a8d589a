//! Node programs under `tests/node`, for clients that others wrote in JavaScript.

use std::{fs::File, process::Command};

use super::in_tree;

/// Node, in a directory of `tests/node` whose packages are installed.
///
/// # Panics
/// When something is missing, with the way to get it.
pub fn node(directory: &str) -> Command {
    let directory = in_tree("tests/node").join(directory);
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    assert!(
        runs(Command::new("node").arg("--version")),
        "this test runs clients written in JavaScript, and there is no `node`: `make setup` installs it"
    );
    // Tests are processes of their own, and one of those that need the packages installs them.
    let packages = File::open(directory.join("package-lock.json")).expect("the packages are named");
    packages.lock().expect("a file can be locked");
    if !directory.join("node_modules/.package-lock.json").exists() {
        let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        assert!(
            runs(Command::new("npm").args(install).current_dir(&directory)),
            "`npm ci` fails in {}: it needs npm (`make setup`) and the npm registry",
            directory.display()
        );
    }
    drop(packages);
    let mut command = Command::new("node");
    // Node 18, Debian 12's, has it only when asked.
    command.arg("--experimental-global-webcrypto").current_dir(&directory);
    command
}
