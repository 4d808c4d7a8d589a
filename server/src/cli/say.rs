//! The words of a command about its work, which goes on whether anybody hears them or not.

use std::{fmt::Display, io::Write};

/// Prints a line of a command. `println!` would end the process, in the middle of its work, once the terminal is gone, or nobody
/// reads the pipe any more.
pub fn say(line: impl Display) {
    let _nobody_listens = writeln!(std::io::stdout(), "postern: {line}");
}
