//! Limits of requests and connections, which every process has for itself.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use postern_protocol::{federation::Deliveries, oblivious::ENVELOPE_BYTES};
use serde::{Deserialize, Serialize};

use super::cores;

/// The least buffer that an HTTP/1 connection works with.
const LEAST_HEADER_BYTES: u64 = 8192;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Longest `wait` of a long-poll, in seconds.
    pub long_poll_max_seconds: u64,
    /// Time that a connection may take to send a request's header, from connecting or from the answer before, in seconds.
    pub header_timeout_seconds: u64,
    /// Largest header of a request, in bytes.
    pub max_header_bytes: u64,
    /// Time that a request's body may take, in seconds.
    pub body_timeout_seconds: u64,
    /// Bytes that a body must bring in each second, and that a peer must read of its answers, on average over ten.
    pub body_bytes_per_second: u64,
    /// Memory for the bodies of all requests at a time, in bytes.
    pub bodies_bytes: u64,
    /// Memory for answers that are not read yet, in bytes.
    pub answers_bytes: u64,
    /// Time that a connection may wait without a request, in seconds.
    pub idle_timeout_seconds: u64,
    /// Most connections at a time. Without it, they follow from the limit of open files.
    pub max_connections: Option<usize>,
    /// Most connections of one source at a time. Without it, a quarter of all.
    pub max_connections_per_source: Option<usize>,
    /// Requests under way at a time on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Time without a word after which an HTTP/2 client is asked for a sign of life, and that it has for it, in seconds.
    pub http2_ping_seconds: u64,
    /// Time that a shutdown waits for requests under way, in seconds.
    pub shutdown_grace_seconds: u64,
    /// Requests whose groups, KeyPackages or tokens are computed at once.
    pub compute_threads: usize,
    /// Time that such a request waits for its turn, in seconds.
    pub compute_wait_seconds: u64,
    /// Spent tokens that the process remembers, and as many others that it has seen.
    pub remembered_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A commit with a sparse tree of 5,000 members is under half of this.
            max_body_bytes: 1024 * 1024,
            long_poll_max_seconds: 60,
            header_timeout_seconds: 10,
            max_header_bytes: 16 * 1024,
            body_timeout_seconds: 120,
            body_bytes_per_second: 1024,
            bodies_bytes: 64 * 1024 * 1024,
            answers_bytes: 256 * 1024 * 1024,
            idle_timeout_seconds: 60,
            max_connections: None,
            max_connections_per_source: None,
            http2_streams: 100,
            http2_ping_seconds: 20,
            shutdown_grace_seconds: 10,
            compute_threads: cores(),
            compute_wait_seconds: 5,
            // Some 20 bytes each.
            remembered_tokens: 100_000,
        }
    }
}

impl Limits {
    /// Bytes of the largest body of any request: one that is sealed in another one, or that of deliveries, which are as large
    /// as the protocol allows.
    pub fn largest_body(&self) -> u64 {
        self.max_body_bytes.saturating_add(ENVELOPE_BYTES as u64).max(Deliveries::MOST_BYTES as u64)
    }

    pub fn long_poll_max(&self) -> Duration {
        Duration::from_secs(self.long_poll_max_seconds)
    }

    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_seconds)
    }

    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    pub fn http2_ping(&self) -> Duration {
        Duration::from_secs(self.http2_ping_seconds)
    }

    pub fn compute_wait(&self) -> Duration {
        Duration::from_secs(self.compute_wait_seconds)
    }

    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_seconds)
    }

    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("limits.max_body_bytes", self.max_body_bytes),
            ("limits.header_timeout_seconds", self.header_timeout_seconds),
            ("limits.body_timeout_seconds", self.body_timeout_seconds),
            ("limits.answers_bytes", self.answers_bytes),
            ("limits.idle_timeout_seconds", self.idle_timeout_seconds),
            ("limits.max_connections", self.max_connections.unwrap_or(1) as u64),
            ("limits.max_connections_per_source", self.max_connections_per_source.unwrap_or(1) as u64),
            ("limits.http2_streams", self.http2_streams.into()),
            ("limits.http2_ping_seconds", self.http2_ping_seconds),
            ("limits.compute_threads", self.compute_threads as u64),
        ]
    }

    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.max_header_bytes < LEAST_HEADER_BYTES {
            bail!("limits.max_header_bytes must be at least {LEAST_HEADER_BYTES}");
        }
        let largest = self.largest_body();
        if self.bodies_bytes < largest {
            bail!(
                "limits.bodies_bytes must be at least {largest}, so that the largest body fits: limits.max_body_bytes and {ENVELOPE_BYTES}, with which another server seals it, or {} of deliveries of another server",
                Deliveries::MOST_BYTES,
            );
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Largest request body, in bytes [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "POSTERN_MAX_BODY_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,

    /// Longest wait of a long-poll, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_LONG_POLL_MAX_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_poll_max_seconds: Option<u64>,

    /// Time that a connection may take to send the header of a request, from connecting, or from the answer before, in seconds
    /// [default: 10]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_HEADER_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout_seconds: Option<u64>,

    /// Largest header of a request, in bytes [default: 16384]
    #[arg(long, value_name = "BYTES", env = "POSTERN_MAX_HEADER_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_header_bytes: Option<u64>,

    /// Time that the body of a request may take, in seconds [default: 120]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_BODY_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_timeout_seconds: Option<u64>,

    /// Bytes that the body of a request must bring, and that the peer must read of answers, in each second, on average
    /// over ten seconds [default: 1024]
    #[arg(long, value_name = "BYTES", env = "POSTERN_BODY_BYTES_PER_SECOND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_per_second: Option<u64>,

    /// Memory for the bodies of all requests at a time, of which one source gets a quarter, in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "POSTERN_BODIES_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bodies_bytes: Option<u64>,

    /// Memory for answers that are not read yet, in bytes; beyond it, the connection goes that leaves most of them unread
    /// [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "POSTERN_ANSWERS_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_bytes: Option<u64>,

    /// Time that a connection may wait without a request, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_IDLE_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,

    /// Most connections at a time; beyond it, the one goes that has waited longest without a request [default: the
    /// limit of open files less 128, 32768 at most]
    #[arg(long, value_name = "N", env = "POSTERN_MAX_CONNECTIONS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<usize>,

    /// Most connections of one source at a time [default: a quarter of all]
    #[arg(long, value_name = "N", env = "POSTERN_MAX_CONNECTIONS_PER_SOURCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_source: Option<usize>,

    /// Requests under way at a time on one HTTP/2 connection [default: 100]
    #[arg(long, value_name = "N", env = "POSTERN_HTTP2_STREAMS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_streams: Option<u32>,

    /// Time without a word after which an HTTP/2 client is asked for a sign of life, in seconds; it has as long for it
    /// [default: 20]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_HTTP2_PING_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_ping_seconds: Option<u64>,

    /// Time that a shutdown waits for requests under way, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_SHUTDOWN_GRACE_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_grace_seconds: Option<u64>,

    /// Requests whose groups, KeyPackages or tokens are computed at once [default: one for each core]
    #[arg(long, value_name = "N", env = "POSTERN_COMPUTE_THREADS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_threads: Option<usize>,

    /// Time that such a request waits for its turn, in seconds; then the answer is 503 [default: 5]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_COMPUTE_WAIT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_wait_seconds: Option<u64>,

    /// Spent tokens that the process remembers, so that their requests end at the door, and as many others that it has
    /// seen [default: 100000]
    #[arg(long, value_name = "N", env = "POSTERN_REMEMBERED_TOKENS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered_tokens: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of, refusal};

    #[test]
    fn memory_for_bodies_holds_the_largest_one() {
        let largest = of("").unwrap().limits.largest_body();
        of(&format!("[limits]\nbodies_bytes = {largest}")).unwrap();
        let error = refusal(&format!("[limits]\nbodies_bytes = {}", largest - 1));
        assert!(error.starts_with(&format!("limits.bodies_bytes must be at least {largest}, ")), "{error}");
    }

    #[test]
    fn connections_need_room_for_a_header_and_places() {
        assert!(refusal("[limits]\nmax_header_bytes = 8191").contains("at least 8192"));
        for name in ["max_connections", "max_connections_per_source", "http2_streams"] {
            let error = refusal(&format!("[limits]\n{name} = 0"));
            assert_eq!(error, format!("limits.{name} is 0: it must be at least 1"));
        }
    }
}
