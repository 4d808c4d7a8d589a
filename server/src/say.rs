//! The words of a command about its work, which goes on whether anybody hears them or not. `println!` would end the process, in
//! the middle of its work, once the terminal is gone, or nobody reads the pipe any more.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anyhow::Context;

/// Prints a line of a command.
pub fn say(line: impl Display) {
    print(format_args!("postern: {line}"));
}

/// Prints a line as it is.
pub fn print(line: impl Display) {
    let _nobody_listens = writeln!(io::stdout(), "{line}");
}

/// Prints what somebody asked for, and what is of no use unheard.
///
/// # Errors
/// Nobody takes it.
pub fn give(text: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write the answer")
}

/// Prints an error of a command.
pub fn complain(error: impl Display) {
    let _nobody_listens = writeln!(io::stderr(), "postern: {error}");
}
