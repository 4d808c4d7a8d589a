//! Embeds `sql/`: writes the list of its files, so that one that is added is applied without being named here.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let root =
        Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("..").canonicalize()?;
    let mut files = Vec::new();
    collect(&root.join("sql"), &mut files)?;
    files.sort();
    let entries: Vec<String> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap_or(path);
            format!("    ({:?}, include_str!({path:?})),\n", name.display().to_string())
        })
        .collect();
    let list = format!("pub const FILES: &[(&str, &str)] = &[\n{}];\n", entries.concat());
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("sql_files.rs"), list)?;
    for dir in ["sql", "migrations"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
    }
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    Ok(())
}
