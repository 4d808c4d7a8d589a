//! Node programs under `tests/node`, for clients that others wrote in JavaScript.

use std::process::Command;

use crate::in_tree;

/// Node, in a directory of `tests/node` whose packages are installed; or why there is none.
///
/// # Errors
/// A sentence for whoever reads the test's output.
pub fn node(directory: &str) -> Result<Command, String> {
    let directory = in_tree("tests/node").join(directory);
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !runs(Command::new("node").arg("--version")) {
        return Err("there is no node".to_owned());
    }
    let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    if !directory.join("node_modules").exists()
        && !runs(Command::new("npm").args(install).current_dir(&directory))
    {
        return Err(format!("npm could not install the packages of {}", directory.display()));
    }
    let mut command = Command::new("node");
    command.current_dir(&directory);
    Ok(command)
}
