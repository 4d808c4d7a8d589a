//! The messages that were handed to the DS and its answers, to be held against the contents of the queues.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
};

use postern_client::Submission;
use postern_protocol::{
    MlsMessage,
    ds::{GroupId, SubmitMessage},
    encoding::Encoding,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    Accepted,
    Refused,
    /// The answer was lost, and no repeat could clear it up.
    Unknown,
}

#[derive(Clone)]
pub struct Entry {
    pub group: GroupId,
    /// An index of the cast.
    pub sender: usize,
    /// Absent for a commit.
    pub text: Option<String>,
    pub fate: Fate,
}

#[derive(Default)]
pub struct Ledger {
    entries: Mutex<HashMap<MlsMessage, Entry>>,
    commits: Mutex<HashSet<(GroupId, u64)>>,
}

impl Ledger {
    /// Before it is handed in for the first time.
    pub fn open(&self, sender: usize, submission: &Submission, text: Option<&str>) {
        let entry = Entry {
            group: submission.group.clone(),
            sender,
            text: text.map(str::to_owned),
            fate: Fate::Unknown,
        };
        let before = self.entries().insert(message(submission), entry);
        assert!(before.is_none(), "no two messages are the same");
    }

    pub fn close(&self, submission: &Submission, fate: Fate) {
        let mut entries = self.entries();
        let entry = entries.get_mut(&message(submission)).expect("it was opened");
        entry.fate = fate;
        if fate == Fate::Accepted && entry.text.is_none() {
            let mut commits = self.commits.lock().expect("no panic holds it");
            let first = commits.insert((submission.group.clone(), submission.epoch));
            assert!(first, "two commits were accepted in epoch {}", submission.epoch);
        }
    }

    pub fn entries(&self) -> MutexGuard<'_, HashMap<MlsMessage, Entry>> {
        self.entries.lock().expect("no panic holds it")
    }

    /// How many had this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.entries().values().filter(|entry| entry.fate == fate).count()
    }
}

/// The message in a submission, as it will lie in the queues.
fn message(submission: &Submission) -> MlsMessage {
    let body: SubmitMessage =
        Encoding::Cbor.decode(submission.request.content()).expect("it is a submission");
    body.message
}
