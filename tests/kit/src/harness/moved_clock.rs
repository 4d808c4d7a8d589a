//! A clock that a test moves, for PostgreSQL, the servers and the test's own process: months pass in seconds. A few lines
//! of C are preloaded into each program, and add to the calendar what a file says. (Under libfaketime PostgreSQL hung: it
//! takes a lock that a signal handler may wait for.)

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::NamedTempFile;

use super::preload::{LIBRARY, compile, readable_by_all};

const SOURCE: &str = include_str!("moved_clock.c");
const FILE: &str = "MOVED_CLOCK";
const DAY: i64 = 24 * 60 * 60;

pub struct MovedClock {
    /// Holds the seconds by which the clock is ahead, as an `i64`.
    file: PathBuf,
    library: PathBuf,
    /// The two files, where they were made; they go with this.
    _made: Option<[NamedTempFile; 2]>,
}

impl MovedClock {
    /// Runs this test of this name, as `cargo test` knows it, in a further process, which goes by the clock: there it
    /// returns the clock. Here it returns none, once the test is over.
    pub fn enter(test: &str) -> Option<Self> {
        Self::enter_with([test, "--exact", "--nocapture"].map(OsString::from))
    }

    /// The same for a program, which runs once more with the same arguments.
    pub fn enter_program() -> Option<Self> {
        Self::enter_with(std::env::args_os().skip(1))
    }

    fn enter_with(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        if let (Some(file), Some(library)) = (std::env::var_os(FILE), std::env::var_os(LIBRARY)) {
            return Some(Self { file: file.into(), library: library.into(), _made: None });
        }
        let clock = Self::of_others();
        let mut child = Command::new(std::env::current_exe().expect("it is a program"));
        child.args(arguments).envs(clock.calendar());
        assert!(child.status().expect("it runs").success(), "failed under a moved clock");
        None
    }

    /// A clock for PostgreSQL and servers, which the test's own process does not go by.
    pub fn of_others() -> Self {
        let made = [readable_by_all(), readable_by_all()];
        let [file, library] = made.each_ref().map(|file| file.path().to_owned());
        compile(SOURCE, &library);
        let clock = Self { file, library, _made: Some(made) };
        clock.move_to(0);
        clock
    }

    /// The environment of a program whose calendar it moves. Its timers go on as they do: nothing that is under way ends
    /// by a leap.
    pub fn calendar(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().expect("its name is text").to_owned();
        vec![(LIBRARY, text(&self.library)), (FILE, text(&self.file))]
    }

    /// Lets so many days pass, since the beginning of the test.
    pub fn move_to_day(&self, day: u32) {
        self.move_to(i64::from(day) * DAY);
    }

    /// Puts the clock so many seconds ahead of the system's.
    pub fn move_to(&self, ahead: i64) {
        let file: File = OpenOptions::new().write(true).open(&self.file).expect("it is ours");
        file.write_all_at(&ahead.to_ne_bytes(), 0).expect("/tmp is writable");
    }
}
