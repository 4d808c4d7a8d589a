//! The rest of an allowance, as a server tells it in the header fields of draft-ietf-httpapi-ratelimit-headers-10, and
//! the time after which a request may be made again.

use std::time::Duration;

use http::{HeaderMap, header::RETRY_AFTER};

/// The longest time until an allowance is whole again, in seconds: the longest month.
const LONGEST: u64 = 31 * 24 * 60 * 60;

/// An allowance, in the unit of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub allowance: u64,
    pub remaining: u64,
    /// Time until it is whole again.
    pub resets_in: Duration,
}

impl RateLimit {
    /// The first one in an answer's header fields; `None` if there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let parameter = |field, name| {
            let value = headers.get(field)?.to_str().ok()?.split(',').next()?;
            let mut parameters = value.split(';').skip(1);
            parameters.find_map(|parameter| parameter.trim().strip_prefix(name)?.parse::<u64>().ok())
        };
        Some(Self {
            allowance: parameter("ratelimit-policy", "q=")?,
            remaining: parameter("ratelimit", "r=")?,
            // Whatever the other side says.
            resets_in: Duration::from_secs(parameter("ratelimit", "t=")?.min(LONGEST)),
        })
    }
}

/// The time in `Retry-After` (RFC 9110 §10.2.3), if it is one in seconds; a month at most.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_allowance_is_read_if_it_is_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "ratelimit-policy",
            HeaderValue::from_static("\"daily\";q=200;w=86400, \"hourly\";q=9;w=3600"),
        );
        assert_eq!(RateLimit::of(&headers), None);
        headers.insert("ratelimit", HeaderValue::from_static("\"daily\"; r=70; t=600"));
        let expected = RateLimit { allowance: 200, remaining: 70, resets_in: Duration::from_secs(600) };
        assert_eq!(RateLimit::of(&headers), Some(expected));
        headers.insert("ratelimit", HeaderValue::from_static("\"daily\";r=0;t=18446744073709551615"));
        assert_eq!(RateLimit::of(&headers).unwrap().resets_in, Duration::from_secs(LONGEST));
        headers.insert("ratelimit", HeaderValue::from_static("\"daily\";r=many;t=600"));
        assert_eq!(RateLimit::of(&headers), None);
    }

    #[test]
    fn a_time_to_wait_is_read_if_it_is_in_seconds() {
        let after =
            |value| retry_after(&[(RETRY_AFTER, HeaderValue::from_static(value))].into_iter().collect());
        assert_eq!(after("90"), Some(Duration::from_secs(90)));
        assert_eq!(after("99999999999"), Some(Duration::from_secs(LONGEST)));
        assert_eq!(after("Sun, 29 Nov 2026 17:00:00 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
