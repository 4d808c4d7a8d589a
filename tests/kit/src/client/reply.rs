//! An answer of the server.

use postern_protocol::{
    encoding::Encoding,
    problem::{self, Problem, ProblemType},
};
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde::de::DeserializeOwned;

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    /// # Errors
    /// The answer breaks off.
    pub async fn read(answer: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(Self { status, headers, body: answer.bytes().await?.to_vec() })
    }

    pub fn content_type(&self) -> &str {
        self.headers.get(CONTENT_TYPE).map(|value| value.to_str().expect("it is text")).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The problem that this is, well-formed (RFC 9457).
    pub fn problem(&self, what: &str) -> Problem {
        let text = self.text();
        assert_eq!(self.content_type(), problem::MEDIA_TYPE, "{what}: {} {text}", self.status);
        let problem = Problem::from_json(&self.body).unwrap_or_else(|| panic!("{what}: {text}"));
        assert_eq!(self.status, problem.kind.status(), "{what}: {text}");
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("it was read just now");
        assert_eq!(json["status"], self.status.as_u16(), "{what}: {text}");
        assert_eq!(json["type"], problem.kind.uri(), "{what}: {text}");
        assert_eq!(json["title"], problem.kind.title(), "{what}: {text}");
        problem
    }

    /// The problem type's name in its URI.
    pub fn slug(&self) -> &'static str {
        self.problem("a request").kind.slug()
    }

    /// Whether it is a problem of this type; a success is none.
    pub fn is_problem(&self, slug: &str) -> bool {
        Problem::from_json(&self.body).is_some_and(|problem| problem.kind.slug() == slug)
    }

    pub fn assert_problem(&self, what: &str, expected: ProblemType) -> Problem {
        let problem = self.problem(what);
        assert_eq!(problem.kind, expected, "{what}: {problem}");
        problem
    }

    pub fn assert_says_nothing_of(&self, private: &[String], what: &str) {
        let text = self.text();
        for private in private {
            assert!(!text.contains(private.as_str()), "{what}: {private} in {text}");
        }
    }

    pub fn assert_ok(&self, what: &str) {
        assert!(self.status.is_success(), "{what}: {} {}", self.status, self.text());
    }

    /// The body, in the encoding that it says it has.
    pub fn decode<T: DeserializeOwned>(&self) -> T {
        self.assert_ok("a request");
        let encoding = Encoding::from_media_type(self.content_type()).expect("it is JSON or CBOR");
        encoding.decode(&self.body).expect("the body is what the endpoint promises")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
