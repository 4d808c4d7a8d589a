//! The lengths that the DS expects of commits (DS-13), against those of commits that members make.

use std::collections::BTreeMap;

use openmls::prelude::{Ciphersuite, LeafNodeIndex};
use postern_protocol::{MlsMessage, PublicKey, mls::GroupPolicy};
use postern_server::mls::{Handshake, LONGEST_LIFETIME, TrackedGroup, parse_handshake, parse_tree, path};
use postern_tests_kit::{Commit, Party, SUITE, home, policy_extensions, random_id};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::library::Library;

/// A group without a server.
struct Circle {
    suite: Ciphersuite,
    members: Vec<Party>,
}

impl Circle {
    fn found(suite: Ciphersuite) -> Self {
        let mut founder = newcomer(suite);
        let pseudonym = postern_protocol::mls::Pseudonym(founder.identity.as_slice().try_into().unwrap());
        let server_key = PublicKey::new([7; 32]);
        let context = policy_extensions(&home(), &GroupPolicy::new(pseudonym), &server_key);
        founder.found(&postern_protocol::ds::GroupId::new(random_id(), home()).to_mls(), context);
        Self { suite, members: vec![founder] }
    }

    fn hear(&mut self, by: usize, message: &MlsMessage) {
        for (number, member) in self.members.iter_mut().enumerate() {
            if number != by {
                member.hear(message);
            }
        }
        self.members.retain(Party::is_active);
    }

    /// Newcomers are added, with a path or without one.
    fn add(&mut self, by: usize, number: usize, with_path: bool) {
        let mut newcomers: Vec<_> = (0..number).map(|_| newcomer(self.suite)).collect();
        let add = newcomers.iter().map(Party::key_package).collect();
        let made = self.members[by].commit(Commit { add, update: with_path, ..Default::default() });
        self.members[by].merge();
        self.hear(by, &made.commit);
        let (welcome, tree) = (made.welcome.expect("somebody comes"), self.members[0].ratchet_tree());
        newcomers.iter_mut().for_each(|newcomer| newcomer.join(&welcome, &tree));
        self.members.extend(newcomers);
    }

    fn update(&mut self, by: usize) {
        let made = self.members[by].commit(Commit { update: true, ..Default::default() });
        self.members[by].merge();
        self.hear(by, &made.commit);
    }

    fn remove(&mut self, by: usize, removed: usize) {
        let remove = vec![self.members[removed].public_key()];
        let made = self.members[by].commit(Commit { remove, ..Default::default() });
        self.members[by].merge();
        self.hear(by, &made.commit);
    }

    /// The commit of every member who stays is as long as expected, with what waits and without; `proposals` wait.
    fn compare(&mut self, proposals: &[MlsMessage], leavers: &[PublicKey]) {
        let group = &self.members[0];
        let tree = parse_tree(&group.ratchet_tree()).expect("it is a tree");
        let mut tracked = TrackedGroup::open(&group.group_info(), tree).expect("the group is valid");
        for proposal in proposals {
            let proposal = parse_handshake(proposal).expect("it is public");
            let validated = tracked.validate(proposal, LONGEST_LIFETIME).expect("it is valid");
            let Handshake::Proposal(proposal) = validated else { panic!("it is a proposal") };
            tracked.keep_proposal(*proposal).expect("it is in memory");
        }
        let waiting = tracked.proposals().expect("they are there");
        let paths = tracked.paths(&waiting).expect("the tree is one");
        let leaves: BTreeMap<PublicKey, LeafNodeIndex> = tracked
            .leaves()
            .map(|(leaf, node)| (PublicKey::try_from(node.signature_key().as_slice()).unwrap(), leaf))
            .collect();
        assert_eq!(paths.len(), leaves.len() - leavers.len());
        let count = self.members.len();
        let references: Vec<_> = waiting.iter().collect();
        for member in self.members.iter_mut().filter(|member| !leavers.contains(&member.public_key())) {
            let leaf = leaves[&member.public_key()];
            let frame = tracked.try_commit(leaf, &references).expect("it can be committed");
            let made = member.commit(Commit { update: true, ..Default::default() }).commit.as_bytes().len();
            member.drop_commit();
            let expected = frame + paths[&leaf];
            // A leaf may have the hash of its parent already, or none above it.
            assert!((made..=made + 66).contains(&expected), "{expected} for {made} of {count}");
            assert!(path::largest_commit(self.suite, count, 4096) >= made, "{made} of {count}");
        }
    }
}

fn newcomer(suite: Ciphersuite) -> Party {
    let mut party = Party::newcomer();
    if suite != SUITE {
        party.set_suite(suite, Library::Libcrux.crypto());
    }
    party
}

#[test]
fn commits_are_as_long_as_their_tree_says_whichever_nodes_are_blank() {
    let xwing = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;
    for (suite, rounds) in [(SUITE, 40), (xwing, 8)] {
        let mut chance = StdRng::seed_from_u64(13);
        let mut circle = Circle::found(suite);
        circle.compare(&[], &[]);
        circle.add(0, 12, false);
        circle.compare(&[], &[]);
        for _ in 0..rounds {
            let by = chance.random_range(0..circle.members.len());
            let others: Vec<_> = (0..circle.members.len()).filter(|other| *other != by).collect();
            let other = others.choose(&mut chance).copied();
            match (chance.random_range(0..5), other) {
                (0, Some(other)) if circle.members.len() > 3 => circle.remove(by, other),
                (1, _) if circle.members.len() < 20 => circle.add(by, 2, chance.random()),
                _ => circle.update(by),
            }
            circle.compare(&[], &[]);
        }
        // One renews its leaf, and two leave.
        let renewed = circle.members[0].propose_update();
        circle.hear(0, &renewed);
        let mut proposals = vec![renewed];
        let mut leavers = Vec::new();
        for leaver in [1, 2] {
            let leaving = circle.members[leaver].self_remove();
            circle.hear(leaver, &leaving);
            proposals.push(leaving);
            leavers.push(circle.members[leaver].public_key());
        }
        // A member that proposed an Update leaves it out, and is not asked here.
        let renewing = circle.members.remove(0);
        circle.compare(&proposals, &leavers);
        drop(renewing);
    }
}
