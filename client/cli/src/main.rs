//! `postern-client`: a messenger for the command line, and an example of how to use the
//! library. Arguments in, text or JSON lines out, and nothing else: what there is to say about
//! keys, groups and messages is said in the library.

mod advice;
mod commands;
mod output;
mod qr;
mod sign_in;

use std::process::ExitCode;

use clap::Parser as _;
use postern_client::safe_text;
use tracing_subscriber::EnvFilter;

/// `EX_TEMPFAIL` of sysexits.h.
const TRY_AGAIN: u8 = 75;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = commands::Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("POSTERN_LOG").unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(output::SafeStderr::default)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    match commands::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let Some(error) = error.downcast_ref::<postern_client::Error>() else {
                eprintln!("error: {}", safe_text(&format!("{error:#}")));
                return ExitCode::FAILURE;
            };
            // Its text includes its causes.
            eprintln!("error: {}{}", safe_text(&error.to_string()), advice::for_error(error));
            if error.is_passing() { ExitCode::from(TRY_AGAIN) } else { ExitCode::FAILURE }
        }
    }
}
