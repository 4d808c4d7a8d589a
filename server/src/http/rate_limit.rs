//! The rest of a client's allowance, in the header fields of
//! draft-ietf-httpapi-ratelimit-headers-10. The endpoint decides what is limited.

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const DAY: i32 = 24 * 60 * 60;

/// An allowance per day, in the endpoint's unit.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    pub allowance: i32,
    pub remaining: i32,
    /// Seconds until the next day begins.
    pub resets_in: i32,
}

impl RateLimit {
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let policy = format!("\"daily\";q={};w={DAY}", self.allowance);
        let limit = format!("\"daily\";r={};t={}", self.remaining, self.resets_in);
        for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
            headers.insert(name, HeaderValue::try_from(value).expect("digits are visible ASCII"));
        }
    }

    pub(super) fn retry_after(self) -> (HeaderName, HeaderValue) {
        (RETRY_AFTER, HeaderValue::from(self.resets_in))
    }
}
