//! A clock that a test moves, for PostgreSQL, the servers and the test's own process: months pass in seconds. It is
//! Debian's libfaketime, preloaded into each program, which reads the offset from a file whenever a program asks for the
//! time.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
const FILE: &str = "FAKETIME_TIMESTAMP_FILE";

pub struct MovedClock {
    file: PathBuf,
    library: String,
}

impl MovedClock {
    /// Runs this test of this name, as `cargo test` knows it, in a further process, which goes by the clock: there it
    /// returns the clock. Here it returns none, once the test is over.
    pub fn enter(test: &str) -> Option<Self> {
        if let (Some(file), Ok(library)) = (std::env::var_os(FILE), std::env::var("LD_PRELOAD")) {
            return Some(Self { file: file.into(), library });
        }
        // Other users read it: PostgreSQL runs as one.
        let file = tempfile::NamedTempFile::new().expect("/tmp is writable");
        let clock = Self { file: file.path().to_owned(), library: library() };
        clock.set("+0");
        let mut child = Command::new(std::env::current_exe().expect("it is a program"));
        child.args([test, "--exact", "--nocapture"]).envs(clock.calendar());
        assert!(child.status().expect("it runs").success(), "{test} failed under a moved clock");
        None
    }

    /// The environment of a program whose calendar it moves. Its timers go on as they do: nothing that is under way ends
    /// by a leap.
    pub fn calendar(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.clone()),
            (FILE, self.file.to_str().expect("its name is text").to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Lets so many days pass, since the beginning of the test.
    pub fn move_to_day(&self, day: u32) {
        self.set(&format!("+{day}d"));
    }

    /// Nobody ever reads half of it.
    fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, offset).expect("/tmp is writable");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("it is ours");
        fs::rename(&new, &self.file).expect("it can be renamed");
    }
}

fn library() -> String {
    let places = fs::read_dir("/usr/lib").expect("it is there").filter_map(|entry| Some(entry.ok()?.path()));
    let found = places.map(|place| place.join(LIBRARY)).find(|library| library.exists());
    let found = found.unwrap_or_else(|| panic!("{LIBRARY} is missing: .ci/setup tests"));
    Path::to_str(&found).expect("its name is text").to_owned()
}
