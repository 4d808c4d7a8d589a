//! A clock that a test moves, for PostgreSQL, the servers and the test's own process: months pass in seconds. A few lines
//! of C are preloaded into each program, and add to the calendar what a file says. (Under libfaketime PostgreSQL hung: it
//! takes a lock that a signal handler may wait for.)

use std::{
    fs::{File, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::NamedTempFile;

const SOURCE: &str = include_str!("moved_clock.c");
const LIBRARY: &str = "LD_PRELOAD";
const FILE: &str = "MOVED_CLOCK";
const DAY: i64 = 24 * 60 * 60;

pub struct MovedClock {
    /// Holds the seconds by which the clock is ahead, as an `i64`.
    file: PathBuf,
    library: PathBuf,
}

impl MovedClock {
    /// Runs this test of this name, as `cargo test` knows it, in a further process, which goes by the clock: there it
    /// returns the clock. Here it returns none, once the test is over.
    pub fn enter(test: &str) -> Option<Self> {
        if let (Some(file), Some(library)) = (std::env::var_os(FILE), std::env::var_os(LIBRARY)) {
            return Some(Self { file: file.into(), library: library.into() });
        }
        let (file, library) = (readable_by_all(), readable_by_all());
        compile(library.path());
        let clock = Self { file: file.path().to_owned(), library: library.path().to_owned() };
        clock.move_to_day(0);
        let mut child = Command::new(std::env::current_exe().expect("it is a program"));
        child.args([test, "--exact", "--nocapture"]).envs(clock.calendar());
        assert!(child.status().expect("it runs").success(), "{test} failed under a moved clock");
        None
    }

    /// The environment of a program whose calendar it moves. Its timers go on as they do: nothing that is under way ends
    /// by a leap.
    pub fn calendar(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().expect("its name is text").to_owned();
        vec![(LIBRARY, text(&self.library)), (FILE, text(&self.file))]
    }

    /// Lets so many days pass, since the beginning of the test.
    pub fn move_to_day(&self, day: u32) {
        let ahead = i64::from(day) * DAY;
        let file: File = OpenOptions::new().write(true).open(&self.file).expect("it is ours");
        file.write_all_at(&ahead.to_ne_bytes(), 0).expect("/tmp is writable");
    }
}

/// PostgreSQL runs as another user.
fn readable_by_all() -> NamedTempFile {
    let file = NamedTempFile::new().expect("/tmp is writable");
    file.as_file().set_permissions(Permissions::from_mode(0o644)).expect("it is ours");
    file
}

fn compile(library: &Path) {
    let mut compiler = Command::new("cc");
    compiler.args(["-x", "c", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(library).arg("-");
    let mut compiler = compiler.stdin(Stdio::piped()).spawn().expect("a C compiler is installed: .ci/setup");
    let mut input = compiler.stdin.take().expect("it was piped");
    input.write_all(SOURCE.as_bytes()).expect("it reads");
    drop(input);
    assert!(compiler.wait().expect("it was started").success(), "the clock does not compile");
}
