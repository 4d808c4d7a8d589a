//! An identity provider (OpenID Connect) on this machine, which others wrote: `tests/node/oidc/provider.mjs`. Anybody
//! logs in there as anybody.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use postern_protocol::admission::IdToken;
use serde_json::{Value, json};

use super::node;

/// A running provider with one client. Dropping it ends it.
pub struct IdentityProvider {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    issuer: String,
}

impl IdentityProvider {
    /// The id of its client.
    pub const CLIENT: &str = "postern";

    pub fn start() -> Self {
        let mut command = node("oidc");
        // It warns that it is no provider for people.
        command.arg("provider.mjs").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("node runs");
        let questions = child.stdin.take().expect("it was piped");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut provider = Self { child, questions, answers, issuer: String::new() };
        provider.issuer = text(&provider.answer()["issuer"]);
        provider
    }

    /// Its URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The ID token of a login with this nonce.
    pub fn log_in(&mut self, subject: &str, nonce: &str) -> IdToken {
        self.token(&json!({ "what": "login", "subject": subject, "nonce": nonce }))
    }

    /// The ID token of a login that is no older than ten minutes, which tells when it was.
    pub fn log_in_anew(&mut self, subject: &str, nonce: &str) -> IdToken {
        self.token(&json!({ "what": "login", "subject": subject, "nonce": nonce, "max_age": 600 }))
    }

    /// A token that it signs, whatever it says, by this algorithm (RFC 7518 §3.1).
    pub fn sign(&mut self, algorithm: &str, claims: &Value) -> IdToken {
        self.token(&json!({ "what": "sign", "algorithm": algorithm, "claims": claims }))
    }

    /// Logs in on a page of its, and returns the text of the page to which that leads.
    pub fn open(&mut self, url: &str, subject: &str) -> String {
        text(&self.ask(&json!({ "what": "open", "url": url, "subject": subject }))["text"])
    }

    /// Gives it other keys.
    pub fn rotate(&mut self) {
        self.ask(&json!({ "what": "rotate" }));
    }

    fn token(&mut self, question: &Value) -> IdToken {
        text(&self.ask(question)["id_token"]).parse().expect("it is a token")
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").expect("the provider reads");
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the provider answers");
        let answer: Value = serde_json::from_str(&line).expect("it answers in JSON");
        assert!(answer.get("error").is_none(), "{}", answer["error"]);
        answer
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("it is text").to_owned()
}
