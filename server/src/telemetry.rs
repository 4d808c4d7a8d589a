//! The log for the operator, on stderr, without user data (PRIV-4).

use std::io::IsTerminal;

use anyhow::Context;

use crate::config::{LogConfig, LogFormat};

/// Starts the log of this process.
///
/// # Errors
/// A filter that does not parse.
pub fn start_logging(config: &LogConfig) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.filter)
        .with_context(|| format!("`{}` is not a valid log filter", config.filter))?;
    // A line that nobody hears any more, as at a terminal that is gone, ends no work.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match config.format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
