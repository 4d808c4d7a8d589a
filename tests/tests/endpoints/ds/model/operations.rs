//! Members' operations, each in a row of one table. Those that are right, or would be for another member, are made here.

use openmls::prelude::{Extensions, LeafNode};
use postern_protocol::{
    Address,
    key::SigningKey,
    mls::{GroupPolicy, Pseudonym, UserKey},
    name::Domain,
};
use postern_tests_kit::{Commit, Made, Party, fresh_address, home, leaf_extensions};
use rand::Rng as _;
use tls_codec::Serialize as _;

use super::{
    Expected, HOMESERVER_BLOCKED, INVALID, VIOLATION, Waiting,
    mistakes::{
        add_anothers_client, add_unlimited, add_without_welcome, add_wrong_leaf, broken_commit,
        change_pseudonym, come_back_at, come_back_to_anothers_address, come_back_with_another_user_key,
        commit_late, commit_to_another_history, commit_too_early, forge_commit, forge_proposal,
        join_as_user_key, join_late, join_unvouched, join_vouched_by_another, leave_by_remove, propose_leaf,
        propose_to_take_key, propose_with_group_info, say_late, say_with_welcome, send_anothers_commit,
        send_strangers_commit, someones_address, take_key, use_another_state_key,
    },
    play::{Attempt, BLOCKED, Done, Effect, Play, Turn, User, domain},
    proposals::{
        propose_bytes, propose_leaf_key, propose_next_user_key, propose_to_add, propose_to_add_client,
        propose_to_move, propose_to_remove, propose_to_remove_client,
    },
};

pub struct Operation {
    pub name: &'static str,
    pub needs: Needs,
    /// Makes the message; `None` where that is not possible now.
    pub make: fn(&mut Play<'_>, &mut Turn) -> Option<Attempt>,
}

/// The preconditions, and the data that is fetched before.
pub enum Needs {
    Nothing,
    /// Room in the group, and somebody who is in none.
    Newcomer,
    /// The same, and the group's public state, as the member's user gets it.
    Join,
    /// The group's public state, as the member gets it.
    GroupInfo,
    /// Another address of the member's.
    Address,
}

const fn row(
    name: &'static str,
    needs: Needs,
    make: fn(&mut Play<'_>, &mut Turn) -> Option<Attempt>,
) -> Operation {
    Operation { name, needs, make }
}

pub const OPERATIONS: [Operation; 81] = [
    // The sender's right to it, and what waits, decide.
    row("say", Needs::Nothing, say),
    row("update", Needs::Nothing, |play, turn| update_leaf(play, turn, false)),
    row("update alone", Needs::Nothing, |play, turn| update_leaf(play, turn, true)),
    row("add a user", Needs::Newcomer, add_user),
    row("add a client", Needs::Newcomer, add_client),
    row("remove a user", Needs::Nothing, |play, turn| remove_user(play, turn, false)),
    row("remove a client", Needs::Nothing, |play, turn| remove_client(play, turn, true)),
    row("promote", Needs::Nothing, |play, turn| govern(play, turn, true)),
    row("demote", Needs::Nothing, |play, turn| govern(play, turn, false)),
    row("leave", Needs::Nothing, |play, turn| propose(play, turn, Waiting::Leaves)),
    row("propose an update", Needs::Nothing, |play, turn| propose(play, turn, Waiting::Updates)),
    row("propose to move", Needs::Address, propose_to_move),
    row("propose the next user key", Needs::Nothing, propose_next_user_key),
    row("propose another leaf key", Needs::Nothing, propose_leaf_key),
    row("join", Needs::Join, join),
    row("come back", Needs::GroupInfo, come_back),
    row("come back and let all lapse", Needs::GroupInfo, come_back_alone),
    row("join and let all lapse", Needs::Join, join_alone),
    row("move to another homeserver", Needs::Address, move_elsewhere),
    row("repeat", Needs::Nothing, repeat),
    row("repeat a proposal", Needs::Nothing, repeat_proposal),
    // The wrong epoch.
    row("commit late", Needs::Nothing, commit_late),
    row("say late", Needs::Nothing, say_late),
    row("join late", Needs::GroupInfo, join_late),
    row("commit too early", Needs::Nothing, commit_too_early),
    row("commit to another history", Needs::Nothing, commit_to_another_history),
    // The wrong sender, or the wrong key.
    row("forge a commit", Needs::Nothing, forge_commit),
    row("send another's commit", Needs::Nothing, send_anothers_commit),
    row("send a stranger's commit", Needs::Nothing, send_strangers_commit),
    row("use another state key", Needs::Nothing, use_another_state_key),
    row("forge a proposal", Needs::Nothing, forge_proposal),
    row("join unvouched", Needs::Join, join_unvouched),
    row("join vouched by another", Needs::Join, join_vouched_by_another),
    row("join with the user key as leaf key, unvouched", Needs::GroupInfo, join_as_user_key),
    row("come back with another user key", Needs::GroupInfo, come_back_with_another_user_key),
    // The wrong GroupInfo or Welcome.
    row("commit without GroupInfo", Needs::Nothing, |play, turn| {
        broken_commit(play, turn, |_, made| Some(Made { group_info: None, ..made }))
    }),
    row("commit with an old GroupInfo", Needs::Nothing, |play, turn| {
        broken_commit(play, turn, |play, made| {
            Some(Made { group_info: Some(play.old_info.clone()?), ..made })
        })
    }),
    row("commit with a foreign GroupInfo", Needs::Nothing, |play, turn| {
        broken_commit(play, turn, |play, made| {
            Some(Made { group_info: Some(play.stranger.group_info()), ..made })
        })
    }),
    row("commit with the tree in the GroupInfo", Needs::Nothing, |play, turn| {
        play.wrong_commit(turn.by, Commit { tree_in_group_info: true, ..update() }, INVALID)
    }),
    row("add without Welcome", Needs::Nothing, add_without_welcome),
    row("commit with an old Welcome", Needs::Nothing, |play, turn| {
        broken_commit(play, turn, |play, made| {
            Some(Made { welcome: Some(play.old_welcome.clone()?), ..made })
        })
    }),
    row("say with a Welcome", Needs::Nothing, say_with_welcome),
    row("propose with a GroupInfo", Needs::Nothing, propose_with_group_info),
    // The wrong KeyPackage or leaf.
    row("add another's client", Needs::Newcomer, add_anothers_client),
    row("add a KeyPackage of unlimited lifetime", Needs::Newcomer, add_unlimited),
    row("add somebody of a blocked homeserver", Needs::Nothing, |play, turn| {
        let expected = if play.model.is_admin(turn.by) { HOMESERVER_BLOCKED } else { VIOLATION };
        add_wrong_leaf(play, turn, expected, |party| party.leaf = party.leaf_at(&blocked(), fresh_address()))
    }),
    row("add a name", Needs::Nothing, |play, turn| {
        add_wrong_leaf(play, turn, INVALID, |party| party.identity = b"alice@home.example".to_vec())
    }),
    row("move to a blocked homeserver", Needs::Nothing, |play, turn| {
        let leaf = Some(leaf_at(play, turn.by, &blocked(), fresh_address()));
        play.wrong_commit(turn.by, Commit { leaf, ..Default::default() }, HOMESERVER_BLOCKED)
    }),
    row("come back at a blocked homeserver", Needs::GroupInfo, |play, turn| {
        come_back_at(play, turn, &blocked(), fresh_address(), HOMESERVER_BLOCKED)
    }),
    row("lose the address", Needs::Nothing, |play, turn| {
        play.wrong_commit(turn.by, Commit { leaf: Some(Extensions::empty()), ..Default::default() }, INVALID)
    }),
    row("add two users as one", Needs::Nothing, |play, turn| {
        let (newcomer, mut other) = (Party::newcomer(), Party::newcomer());
        other.identity.clone_from(&newcomer.identity);
        let key = UserKey { generation: 1, public_key: SigningKey::generate().public_key() };
        other.leaf = leaf_extensions(&home(), fresh_address(), Some(key));
        let add = vec![newcomer.key_package(), other.key_package()];
        play.wrong_commit(turn.by, Commit { add, ..Default::default() }, VIOLATION)
    }),
    row("add another's address", Needs::Nothing, |play, turn| {
        let (domain, address) = someones_address(play, turn)?;
        let mut newcomer = Party::newcomer();
        newcomer.leaf = newcomer.leaf_at(&domain, address);
        let add = vec![newcomer.key_package()];
        play.wrong_commit(turn.by, Commit { add, ..Default::default() }, VIOLATION)
    }),
    row("move to another's address", Needs::Nothing, |play, turn| {
        let (domain, address) = someones_address(play, turn)?;
        let leaf = Some(play.group.party(turn.by).leaf_at(&domain, address));
        play.wrong_commit(turn.by, Commit { leaf, ..Default::default() }, VIOLATION)
    }),
    row("come back to another's address", Needs::GroupInfo, come_back_to_anothers_address),
    row("take another's key", Needs::Nothing, take_key),
    row("propose to take another's key", Needs::Nothing, propose_to_take_key),
    row("take another's pseudonym", Needs::Nothing, |play, turn| {
        let other = turn.foreigner()?;
        let identity = play.group.pseudonym(other);
        change_pseudonym(play, turn, identity)
    }),
    row("change the pseudonym", Needs::Nothing, |play, turn| {
        change_pseudonym(play, turn, Pseudonym::random())
    }),
    // Proposals that no commit could take along.
    row("propose another pseudonym", Needs::Nothing, |play, turn| {
        propose_leaf(play, turn, VIOLATION, |party, _| {
            party.propose_leaf(None, Some(Pseudonym::random().0.to_vec()), None)
        })
    }),
    row("propose another's pseudonym", Needs::Nothing, |play, turn| {
        let other = turn.foreigner()?;
        let identity = play.group.pseudonym(other).0.to_vec();
        propose_leaf(play, turn, VIOLATION, |party, _| party.propose_leaf(None, Some(identity), None))
    }),
    row("propose another user key", Needs::Nothing, |play, turn| {
        let generation = play.users_key(turn.by).1;
        propose_leaf(play, turn, VIOLATION, |party, address| {
            let key = UserKey { generation, public_key: SigningKey::generate().public_key() };
            party.propose_leaf(Some(leaf_extensions(&home(), address, Some(key))), None, None)
        })
    }),
    row("propose to lose the address", Needs::Nothing, |play, turn| {
        propose_leaf(play, turn, INVALID, |party, _| {
            party.propose_leaf(Some(Extensions::empty()), None, None)
        })
    }),
    row("propose to move to a blocked homeserver", Needs::Nothing, |play, turn| {
        let leaf = leaf_at(play, turn.by, &blocked(), fresh_address());
        propose_leaf(play, turn, HOMESERVER_BLOCKED, |party, _| party.propose_leaf(Some(leaf), None, None))
    }),
    row("propose to move to another's address", Needs::Nothing, |play, turn| {
        let (domain, address) = someones_address(play, turn)?;
        propose_leaf(play, turn, VIOLATION, |party, _| {
            let leaf = party.leaf_at(&domain, address);
            party.propose_leaf(Some(leaf), None, None)
        })
    }),
    row("propose to be unable to leave", Needs::Nothing, |play, turn| {
        propose_leaf(play, turn, INVALID, |party, _| {
            let proposals = std::mem::take(&mut party.proposals);
            let unable = party.capabilities();
            party.proposals = proposals;
            party.propose_leaf(None, None, Some(unable))
        })
    }),
    row("leave by a Remove", Needs::Nothing, leave_by_remove),
    // Something nobody may.
    row("remove a part of a user", Needs::Nothing, |play, turn| remove_user(play, turn, true)),
    row("remove a client and keep the key", Needs::Nothing, |play, turn| remove_client(play, turn, false)),
    row("propose to add", Needs::Nothing, propose_to_add),
    row("propose to add an own client", Needs::Nothing, propose_to_add_client),
    row("propose to remove", Needs::Nothing, propose_to_remove),
    row("propose to remove an own client", Needs::Nothing, propose_to_remove_client),
    row("propose another context", Needs::Nothing, |play, turn| {
        let extensions = play.group.context(&play.group.policy);
        let extensions = extensions.tls_serialize_detached().expect("it serialises into memory");
        propose_bytes(play, turn, 7, &extensions)
    }),
    row("propose an empty context", Needs::Nothing, |play, turn| propose_bytes(play, turn, 7, &[0])),
    // An external one (type 1) with an id, and a nonce of the hash's length.
    row("propose a pre-shared key", Needs::Nothing, |play, turn| {
        propose_bytes(play, turn, 4, &[vec![1, 2, 7, 7, 32], vec![7; 32]].concat())
    }),
    // Another id, version, ciphersuite, no extensions.
    row("propose to start anew", Needs::Nothing, |play, turn| {
        propose_bytes(play, turn, 5, &[vec![16], vec![7; 16], vec![0, 1, 0, 1, 0]].concat())
    }),
    row("propose an ExternalInit", Needs::Nothing, |play, turn| {
        propose_bytes(play, turn, 6, &[vec![32], vec![7; 32]].concat())
    }),
    row("propose something of a private type", Needs::Nothing, |play, turn| {
        propose_bytes(play, turn, 0xf0a7, &[2, 7, 7])
    }),
    row("change the state secret", Needs::Nothing, |play, turn| {
        let admins = play.group.policy.admins.clone();
        let policy = GroupPolicy { admins, ..GroupPolicy::new(Pseudonym::random()) };
        let context = Some(play.group.context(&policy));
        play.wrong_commit(turn.by, Commit { context, ..Default::default() }, VIOLATION)
    }),
    row("drop the policy", Needs::Nothing, |play, turn| {
        let context = Some(Extensions::empty());
        play.wrong_commit(turn.by, Commit { context, ..Default::default() }, INVALID)
    }),
    row("delete the group", Needs::Nothing, |play, turn| {
        let deletion = play.group.deletion(turn.by);
        (!turn.foreign.is_empty()).then_some(Attempt {
            call: deletion,
            expected: VIOLATION,
            effect: Effect::Nothing,
        })
    }),
];

pub fn update() -> Commit {
    Commit { update: true, ..Default::default() }
}

fn blocked() -> Domain {
    BLOCKED.parse().expect("it is a domain")
}

/// A leaf of a member there, with its user's key.
pub fn leaf_at(play: &Play<'_>, by: usize, domain: &Domain, address: Address) -> Extensions<LeafNode> {
    leaf_extensions(domain, address, Some(play.group.members[by].party.users_key()))
}

fn say(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    // openmls says nothing while proposals wait (RFC 9420 §12.4).
    if !play.model.waiting.is_empty() {
        return None;
    }
    let said = play.group.party(turn.by).say(b"something");
    let call = play.group.submit(turn.by, &said, None);
    let (expected, readers) = play.model.words(turn.by, play.model.epoch);
    Some(Attempt { call, expected, effect: Effect::Words { by: turn.by, readers } })
}

fn update_leaf(play: &mut Play<'_>, turn: &mut Turn, alone: bool) -> Option<Attempt> {
    let by = turn.by;
    let others_wait = play.model.waiting.iter().any(|(who, what)| *who != by || *what == Waiting::Leaves);
    let expected = if alone && others_wait { VIOLATION } else { play.model.commit(by) };
    let made = play.make(by, Commit { alone, ..update() });
    let done = Done::Renewed { group_info: made.group_info.clone() };
    Some(play.commit(by, &made, expected, Vec::new(), done))
}

fn add_user(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (by, newcomer) = (turn.by, turn.newcomer());
    let made = play.make(by, Commit { add: vec![newcomer.party.key_package()], ..Default::default() });
    let expected = play.model.allowed(by, play.model.is_admin(by));
    let done = Done::Added { newcomer, user: User::New, welcome: made.welcome.clone() };
    Some(play.commit(by, &made, expected, Vec::new(), done))
}

fn add_client(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    add_client_of(play, turn, turn.by, true)
}

pub fn add_client_of(play: &mut Play<'_>, turn: &mut Turn, of: usize, right: bool) -> Option<Attempt> {
    let (by, client) = (turn.by, play.as_client_of(turn.newcomer(), of));
    let made = play.make(by, Commit { add: vec![client.party.key_package()], ..Default::default() });
    let expected = play.model.allowed(by, right);
    let done = Done::Added { newcomer: client, user: User::Of(of), welcome: None };
    Some(play.commit(by, &made, expected, Vec::new(), done))
}

fn remove_user(play: &mut Play<'_>, turn: &mut Turn, part: bool) -> Option<Attempt> {
    let (by, target) = (turn.by, turn.foreigner()?);
    let clients = play.model.clients(play.model.user[target]);
    let staying: Vec<_> = clients.iter().copied().filter(|client| !play.model.leaves(*client)).collect();
    if part && staying.len() < 2 {
        return None;
    }
    let removed = if part { vec![staying[0]] } else { clients };
    let remove = removed.iter().map(|client| play.group.key(*client)).collect();
    // A member that leaves is not removed, but taken along.
    let by_value = removed.iter().any(|client| !play.model.leaves(*client));
    let right = play.model.is_admin(by) || !by_value && !play.model.leaves(by);
    let expected = if part { VIOLATION } else { play.model.allowed(by, right) };
    let made = play.make(by, Commit { remove, update: true, ..Default::default() });
    Some(play.commit(by, &made, expected, removed, Done::Nothing))
}

fn remove_client(play: &mut Play<'_>, turn: &mut Turn, cycles: bool) -> Option<Attempt> {
    let by = turn.by;
    let staying: Vec<_> = turn.own.iter().copied().filter(|client| !play.model.leaves(*client)).collect();
    let target = turn.pick(&staying)?;
    let (domain, address) = (play.group.members[by].domain.clone(), play.group.members[by].address);
    let party = play.group.party(by);
    let old = (party.user.clone(), party.generation);
    if cycles {
        party.user = SigningKey::generate();
        party.generation += 1;
    }
    let leaf = Some(party.leaf_at(&domain, address));
    let new = (party.user.clone(), party.generation);
    play.keys.push(new.0.clone());
    let remove = vec![play.group.key(target)];
    let made = play.make(by, Commit { remove, leaf, ..Default::default() });
    // Also where the client that brought the user's last key is gone, and the key with it.
    let expected = play.model.allowed(by, cycles);
    Some(play.commit(by, &made, expected, vec![target], Done::Rekeyed { old, new }))
}

/// Makes a user an admin, or no admin any more.
fn govern(play: &mut Play<'_>, turn: &mut Turn, promote: bool) -> Option<Attempt> {
    let members = turn.members.clone();
    let (by, target) = (turn.by, turn.pick(&members)?);
    let (user, mut admins) = (play.model.user[target], play.model.admins.clone());
    let changed = if promote { admins.insert(user) } else { admins.remove(&user) };
    if !changed {
        return None;
    }
    let pseudonym = play.group.pseudonym(target);
    let mut list: Vec<Pseudonym> = play.group.policy.admins.clone();
    list.retain(|admin| *admin != pseudonym);
    if promote {
        list.push(pseudonym);
    }
    let policy = play.group.policy_with(list);
    let context = Some(play.group.context(&policy));
    let made = play.make(by, Commit { context, ..Default::default() });
    let right = play.model.is_admin(by) && play.model.has_admin(&admins, &[]);
    let expected = play.model.allowed(by, right);
    Some(play.commit(by, &made, expected, Vec::new(), Done::Governed { admins, policy }))
}

fn propose(play: &mut Play<'_>, turn: &mut Turn, waits: Waiting) -> Option<Attempt> {
    let (by, leaves) = (turn.by, waits == Waiting::Leaves);
    let before = play.group.party(by).waiting();
    let party = play.group.party(by);
    let proposal = if leaves { party.self_remove() } else { party.propose_update() };
    let again = play.model.leaves(by) || !leaves && play.model.waits(by, Waiting::Updates);
    let last = leaves && !play.model.has_admin(&play.model.admins, &[by]);
    let call = play.group.submit(by, &proposal, None);
    if leaves && play.model.leaves(by) {
        // It has the same bytes as the first one, which gets its answer again.
        return Some(Attempt { call, expected: None, effect: Effect::Repeat });
    }
    let expected = if again || last { VIOLATION } else { None };
    Some(Attempt { call, expected, effect: Effect::Proposal { by, before, waits, renewal: None } })
}

fn repeat_proposal(play: &mut Play<'_>, _: &mut Turn) -> Option<Attempt> {
    let (by, call, epoch) = play.last_proposal.clone()?;
    let expected = if epoch == play.model.epoch { None } else { play.model.late(by) };
    Some(Attempt { call, expected, effect: Effect::Repeat })
}

fn join(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let user = play.users_key(turn.by).0;
    // An older key vouches for nobody once a newer one is gone.
    let expected = if play.has_users_key(turn.by) { None } else { VIOLATION };
    join_with(play, turn, Some(user), expected)
}

pub fn join_with(
    play: &mut Play<'_>,
    turn: &mut Turn,
    voucher: Option<SigningKey>,
    expected: Expected,
) -> Option<Attempt> {
    let of = turn.by;
    let mut client = play.as_client_of(turn.newcomer(), of);
    (client.party.user, client.party.generation) = play.users_key(of);
    client.party.leaf = client.party.leaf_at(&client.domain, client.address);
    let current = turn.current();
    let lapses = current.proposals.is_empty();
    let made = client.party.join_externally(&current, voucher.as_ref());
    let call = play.group.submit_commit(&client.party.key, &made);
    Some(Attempt { call, expected, effect: Effect::Join { client, of, lapses } })
}

/// Without those who leave, though they asked to be taken along.
fn join_alone(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    turn.current.as_mut()?.proposals.clear();
    join(play, turn)
}

fn come_back(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if play.model.leaves(turn.by) {
        return None;
    }
    come_back_with(play, turn)
}

/// Also for somebody who proposed to leave, and stays.
fn come_back_alone(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    turn.current.as_mut()?.proposals.clear();
    come_back_with(play, turn)
}

fn move_elsewhere(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (by, address) = (turn.by, turn.address.take()?);
    let domain = domain(turn.rng.random_range(0..10));
    let leaf = Some(leaf_at(play, by, &domain, address));
    let made = play.make(by, Commit { leaf, ..Default::default() });
    Some(play.commit(by, &made, play.model.commit(by), Vec::new(), Done::Moved { domain, address }))
}

fn come_back_with(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (by, current) = (turn.by, turn.current());
    let lapses = current.proposals.is_empty();
    let made = play.group.party(by).join_externally(&current, None);
    Some(Attempt { call: play.call(by, &made), expected: None, effect: Effect::Return { by, lapses } })
}

fn repeat(play: &mut Play<'_>, _: &mut Turn) -> Option<Attempt> {
    Some(Attempt { call: play.last.clone()?, expected: None, effect: Effect::Repeat })
}
