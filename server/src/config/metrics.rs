//! Figures for Prometheus.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

/// Figures for Prometheus, on a listener of their own (OPS-4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port of the listener, which speaks plain HTTP; without it there is none.
    pub listen: Option<SocketAddr>,
    /// Other homeservers whose domains are labels; all others count together.
    pub neighbours: u32,
    /// Time for which counts of users, queues and groups hold, in seconds.
    pub count_seconds: u64,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: None, neighbours: 100, count_seconds: 5 * 60 }
    }
}

impl MetricsConfig {
    pub fn counts_hold(&self) -> Duration {
        Duration::from_secs(self.count_seconds)
    }

    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![("metrics.count_seconds", self.count_seconds)]
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsSettings {
    /// Address and port at which Prometheus finds figures, such as 127.0.0.1:9464; plain HTTP for everybody who gets there
    /// [default: none, and there are no metrics]
    #[arg(
        id = "metrics_listen",
        long = "metrics-listen",
        value_name = "ADDRESS:PORT",
        env = "POSTERN_METRICS_LISTEN"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,

    /// Other homeservers whose domains are labels; all others count together [default: 100]
    #[arg(long = "metrics-neighbours", value_name = "N", env = "POSTERN_METRICS_NEIGHBOURS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<u32>,

    /// Time for which counts of users, queues and groups hold, which look at all of them, in seconds [default: 300]
    #[arg(long = "metrics-count-seconds", value_name = "SECONDS", env = "POSTERN_METRICS_COUNT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count_seconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of, refusal};

    #[test]
    fn without_an_address_there_are_no_metrics() {
        assert_eq!(of("").unwrap().metrics.listen, None);
        let address = of("[metrics]\nlisten = '127.0.0.1:9464'").unwrap().metrics.listen;
        assert_eq!(address, "127.0.0.1:9464".parse().ok());
        assert_eq!(
            refusal("[metrics]\ncount_seconds = 0"),
            "metrics.count_seconds is 0: it must be at least 1"
        );
    }
}
