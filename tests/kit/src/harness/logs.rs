//! The logs of one test's processes: `target/test-logs/<test binary>/<test>/`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::binaries::in_tree;

/// The running test's directory for logs, emptied at its first use.
pub fn dir() -> PathBuf {
    static PREPARED: OnceLock<()> = OnceLock::new();
    let exe = std::env::current_exe().expect("a test knows its program");
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let suite = stem.rsplit_once('-').map_or(stem.as_str(), |(name, _hash)| name);
    // The test harness names each test's thread after it.
    let test = std::thread::current().name().unwrap_or("main").replace("::", ".");
    let dir = in_tree("target/test-logs").join(suite).join(test);
    PREPARED.get_or_init(|| {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("target/ is writable");
        // Shown only for a test that failed.
        eprintln!("logs of servers and PostgreSQL: {}", dir.display());
    });
    fs::create_dir_all(&dir).expect("target/ is writable");
    dir
}

/// A file in [`dir`] that was not there yet, made empty, so that nobody else takes its name: `server-1.log`,
/// `server-2.log`, ….
pub fn numbered(dir: &Path, name: &str) -> PathBuf {
    (1..10_000)
        .map(|n| dir.join(format!("{name}-{n}.log")))
        .find(|path| !path.exists() && File::create_new(path).is_ok())
        .expect("logs are writable")
}
