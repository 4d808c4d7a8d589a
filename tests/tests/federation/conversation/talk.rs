//! Somebody who talks in the group while things go wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_client::{Client, Error, Group};
use postern_protocol::{PublicKey, ds::GroupId};
use rand::{Rng, rngs::StdRng};

/// The course of the conversation, for all who take part in it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Course(Arc<Figures>);

#[derive(Default)]
struct Figures {
    is_over: AtomicBool,
    texts: AtomicUsize,
    changes: AtomicUsize,
}

impl Course {
    /// Lets everybody stop.
    pub fn end(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// The number of texts that were said.
    pub fn texts(&self) -> usize {
        self.0.texts.load(Ordering::Relaxed)
    }

    /// The number of times that a guest came or went.
    pub fn changes(&self) -> usize {
        self.0.changes.load(Ordering::Relaxed)
    }

    pub fn note_change(&self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether an error is one that passes by itself, when lines and servers do better.
pub fn is_of_bad_days(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Contended(_))
}

/// The words of somebody who stopped talking.
#[derive(Default)]
pub struct Words {
    /// All texts, in their order.
    pub said: Vec<String>,
    /// Those of which their speaker was told that they were not sent.
    pub refused: Vec<String>,
    /// The keys of the leaves that the speaker got meanwhile.
    pub leaf_keys: Vec<PublicKey>,
}

pub struct Talker {
    pub client: Client,
    pub course: Course,
    pub words: Words,
    group: GroupId,
    rng: StdRng,
}

impl Talker {
    pub fn new(client: &Client, group: &GroupId, course: &Course, rng: StdRng) -> Self {
        let (client, course, words) = (client.clone(), course.clone(), Words::default());
        Self { client, course, words, group: group.clone(), rng }
    }

    pub fn group(&self) -> Group {
        self.client.group_with_id(&self.group)
    }

    /// The group as somebody else knows it.
    pub fn group_of(&self, other: &Client) -> Group {
        other.group_with_id(&self.group)
    }

    /// Waits for less than so many milliseconds.
    pub async fn pause(&mut self, most: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..most))).await;
    }

    /// Says something, renews its keys, or reads.
    pub async fn act(&mut self) -> Result<(), Error> {
        let done = match self.rng.random_range(0..12) {
            0 => self.group().update().await,
            1..7 => self.say().await,
            _ => self.client.receive(Duration::ZERO).await,
        };
        self.pause(200).await;
        done
    }

    async fn say(&mut self) -> Result<(), Error> {
        let text = format!("{}: {}", self.client.user(), self.words.said.len());
        self.words.said.push(text.clone());
        self.course.0.texts.fetch_add(1, Ordering::Relaxed);
        let sent = self.group().send(&text).await;
        if sent.as_ref().is_err_and(|error| !is_of_bad_days(error)) {
            self.words.refused.push(text);
        }
        sent
    }

    /// Does something of that, and takes no error but one that passes.
    pub async fn go_on(&mut self) {
        if let Err(error) = self.act().await {
            assert!(is_of_bad_days(&error), "{}: {error}", self.client.user());
        }
    }

    /// Goes on until all is over.
    pub async fn talk(mut self) -> Words {
        while !self.course.is_over() {
            self.go_on().await;
        }
        self.words
    }
}
