//! The DS against a plain model of a group (DS-3, DS-6): random members do random things, rightly and in every
//! wrong way. The DS accepts what the model accepts and nothing else, everyone follows, and in the end the public
//! group is the one its members see. Some members are at other homeservers, which makes no difference, unless the operator
//! blocked it. What it accepts each member's client accepts, too. A failure is told with as few steps as lead to it.

mod mistakes;
mod operations;
mod play;
mod proposals;
mod shrink;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, resume_unwind},
};

use futures_util::{FutureExt as _, future::join_all};
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Chance, World, number};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::elsewhere::Elsewhere;
use operations::OPERATIONS;
use play::{BLOCKED, Play, Step};

/// Messages that are sent. POSTERN_TEST_STEPS makes it longer, POSTERN_TEST_SEED another one.
const STEPS: usize = 3_000;
/// Side by side, each with its share of the messages.
const GROUPS: usize = 6;
/// Rounds of so many messages, if chance leaves something out.
const MOST_ROUNDS: u64 = 4;
const MOST_MEMBERS: usize = 7;
/// Commits by which an application message may be late, unless the operator sets another number.
const PAST_EPOCHS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Leaves,
    Updates,
}

/// The group as it should be. People are indexes of `Group::members`, users any numbers.
struct Model {
    epoch: u64,
    user: Vec<usize>,
    present: Vec<bool>,
    /// The epoch with which each came in last, and whether that was by itself.
    since: Vec<(u64, bool)>,
    admins: BTreeSet<usize>,
    waiting: Vec<(usize, Waiting)>,
}

/// `None`: it is to be accepted.
type Expected = Option<ProblemType>;
const VIOLATION: Expected = Some(ProblemType::PolicyViolation);
const INVALID: Expected = Some(ProblemType::InvalidMls);
const HOMESERVER_BLOCKED: Expected = Some(ProblemType::HomeserverBlocked);

impl Model {
    /// So many users with a client each, of whom the first is the admin.
    fn new(users: usize) -> Self {
        Self {
            epoch: 1,
            user: (0..users).collect(),
            present: vec![true; users],
            since: vec![(0, false); users],
            admins: BTreeSet::from([0]),
            waiting: Vec::new(),
        }
    }

    fn members(&self) -> Vec<usize> {
        (0..self.present.len()).filter(|member| self.present[*member]).collect()
    }

    fn clients(&self, user: usize) -> Vec<usize> {
        self.members().into_iter().filter(|member| self.user[*member] == user).collect()
    }

    fn has_room(&self) -> bool {
        self.members().len() < MOST_MEMBERS
    }

    fn is_admin(&self, member: usize) -> bool {
        self.admins.contains(&self.user[member])
    }

    fn waits(&self, member: usize, what: Waiting) -> bool {
        self.waiting.contains(&(member, what))
    }

    fn leaves(&self, member: usize) -> bool {
        self.waits(member, Waiting::Leaves)
    }

    /// Whether an admin is left once those who leave, and these, have gone.
    fn has_admin(&self, admins: &BTreeSet<usize>, without: &[usize]) -> bool {
        let stays = |member: &usize| !self.leaves(*member) && !without.contains(member);
        self.members().into_iter().filter(stays).any(|member| admins.contains(&self.user[member]))
    }

    /// The obstacle to any commit of this member.
    fn commit(&self, by: usize) -> Expected {
        if self.leaves(by) { VIOLATION } else { None }
    }

    fn allowed(&self, by: usize, right: bool) -> Expected {
        if right { self.commit(by) } else { VIOLATION }
    }

    /// The answer to a message that was right in an epoch that is over.
    fn late(&self, by: usize) -> Expected {
        Some(if self.present[by] { ProblemType::WrongEpoch } else { ProblemType::NotAllowed })
    }

    /// The answer to words of an epoch that may be over, and those that read them if they are accepted. Nobody who was
    /// there in that epoch and is there now misses them, though it may have come in with other keys meanwhile.
    fn words(&self, by: usize, epoch: u64) -> (Expected, Vec<usize>) {
        let members = self.members();
        let missed = |member: &usize| {
            let (since, by_itself) = self.since[*member];
            since > epoch && (by_itself || *member == by)
        };
        let expected = if !self.present[by] {
            Some(ProblemType::NotAllowed)
        } else if epoch + PAST_EPOCHS < self.epoch || members.iter().any(missed) {
            Some(ProblemType::WrongEpoch)
        } else {
            None
        };
        let reads = |member: &usize| *member != by && self.since[*member].0 <= epoch;
        (expected, members.into_iter().filter(reads).collect())
    }

    fn committed(&mut self, removed: &[usize]) {
        let leavers: Vec<_> = self.members().into_iter().filter(|member| self.leaves(*member)).collect();
        for member in leavers.iter().chain(removed) {
            self.present[*member] = false;
        }
        self.waiting.clear();
        self.epoch += 1;
    }

    /// Somebody came in by external commit, which takes along those who leave, or lets what waits lapse.
    fn entered(&mut self, lapses: bool) {
        if lapses {
            self.waiting.clear();
        }
        self.committed(&[]);
    }

    /// Somebody came in with this epoch, by itself or because another added it.
    fn add(&mut self, user: usize, by_itself: bool) {
        self.user.push(user);
        self.present.push(true);
        self.since.push((self.epoch, by_itself));
    }

    /// A member came back with this epoch.
    fn returned(&mut self, member: usize) {
        self.since[member] = (self.epoch, true);
    }
}

/// Plays until so many messages are sent; a failure is told with few steps that lead to it.
async fn play<'a>(world: &'a World, elsewhere: &'a Elsewhere, seed: u64, messages: usize) -> Play<'a> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut play = Play::start(world, elsewhere, format!("the group with seed {seed}")).await;
    let mut steps = Vec::new();
    let played = AssertUnwindSafe(async {
        while play.sent < messages {
            let step = Step { operation: chance.random_range(0..OPERATIONS.len()), choice: chance.random() };
            steps.push(step);
            play.step(step).await;
        }
        play.commit_what_waits().await;
        play.assert_agreed().await;
    });
    let outcome = played.catch_unwind().await;
    if let Err(failure) = outcome {
        drop(play);
        let few = shrink::shrink(steps, async |steps: &[Step]| fails(world, elsewhere, steps).await).await;
        eprintln!("{} steps are enough to fail: {few:#?}", few.len());
        resume_unwind(failure);
    }
    play
}

async fn fails(world: &World, elsewhere: &Elsewhere, steps: &[Step]) -> bool {
    let mut play = Play::start(world, elsewhere, "a shorter history".to_owned()).await;
    let played = AssertUnwindSafe(async {
        for step in steps {
            play.step(*step).await;
        }
        play.commit_what_waits().await;
        play.assert_agreed().await;
    });
    played.catch_unwind().await.is_err()
}

#[tokio::test]
async fn the_ds_accepts_what_a_plain_model_accepts_and_nothing_else() {
    let seed = Chance::new().seed();
    let steps =
        number("POSTERN_TEST_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("it is small"));
    let world = World::start().await;
    world.restock(GROUPS * 50).await;
    let block = format!("SELECT operator.block_domain('{BLOCKED}')");
    world.admin.execute(&block, &[]).await.expect("the operator may");
    let elsewhere = Elsewhere::of(&world).await;
    let (mut accepted, mut refused, mut epochs) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut untried = Vec::new();
    // One round tries everything, nearly always.
    for round in 0..MOST_ROUNDS {
        let seed = seed.wrapping_add(round * GROUPS as u64);
        let plays = (0..GROUPS as u64)
            .map(|number| play(&world, &elsewhere, seed.wrapping_add(number), steps / GROUPS));
        for play in join_all(plays).await {
            accepted.extend(play.accepted);
            refused.extend(play.refused);
            epochs += play.model.epoch;
        }
        let names = OPERATIONS.iter().map(|operation| operation.name);
        untried = names.filter(|it| !accepted.contains(it) && !refused.contains(it)).collect();
        if untried.is_empty() || steps < STEPS {
            break;
        }
    }
    println!("{epochs} epochs; accepted: {accepted:?}\nrefused: {refused:?}");
    assert!(steps < STEPS || untried.is_empty(), "chance has tried all but {untried:?}");
    world.close();
}
