//! The log.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A `tracing` filter: `info`, `postern_server=debug,info`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// Filter of the log on stderr, such as info or postern_server=debug,info [default: info]
    #[arg(long = "log-filter", value_name = "FILTER", env = "POSTERN_LOG_FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,

    /// Form of the log lines [default: text]
    #[arg(long = "log-format", value_enum, env = "POSTERN_LOG_FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{of, refusal},
        *,
    };

    #[test]
    fn the_format_is_text_or_json() {
        assert_eq!(of("").unwrap().log, LogConfig { filter: "info".to_owned(), format: LogFormat::Text });
        assert_eq!(of("[log]\nformat = 'json'").unwrap().log.format, LogFormat::Json);
        assert!(refusal("[log]\nformat = 'xml'").contains("log.format"));
    }
}
