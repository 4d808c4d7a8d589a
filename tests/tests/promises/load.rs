//! Everyone talks, commits and reads at once, while somebody else makes servers and databases go away. A message
//! whose answer is lost is handed in again until its fate is known, as a client does, but with care not to
//! make two of it: a text goes with the same token, which pays once; a commit may go with another, since the DS
//! knows it again.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use postern_client::{Http, Request, Submission, Token};
use postern_protocol::ds::GroupId;
use postern_tests_kit::{Chance, eventually};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinHandle;

use crate::{
    cast::{Answer, Cast, any, hand_in},
    ledger::Fate,
    world::insist,
};

pub struct Load {
    state: Arc<State>,
    senders: Vec<JoinHandle<()>>,
}

struct State {
    cast: Arc<Cast>,
    ways: [Http; 2],
    only_commits: bool,
    ready: Request,
    stop: AtomicBool,
    attempts: AtomicUsize,
    lost: AtomicUsize,
    spent: Mutex<Vec<Token>>,
    slowest: Mutex<Duration>,
}

impl Load {
    pub fn start(cast: &Arc<Cast>, ways: [Http; 2], chance: &Chance) -> Self {
        Self::with(cast, ways, chance, false)
    }

    /// Everyone only commits.
    pub fn commits(cast: &Arc<Cast>, ways: [Http; 2], chance: &Chance) -> Self {
        Self::with(cast, ways, chance, true)
    }

    fn with(cast: &Arc<Cast>, ways: [Http; 2], chance: &Chance, only_commits: bool) -> Self {
        let state = Arc::new(State {
            cast: Arc::clone(cast),
            ways,
            only_commits,
            ready: Request::get("/ready"),
            stop: AtomicBool::new(false),
            attempts: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            spent: Mutex::default(),
            slowest: Mutex::default(),
        });
        let senders = (0..cast.people.len())
            .map(|person| {
                let (state, rng) = (Arc::clone(&state), chance.of(person as u64 + 1));
                tokio::spawn(async move { state.talk(person, rng).await })
            })
            .collect();
        Self { state, senders }
    }

    /// Returns after so many more attempts to hand something in, however busy this machine is.
    pub async fn attempts(&self, more: usize) {
        let attempts = || self.state.attempts.load(Ordering::Relaxed);
        let goal = attempts() + more;
        while attempts() < goal {
            let before = attempts();
            eventually("the load goes on", async || {
                assert!(!self.senders.iter().any(JoinHandle::is_finished), "somebody gave up");
                (attempts() > before).then_some(())
            })
            .await;
        }
    }

    /// Returns after some attempts more, and once more messages than so many are known to be accepted, since the start.
    pub async fn accepted(&self, cast: &Cast, number: usize) {
        self.attempts(60).await;
        while cast.ledger.count(Fate::Accepted) <= number {
            self.attempts(10).await;
        }
    }

    /// How many attempts had no answer.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::Relaxed)
    }

    /// The longest that an attempt took.
    pub fn slowest(&self) -> Duration {
        *self.state.slowest.lock().expect("no panic holds it")
    }

    /// Tokens that a message was paid with, as an answer said.
    pub fn spent_tokens(&self) -> Vec<Token> {
        self.state.spent.lock().expect("no panic holds it").clone()
    }

    /// Returns when the fate of all that was handed in is known and everyone has read all of it.
    pub async fn stop(self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.expect("nobody panics");
        }
        self.state.cast.catch_up().await;
    }
}

impl State {
    async fn talk(&self, person: usize, mut rng: StdRng) {
        let groups: Vec<GroupId> = self.cast.groups_of(person).iter().map(|group| group.id.clone()).collect();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let group = groups.choose(&mut rng).expect("everyone is in a group");
            let (submission, fate) = if self.only_commits || rng.random_ratio(1, 5) {
                let commit = self.cast.prepare_commit(person, group).await;
                let fate = self.hand_in_commit(person, &commit, &mut rng).await;
                (commit, fate)
            } else {
                let text = self.cast.prepare_text(person, group, &format!("person {person}: {number}")).await;
                let fate = self.hand_in_text(person, &text, &mut rng).await;
                (text, fate)
            };
            self.cast.close(person, &submission, fate).await;
            if fate != Fate::Accepted || rng.random_ratio(1, 4) {
                self.cast.receive(person).await;
            }
        }
    }

    async fn hand_in_text(&self, person: usize, text: &Submission, rng: &mut StdRng) -> Fate {
        let token = self.cast.token(person).await;
        let (answer, repeats) = self.until_answered(text, &token, rng).await;
        match answer {
            Answer::Accepted(_) => Fate::Accepted,
            // Had an earlier attempt arrived, the token would be spent.
            Answer::WrongEpoch(_) => Fate::Refused,
            Answer::TokenSpent => {
                assert!(repeats > 0, "a fresh token was spent");
                Fate::Unknown
            }
            Answer::Lost => unreachable!("it was answered"),
        }
    }

    async fn hand_in_commit(&self, person: usize, commit: &Submission, rng: &mut StdRng) -> Fate {
        let mut repeated = false;
        loop {
            let token = self.cast.token(person).await;
            let (answer, repeats) = self.until_answered(commit, &token, rng).await;
            repeated |= repeats > 0;
            match answer {
                Answer::Accepted(epoch) => {
                    assert_eq!(epoch, commit.epoch + 1);
                    return Fate::Accepted;
                }
                // It may have been accepted, and the group has moved on since.
                Answer::WrongEpoch(current) if repeated && current > commit.epoch + 1 => {
                    return Fate::Unknown;
                }
                Answer::WrongEpoch(current) => {
                    assert!(current > commit.epoch, "refused, though nobody else's commit was accepted");
                    return Fate::Refused;
                }
                Answer::TokenSpent => assert!(repeats > 0, "a fresh token was spent"),
                Answer::Lost => unreachable!("it was answered"),
            }
        }
    }

    /// Also says how often it was handed in again.
    async fn until_answered(
        &self,
        submission: &Submission,
        token: &Token,
        rng: &mut StdRng,
    ) -> (Answer, usize) {
        let mut repeats = 0;
        loop {
            let way = any(&self.ways, rng);
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            let answer = hand_in(way, submission, token.clone()).await;
            {
                let mut slowest = self.slowest.lock().expect("no panic holds it");
                *slowest = (*slowest).max(begun.elapsed());
            }
            match answer {
                Answer::Lost => self.lost.fetch_add(1, Ordering::Relaxed),
                answer => {
                    self.spent.lock().expect("no panic holds it").push(token.clone());
                    return (answer, repeats);
                }
            };
            repeats += 1;
            insist("a server answers", || any(&self.ways, rng).send_once(&self.ready)).await;
        }
    }
}
