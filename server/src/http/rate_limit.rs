//! The rest of a client's allowance, in the header fields of
//! draft-ietf-httpapi-ratelimit-headers-10. The endpoint decides what is limited.

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use tokio_postgres::Row;

pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The time for which an allowance is one: a month, a day or an hour of UTC.
#[derive(Debug, Clone, Copy)]
pub enum Period {
    Month,
    Day,
    Hour,
}

/// An allowance per period, in the endpoint's unit.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    pub period: Period,
    pub allowance: i32,
    pub remaining: i32,
    /// Seconds until the next period begins.
    pub resets_in: i32,
}

impl Period {
    /// The policy's name, and the period in seconds.
    const fn policy(self) -> (&'static str, i32) {
        match self {
            // The longest: no window of the header is a month.
            Self::Month => ("monthly", 31 * 24 * 60 * 60),
            Self::Day => ("daily", 24 * 60 * 60),
            Self::Hour => ("hourly", 60 * 60),
        }
    }
}

impl RateLimit {
    /// An hour's allowance of which nothing is left. The row's columns `allowance` and `resets_in` have the numbers.
    pub fn used_up(row: &Row) -> Self {
        let (allowance, resets_in) = (row.get("allowance"), row.get("resets_in"));
        Self { period: Period::Hour, allowance, remaining: 0, resets_in }
    }

    pub(super) fn write(self, headers: &mut HeaderMap) {
        let (name, window) = self.period.policy();
        let policy = format!("\"{name}\";q={};w={window}", self.allowance);
        let limit = format!("\"{name}\";r={};t={}", self.remaining, self.resets_in);
        for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
            headers.insert(name, HeaderValue::try_from(value).expect("digits are visible ASCII"));
        }
    }

    pub(super) fn retry_after(self) -> (HeaderName, HeaderValue) {
        (RETRY_AFTER, HeaderValue::from(self.resets_in))
    }
}
