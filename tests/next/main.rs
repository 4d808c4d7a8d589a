//! `postern` as a release that is made up: the next one, or the one after it if `POSTERN_MADE_UP` is `later`.

use postern_tests::next;

fn main() -> std::process::ExitCode {
    let release = match std::env::var(next::WHICH).as_deref() {
        Ok(next::LATER) => next::later(),
        _ => next::next(),
    };
    postern_server::cli::main_of(release)
}
