//! Every right and every refusal, case by case.

use postern_protocol::{Address, mls::UserKey};

use super::super::roster::LeafRecord;
use super::*;

const ALICE: Pseudonym = Pseudonym([1; 16]);
const BOB: Pseudonym = Pseudonym([2; 16]);
const CAROL: Pseudonym = Pseudonym([3; 16]);
const DAVE: Pseudonym = Pseudonym([4; 16]);
const ERIN: Pseudonym = Pseudonym([5; 16]);

/// Leaves: Alice, who is admin, has one; Bob has two; Carol has one.
const A: u32 = 0;
const B1: u32 = 1;
const B2: u32 = 2;
const C: u32 = 3;
/// The first free leaf.
const FREE: u32 = 4;

fn user_key(user: Pseudonym, generation: u32) -> UserKey {
    UserKey {
        generation,
        public_key: PublicKey::new([100 + user.0[0] + u8::try_from(generation).unwrap() * 10; 32]),
    }
}

fn leaf_key(leaf: u32) -> PublicKey {
    PublicKey::new([u8::try_from(leaf).unwrap(); 32])
}

fn member(leaf: u32, pseudonym: Pseudonym) -> Member {
    Member {
        leaf,
        pseudonym,
        signature_key: leaf_key(leaf),
        address: Address::new([u8::try_from(leaf).unwrap(); 32]),
        domain: None,
        user_key: Some(user_key(pseudonym, 0)),
        record: LeafRecord::new(None, 0, 0),
    }
}

/// A commit in a group as above. The state after it follows from the commit, unless a test changes it.
#[derive(Clone)]
struct Scene {
    policy: GroupPolicy,
    members: Vec<Member>,
    waiting: Vec<Proposed>,
    commit: Commit,
    next_policy: GroupPolicy,
    next_members: Vec<Member>,
}

fn scene(by: Actor, changes: &[Change], waiting: &[Proposed]) -> Scene {
    let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
    let members = vec![member(A, ALICE), member(B1, BOB), member(B2, BOB), member(C, CAROL)];
    let voucher = matches!(by, Actor::Joiner(_)).then(|| user_key(BOB, 0).public_key);
    let takes = vec![true; waiting.len()];
    let commit = Commit { by, voucher, changes: changes.to_vec(), takes };
    let removed = commit.removes(waiting);
    let mut next_members: Vec<_> =
        members.iter().filter(|member| !removed.contains(&member.leaf)).cloned().collect();
    let mut free = FREE..;
    for change in changes {
        if let Change::Add(pseudonym) = change {
            next_members.push(member(free.next().unwrap(), *pseudonym));
        }
    }
    if let Actor::Joiner(leaf) = by {
        next_members.push(member(leaf, BOB));
    }
    next_members.sort_by_key(|member| member.leaf);
    Scene { next_policy: policy.clone(), policy, members, waiting: waiting.to_vec(), commit, next_members }
}

impl Scene {
    fn judge(&self) -> Result<Vec<Operation>, Violation> {
        let (before, after) = (Roster::new(self.members.clone()), Roster::new(self.next_members.clone()));
        let before = View { policy: &self.policy, roster: &before };
        let after = View { policy: &self.next_policy, roster: &after };
        check_commit(before, &self.waiting, &self.commit, after)
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Changes a leaf of the state after the commit.
    fn with_next(self, leaf: u32, change: impl FnOnce(&mut Member)) -> Self {
        self.with(|scene| {
            change(scene.next_members.iter_mut().find(|member| member.leaf == leaf).unwrap());
        })
    }

    /// Leaves out a proposal that waits: a member that it would remove stays.
    fn leaving_out(self, place: usize) -> Self {
        self.with(|scene| {
            scene.commit.takes[place] = false;
            let removed = scene.commit.removes(&scene.waiting);
            for member in &scene.members {
                let is_in = scene.next_members.iter().any(|next| next.leaf == member.leaf);
                if !is_in && !removed.contains(&member.leaf) {
                    scene.next_members.push(member.clone());
                }
            }
            scene.next_members.sort_by_key(|member| member.leaf);
        })
    }
}

const fn by(leaf: u32) -> Actor {
    Actor::Member(leaf)
}

const fn proposed(by: Actor, change: Change) -> Proposed {
    Proposed { by, change }
}

const BOB_LEAVES: Proposed = proposed(by(B2), Change::SelfRemove);
const BOB_UPDATES: Proposed = proposed(by(B2), Change::Update);
const CAROL_IS_TO_GO: Proposed = proposed(Actor::Server, Change::Remove(C));
const JOINS: Actor = Actor::Joiner(FREE);

fn cycled(scene: Scene, leaf: u32) -> Scene {
    scene.with_next(leaf, |member| member.user_key = Some(user_key(member.pseudonym, 1)))
}

/// Without the signature of the user's key.
fn unvouched(scene: Scene) -> Scene {
    scene.with(|scene| scene.commit.voucher = None)
}

type Case = (&'static str, Scene, Result<Vec<Operation>, Violation>);

#[test]
fn who_may_commit_what() {
    use Change::{Add, Context, ExternalInit, Other, Remove, SelfRemove};
    use Operation as O;
    use Violation as V;
    let cases: Vec<Case> = vec![
        ("an update", scene(by(C), &[], &[]), Ok(vec![])),
        // Users.
        ("an admin adds a user", scene(by(A), &[Add(DAVE)], &[]), Ok(vec![O::AddUser])),
        ("two users", scene(by(A), &[Add(DAVE), Add(ERIN)], &[]), Ok(vec![O::AddUser, O::AddUser])),
        ("one user by two clients", scene(by(A), &[Add(DAVE), Add(DAVE)], &[]), Err(V::PseudonymTaken)),
        ("a member adds a user", scene(by(C), &[Add(DAVE)], &[]), Err(V::AddByMember)),
        ("an admin adds another's client", scene(by(A), &[Add(BOB)], &[]), Err(V::PseudonymTaken)),
        (
            "an admin adds somebody as an admin that left",
            scene(by(A), &[Add(ERIN)], &[]).with(|scene| scene.policy.admins.push(ERIN)),
            Err(V::PseudonymTaken),
        ),
        ("an admin removes a user", scene(by(A), &[Remove(C)], &[]), Ok(vec![O::RemoveUser])),
        (
            "an admin removes a user with two clients",
            scene(by(A), &[Remove(B1), Remove(B2)], &[]),
            Ok(vec![O::RemoveUser, O::RemoveUser]),
        ),
        ("an admin removes one of the two", scene(by(A), &[Remove(B1)], &[]), Err(V::PartOfUser)),
        ("a member removes a user", scene(by(B1), &[Remove(C)], &[]), Err(V::RemoveByMember)),
        ("a member removes the admin", scene(by(C), &[Remove(A)], &[]), Err(V::RemoveByMember)),
        // Clients of one's own.
        ("a member adds a client of its own", scene(by(B1), &[Add(BOB)], &[]), Ok(vec![O::AddClient])),
        (
            "a member removes a client of its own",
            cycled(scene(by(B1), &[Remove(B2)], &[]), B1),
            Ok(vec![O::RemoveClient]),
        ),
        ("and keeps the user's key", scene(by(B1), &[Remove(B2)], &[]), Err(V::UserKeyKept)),
        (
            "a new client with another key",
            scene(by(B1), &[Add(BOB)], &[]).with_next(FREE, |new| {
                new.user_key = Some(UserKey { generation: 0, ..user_key(DAVE, 0) });
            }),
            Err(V::UserKeyChanged),
        ),
        (
            "a new client without a key yet",
            scene(by(B1), &[Add(BOB)], &[]).with_next(FREE, |new| new.user_key = None),
            Ok(vec![O::AddClient]),
        ),
        // The user's key.
        (
            "a first commit sets the key",
            scene(by(C), &[], &[]).with(|scene| scene.members[3].user_key = None),
            Ok(vec![]),
        ),
        (
            "a first commit without a key",
            scene(by(C), &[], &[])
                .with(|scene| scene.members[3].user_key = None)
                .with_next(C, |carol| carol.user_key = None),
            Err(V::NoUserKey),
        ),
        (
            "a second client needs none of its own",
            scene(by(B2), &[], &[])
                .with(|scene| scene.members[2].user_key = None)
                .with_next(B2, |bob| bob.user_key = None),
            Ok(vec![]),
        ),
        ("a new generation", cycled(scene(by(C), &[], &[]), C), Ok(vec![])),
        (
            "another key in the same generation",
            scene(by(C), &[], &[]).with_next(C, |carol| carol.user_key = Some(user_key(DAVE, 0))),
            Err(V::UserKeyChanged),
        ),
        (
            "an older generation",
            cycled(scene(by(C), &[], &[]), C).with(|scene| {
                std::mem::swap(&mut scene.members, &mut scene.next_members);
            }),
            Err(V::UserKeyChanged),
        ),
        (
            "the client with the newest key leaves",
            scene(by(A), &[], &[BOB_LEAVES]).with(|scene| scene.members[2].user_key = Some(user_key(BOB, 1))),
            Ok(vec![]),
        ),
        (
            "no key any more",
            scene(by(C), &[], &[]).with_next(C, |carol| carol.user_key = None),
            Err(V::UserKeyChanged),
        ),
        // The context.
        ("an admin changes the context", scene(by(A), &[Context], &[]), Ok(vec![O::ChangeContext])),
        ("a member changes the context", scene(by(C), &[Context], &[]), Err(V::ContextByMember)),
        (
            "an admin changes the secret",
            scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.state_secret = [9; 32]),
            Err(V::StateSecretChanged),
        ),
        (
            "an admin hands over",
            scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![CAROL]),
            Ok(vec![O::ChangeContext]),
        ),
        (
            "an admin hands over to nobody",
            scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![]),
            Err(V::NoAdminLeft),
        ),
        (
            "to somebody who is not in the group",
            scene(by(A), &[Context], &[]).with(|scene| scene.next_policy.admins = vec![DAVE]),
            Err(V::NoAdminLeft),
        ),
        (
            "to somebody who leaves with this commit",
            scene(by(A), &[Context], &[proposed(by(C), SelfRemove)])
                .with(|scene| scene.next_policy.admins = vec![CAROL]),
            Err(V::NoAdminLeft),
        ),
        // Leaves.
        (
            "a leaf changes its pseudonym",
            scene(by(C), &[], &[]).with_next(C, |carol| carol.pseudonym = DAVE),
            Err(V::PseudonymChanged),
        ),
        (
            "a newcomer in the place of a removed member",
            scene(by(A), &[Remove(C), Add(DAVE)], &[]).with_next(FREE, |dave| dave.leaf = C),
            Ok(vec![O::RemoveUser, O::AddUser]),
        ),
        // Proposals that are never accepted.
        ("a pre-shared key", scene(by(A), &[Other], &[]), Err(V::ProposalType)),
        ("an ExternalInit of a member", scene(by(A), &[ExternalInit], &[]), Err(V::ProposalType)),
        ("a SelfRemove by value", scene(by(C), &[SelfRemove], &[]), Err(V::NoUserKey)),
        // Proposals that wait.
        ("taken along", scene(by(A), &[], &[BOB_LEAVES, BOB_UPDATES]), Ok(vec![])),
        ("by a member, as it is not the member's doing", scene(by(B1), &[], &[CAROL_IS_TO_GO]), Ok(vec![])),
        ("an update left out", scene(by(A), &[], &[BOB_UPDATES]).leaving_out(0), Err(V::ProposalOmitted)),
        (
            "a leaver left out",
            scene(by(A), &[], &[BOB_UPDATES, proposed(by(C), SelfRemove)]).leaving_out(1),
            Err(V::ProposalOmitted),
        ),
        (
            "a proposed removal left out",
            scene(by(A), &[], &[CAROL_IS_TO_GO]).leaving_out(0),
            Err(V::ProposalOmitted),
        ),
        (
            "a proposed removal done by value",
            scene(by(A), &[Remove(C)], &[CAROL_IS_TO_GO]).leaving_out(0),
            Ok(vec![O::RemoveUser]),
        ),
        (
            "an update of a removed member",
            scene(by(A), &[Remove(B1), Remove(B2)], &[BOB_UPDATES]).leaving_out(0),
            Ok(vec![O::RemoveUser, O::RemoveUser]),
        ),
        ("the committer's own update", scene(by(B2), &[], &[BOB_UPDATES]).leaving_out(0), Ok(vec![])),
        ("a leaver commits", scene(by(B2), &[], &[BOB_LEAVES]).leaving_out(0), Err(V::CommitterLeaves)),
        (
            "a member whose removal is proposed commits",
            scene(by(C), &[], &[CAROL_IS_TO_GO]).leaving_out(0),
            Err(V::CommitterLeaves),
        ),
        // External commits.
        ("a client of Bob's joins", scene(JOINS, &[ExternalInit], &[]), Ok(vec![O::Join])),
        (
            "signed by another user's key",
            scene(JOINS, &[ExternalInit], &[])
                .with(|scene| scene.commit.voucher = Some(user_key(CAROL, 0).public_key)),
            Err(V::UnknownJoiner),
        ),
        (
            "signed by a leaf of Bob's that stays",
            scene(JOINS, &[ExternalInit], &[]).with(|scene| scene.commit.voucher = Some(leaf_key(B1))),
            Err(V::UnknownJoiner),
        ),
        ("signed by nobody", unvouched(scene(JOINS, &[ExternalInit], &[])), Err(V::UnknownJoiner)),
        (
            "with the user's key as its own, which members take for no voucher",
            unvouched(scene(JOINS, &[ExternalInit], &[]))
                .with_next(FREE, |new| new.signature_key = user_key(BOB, 0).public_key),
            Err(V::UnknownJoiner),
        ),
        (
            "a new user joins by itself",
            scene(JOINS, &[ExternalInit], &[]).with_next(FREE, |new| new.pseudonym = DAVE),
            Err(V::UnknownJoiner),
        ),
        (
            "with a user key of its own",
            scene(JOINS, &[ExternalInit], &[]).with_next(FREE, |new| new.user_key = Some(user_key(DAVE, 0))),
            Err(V::UserKeyChanged),
        ),
        (
            "a client of Bob's comes back",
            unvouched(scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[])),
            Ok(vec![O::Join, O::Resync]),
        ),
        (
            "or another one in its place, by the user's key",
            scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[])
                .with_next(B1, |new| new.signature_key = leaf_key(FREE)),
            Ok(vec![O::Join, O::Resync]),
        ),
        (
            "or by nobody",
            unvouched(scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[]))
                .with_next(B1, |new| new.signature_key = leaf_key(FREE)),
            Err(V::UnknownJoiner),
        ),
        (
            "in somebody else's place",
            unvouched(scene(Actor::Joiner(C), &[ExternalInit, Remove(C)], &[])),
            Err(V::ResyncOfAnother),
        ),
        (
            "a client comes back with a newer user key",
            cycled(unvouched(scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[])), B1),
            Ok(vec![O::Join, O::Resync]),
        ),
        (
            "with another one of the same generation",
            unvouched(scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[]))
                .with(|scene| scene.members[1].user_key = Some(user_key(BOB, 1)))
                .with_next(B1, |bob| bob.user_key = Some(user_key(DAVE, 1))),
            Err(V::UserKeyChanged),
        ),
        (
            "with an older one",
            unvouched(scene(Actor::Joiner(B1), &[ExternalInit, Remove(B1)], &[]))
                .with(|scene| scene.members[1].user_key = Some(user_key(BOB, 1))),
            Err(V::UserKeyChanged),
        ),
        (
            "a new client with the leaf key, and not the user key, of one that goes",
            scene(by(B1), &[Add(BOB)], &[proposed(Actor::Server, Remove(B2))])
                .with(|scene| scene.members[2].user_key = Some(user_key(BOB, 1)))
                .with_next(FREE, |new| new.signature_key = leaf_key(B2)),
            Err(V::UserKeyChanged),
        ),
        (
            "a new user with the leaf key of one that goes",
            scene(by(A), &[Remove(C), Add(DAVE)], &[])
                .with_next(FREE, |dave| dave.signature_key = leaf_key(C)),
            Ok(vec![O::RemoveUser, O::AddUser]),
        ),
        ("a joiner adds others", scene(JOINS, &[ExternalInit, Add(DAVE)], &[]), Err(V::ProposalType)),
        ("a joiner takes a leaver along", scene(JOINS, &[ExternalInit], &[BOB_LEAVES]), Ok(vec![O::Join])),
        (
            "a joiner lets all that waits lapse",
            scene(JOINS, &[ExternalInit], &[BOB_LEAVES, BOB_UPDATES, CAROL_IS_TO_GO])
                .leaving_out(0)
                .leaving_out(1)
                .leaving_out(2),
            Ok(vec![O::Join]),
        ),
        (
            "a client whose removal waits comes back",
            scene(Actor::Joiner(B2), &[ExternalInit, Remove(B2)], &[BOB_LEAVES]).leaving_out(0),
            Ok(vec![O::Join, O::Resync]),
        ),
        // Addresses.
        (
            "a leaf that takes another's address",
            scene(by(C), &[], &[]).with_next(C, |carol| carol.address = Address::new([0; 32])),
            Err(V::AddressShared),
        ),
        (
            "a newcomer with another's address",
            scene(by(A), &[Add(DAVE)], &[]).with_next(FREE, |dave| dave.address = Address::new([2; 32])),
            Err(V::AddressShared),
        ),
        (
            "with that of a member that goes",
            scene(by(A), &[Remove(C), Add(DAVE)], &[])
                .with_next(FREE, |dave| dave.address = Address::new([3; 32])),
            Ok(vec![O::RemoveUser, O::AddUser]),
        ),
        (
            "a joiner with another's address",
            scene(JOINS, &[ExternalInit], &[]).with_next(FREE, |new| new.address = Address::new([1; 32])),
            Err(V::AddressShared),
        ),
        (
            "a newcomer with another's address, said to be at another homeserver",
            scene(by(A), &[Add(DAVE)], &[]).with_next(FREE, |dave| {
                dave.address = Address::new([2; 32]);
                dave.domain = Some("b.example".parse().unwrap());
            }),
            Err(V::AddressShared),
        ),
        ("the server commits", scene(Actor::Server, &[Remove(C)], &[]), Err(V::ProposalType)),
    ];
    for (what, scene, expected) in cases {
        assert_eq!(scene.judge(), expected, "{what}");
    }
}

#[test]
fn a_group_ends_when_only_an_admins_clients_are_left() {
    let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
    for (members, by, expected) in [
        (vec![member(A, ALICE)], A, Ok(Operation::Delete)),
        (vec![member(A, ALICE), member(B1, ALICE)], B1, Ok(Operation::Delete)),
        (vec![member(A, ALICE), member(C, CAROL)], A, Err(Violation::NotAlone)),
        (vec![member(C, CAROL)], C, Err(Violation::NotAlone)),
        (vec![member(A, ALICE)], C, Err(Violation::NotAlone)),
    ] {
        let roster = Roster::new(members);
        assert_eq!(check_deletion(View { policy: &policy, roster: &roster }, by), expected);
    }
}

#[test]
fn what_may_be_proposed() {
    use Change::{Add, Context, ExternalInit, Other, Remove, SelfRemove, Update};
    use Operation as O;
    use Violation as V;
    let cases: Vec<(&str, Actor, Change, &[Proposed], Result<Operation, Violation>)> = vec![
        ("a member leaves", by(C), SelfRemove, &[], Ok(O::Leave)),
        ("a member leaves by a Remove", by(C), Remove(C), &[], Err(V::LeavesByRemove)),
        ("a member updates", by(C), Update, &[], Ok(O::Update)),
        ("the server proposes a removal", Actor::Server, Remove(C), &[], Ok(O::ProposeRemoval)),
        (
            "a member leaves when another's proposals wait",
            by(C),
            SelfRemove,
            &[BOB_LEAVES, BOB_UPDATES],
            Ok(O::Leave),
        ),
        ("a member that proposed an update leaves", by(B2), SelfRemove, &[BOB_UPDATES], Ok(O::Leave)),
        ("a leaver updates", by(B2), Update, &[BOB_LEAVES], Err(V::AlreadyProposed)),
        ("a second update", by(B2), Update, &[BOB_UPDATES], Err(V::AlreadyProposed)),
        (
            "the removal of a leaver is proposed",
            Actor::Server,
            Remove(B2),
            &[BOB_LEAVES],
            Err(V::AlreadyProposed),
        ),
        (
            "a member whose removal is proposed leaves",
            by(C),
            SelfRemove,
            &[CAROL_IS_TO_GO],
            Err(V::AlreadyProposed),
        ),
        ("a leaver leaves again", by(B2), SelfRemove, &[BOB_LEAVES], Err(V::AlreadyProposed)),
        ("an admin proposes to add", by(A), Add(DAVE), &[], Err(V::OnlyCommitted)),
        ("a member proposes to add", by(C), Add(DAVE), &[], Err(V::AddByMember)),
        ("an admin proposes to remove", by(A), Remove(C), &[], Err(V::OnlyCommitted)),
        ("a member proposes to remove", by(C), Remove(B1), &[], Err(V::RemoveByMember)),
        ("a member proposes to remove its other client", by(B1), Remove(B2), &[], Err(V::OnlyCommitted)),
        ("an admin proposes another context", by(A), Context, &[], Err(V::OnlyCommitted)),
        ("a member proposes another context", by(C), Context, &[], Err(V::ContextByMember)),
        ("the server adds", Actor::Server, Add(DAVE), &[], Err(V::ProposalType)),
        ("a stranger proposes", Actor::Joiner(FREE), Remove(C), &[], Err(V::OnlyCommitted)),
        ("a pre-shared key", by(A), Other, &[], Err(V::ProposalType)),
        ("an ExternalInit", by(A), ExternalInit, &[], Err(V::ProposalType)),
        ("somebody who is no member", by(FREE), SelfRemove, &[], Err(V::ProposalType)),
    ];
    let scene = scene(by(A), &[], &[]);
    let roster = Roster::new(scene.members.clone());
    let group = View { policy: &scene.policy, roster: &roster };
    for (what, by, change, waiting, expected) in cases {
        assert_eq!(check_proposal(group, waiting, proposed(by, change)), expected, "{what}");
    }
}

#[test]
fn the_next_commit_takes_along_what_waits_and_is_made_by_a_member_that_stays() {
    let policy = GroupPolicy { state_secret: [0; 32], admins: vec![ALICE] };
    let roster = Roster::new(vec![member(A, ALICE), member(B2, BOB), member(C, CAROL)]);
    let group = View { policy: &policy, roster: &roster };
    let next = |waiting: &[Proposed]| next_commit(group, waiting).map(|commit| (commit.by, commit.takes));
    let updates = |leaf| proposed(by(leaf), Change::Update);
    assert_eq!(next(&[]), Some((by(A), vec![])));
    assert_eq!(next(&[BOB_LEAVES, updates(C)]), Some((by(A), vec![true, true])));
    assert_eq!(next(&[updates(A), CAROL_IS_TO_GO]), Some((by(B2), vec![true, true])));
    assert_eq!(next(&[updates(C), CAROL_IS_TO_GO]), Some((by(A), vec![false, true])), "a removed leaf's");
    let all = [updates(A), updates(C), BOB_LEAVES];
    assert_eq!(next(&all), Some((by(A), vec![false, true, true])), "its own");
    let leave = |leaf| proposed(by(leaf), Change::SelfRemove);
    assert_eq!(next(&[leave(A), leave(B2), leave(C)]), None);
}
