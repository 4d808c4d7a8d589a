//! Members' operations that are wrong in one way, in the order of the table: late, another's, forged, with something that
//! does not belong to them, or of a leaf that cannot be.

use ciborium::Value;
use openmls::prelude::Lifetime;
use postern_protocol::{
    Address, MlsMessage, StateKey,
    ds::CurrentGroup,
    mls::{Pseudonym, UserKey},
    name::Domain,
    problem::ProblemType,
};
use postern_tests_kit::{Commit, Made, Party, fresh_address, home, leaf_extensions};
use rand::Rng as _;

use super::{
    Expected, INVALID, VIOLATION, Waiting,
    operations::{add_client_of, join_with, leaf_at, update},
    play::{Attempt, Done, Effect, Play, Turn, User, domain},
};

/// An attempt with a wrong message, which its own maker sends.
pub fn wrong(play: &Play<'_>, by: usize, made: &Made, expected: Expected) -> Option<Attempt> {
    Some(Attempt { call: play.call(by, made), expected, effect: Effect::Nothing })
}

pub fn alone(message: MlsMessage) -> Made {
    Made { commit: message, group_info: None, welcome: None }
}

pub fn commit_late(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if let Some((who, made, epoch)) = play.late.take()
        && epoch < play.model.epoch
    {
        return wrong(play, who, &made, play.model.late(who));
    }
    let made = play.make_and_drop(turn.by, update());
    play.late = Some((turn.by, made, play.model.epoch));
    None
}

pub fn say_late(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if play.late_words.is_empty() {
        return None;
    }
    let place = turn.rng.random_range(0..play.late_words.len());
    let (by, said, epoch) = play.late_words.remove(place);
    let call = play.group.submit(by, &said, None);
    let (expected, readers) = play.model.words(by, epoch);
    Some(Attempt { call, expected, effect: Effect::Words { by, readers } })
}

pub fn join_late(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if let Some((current, epoch)) = play.late_info.take()
        && epoch < play.model.epoch
    {
        let member = &play.group.members[turn.by].party;
        let mut client = Party::newcomer();
        client.identity.clone_from(&member.identity);
        let made = client.join_externally(&current, Some(&member.user));
        let call = play.group.submit_commit(&client.key, &made);
        return Some(Attempt { call, expected: Some(ProblemType::WrongEpoch), effect: Effect::Nothing });
    }
    play.late_info = Some((turn.current(), play.model.epoch));
    None
}

pub fn commit_too_early(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let made = play.make_and_drop(turn.by, update());
    let mut bytes = made.commit.as_bytes().to_vec();
    // Version, wire format, group id with its length, epoch.
    let last = 4 + 1 + play.group.id.to_mls().len() + 7;
    bytes[last - 7..=last].copy_from_slice(&(play.model.epoch + 1).to_be_bytes());
    let made = Made { commit: MlsMessage::new(bytes), ..made };
    wrong(play, turn.by, &made, Some(ProblemType::WrongEpoch))
}

/// The stranger's group has the same id, is in epoch 0, and has never been here.
pub fn commit_to_another_history(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let made = play.stranger.commit(update());
    play.stranger.drop_commit();
    wrong(play, turn.by, &made, Some(ProblemType::WrongEpoch))
}

pub fn forge_commit(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if play.model.leaves(turn.by) {
        return None;
    }
    let made = play.make_and_drop(turn.by, update());
    // Behind the signature come the confirmation tag and the membership tag.
    let made = Made { commit: forged(made.commit, 33 + 33, turn), ..made };
    wrong(play, turn.by, &made, INVALID)
}

/// Flips a bit in a message's signature, which is followed by so many bytes.
fn forged(message: MlsMessage, behind: usize, turn: &mut Turn) -> MlsMessage {
    let mut bytes = message.into_bytes();
    let place = bytes.len() - behind - turn.rng.random_range(1..64);
    bytes[place] ^= 1 << turn.rng.random_range(0..8);
    MlsMessage::new(bytes)
}

pub fn send_anothers_commit(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if play.model.leaves(turn.by) {
        return None;
    }
    let sender = turn.another()?;
    let made = play.make_and_drop(turn.by, update());
    wrong(play, sender, &made, INVALID)
}

pub fn send_strangers_commit(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let made = play.make_and_drop(turn.by, update());
    let call = play.call(turn.by, &made).signed_by(&play.stranger.key);
    Some(Attempt { call, expected: Some(ProblemType::NotAllowed), effect: Effect::Nothing })
}

pub fn use_another_state_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let made = play.make_and_drop(turn.by, update());
    let key = StateKey::new(turn.rng.random());
    let key = Value::Bytes(key.as_bytes().to_vec());
    let call = play.call(turn.by, &made).with_field("state_key", key);
    Some(Attempt { call, expected: Some(ProblemType::NotFound), effect: Effect::Nothing })
}

pub fn forge_proposal(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let proposal = wrong_proposal(play, turn, Party::propose_update)?;
    // Behind the signature comes the membership tag.
    let proposal = forged(proposal, 33, turn);
    wrong(play, turn.by, &alone(proposal), INVALID)
}

/// A proposal that nothing else stands in the way of; it is withdrawn on this side.
fn wrong_proposal(
    play: &mut Play<'_>,
    turn: &mut Turn,
    propose: impl FnOnce(&mut Party) -> MlsMessage,
) -> Option<MlsMessage> {
    if !play.model.waiting.is_empty() {
        return None;
    }
    Some(withdrawn(play, turn.by, propose))
}

/// A member's proposal, which is withdrawn on this side.
pub fn withdrawn(
    play: &mut Play<'_>,
    by: usize,
    propose: impl FnOnce(&mut Party) -> MlsMessage,
) -> MlsMessage {
    let party = play.group.party(by);
    let before = party.waiting();
    let proposal = propose(party);
    party.withdraw(&before);
    proposal
}

pub fn join_unvouched(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    join_with(play, turn, None, VIOLATION)
}

pub fn join_vouched_by_another(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let other = turn.foreigner()?;
    let voucher = play.group.members[other].party.user.clone();
    join_with(play, turn, Some(voucher), VIOLATION)
}

/// Its request and its commit are signed with the user's key, and its authenticated data, which members look at, is not.
pub fn join_as_user_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let user = play.users_key(turn.by).0;
    let mut client = Party::newcomer();
    client.identity.clone_from(&play.group.members[turn.by].party.identity);
    client.key = user;
    let key = play.group.members[turn.by].party.users_key();
    client.leaf = leaf_extensions(&home(), fresh_address(), Some(key));
    let current = CurrentGroup { proposals: Vec::new(), ..turn.current() };
    let made = client.join_externally(&current, None);
    let call = play.group.submit_commit(&client.key, &made);
    Some(Attempt { call, expected: VIOLATION, effect: Effect::Nothing })
}

/// The user's key is another one of the same generation. A double makes it, as in [`come_back_at`].
pub fn come_back_with_another_user_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let mut double = double_of(play, turn.by);
    let member = &play.group.members[turn.by];
    let key = UserKey { public_key: double.user.public_key(), ..member.party.users_key() };
    double.leaf = leaf_extensions(&member.domain, member.address, Some(key));
    let current = CurrentGroup { proposals: Vec::new(), ..turn.current() };
    let made = double.join_externally(&current, None);
    wrong(play, turn.by, &made, VIOLATION)
}

/// Another party with a member's pseudonym and key.
fn double_of(play: &Play<'_>, by: usize) -> Party {
    let member = &play.group.members[by].party;
    let mut double = Party::new(member.identity.clone());
    double.key = member.key.clone();
    double
}

/// A commit that nothing else stands in the way of, and something about it is wrong.
pub fn broken_commit(
    play: &mut Play<'_>,
    turn: &mut Turn,
    spoil: fn(&mut Play<'_>, Made) -> Option<Made>,
) -> Option<Attempt> {
    if play.model.leaves(turn.by) {
        return None;
    }
    let made = play.make_and_drop(turn.by, update());
    let broken = spoil(play, made)?;
    wrong(play, turn.by, &broken, INVALID)
}

pub fn add_without_welcome(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if play.model.leaves(turn.by) || !play.model.is_admin(turn.by) {
        return None;
    }
    let add = vec![Party::newcomer().key_package()];
    let made = play.make_and_drop(turn.by, Commit { add, ..update() });
    wrong(play, turn.by, &Made { welcome: None, ..made }, INVALID)
}

pub fn say_with_welcome(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if !play.model.waiting.is_empty() {
        return None;
    }
    let welcome = play.old_welcome.clone()?;
    let said = play.group.party(turn.by).say(b"something");
    let call = play.group.submit(turn.by, &said, Some(&welcome));
    Some(Attempt { call, expected: INVALID, effect: Effect::Nothing })
}

pub fn propose_with_group_info(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let group_info = Some(play.old_info.clone()?);
    let commit = wrong_proposal(play, turn, Party::propose_update)?;
    wrong(play, turn.by, &Made { commit, group_info, welcome: None }, INVALID)
}

pub fn add_anothers_client(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let other = turn.foreigner()?;
    add_client_of(play, turn, other, false)
}

pub fn add_unlimited(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (by, mut newcomer) = (turn.by, turn.newcomer());
    newcomer.party.lifetime = Lifetime::init(0, u64::MAX);
    let made = play.make(by, Commit { add: vec![newcomer.party.key_package()], ..Default::default() });
    let done = Done::Added { newcomer, user: User::New, welcome: None };
    Some(play.commit(by, &made, INVALID, Vec::new(), done))
}

pub fn add_wrong_leaf(
    play: &mut Play<'_>,
    turn: &mut Turn,
    expected: Expected,
    spoil: fn(&mut Party),
) -> Option<Attempt> {
    let mut newcomer = Party::newcomer();
    spoil(&mut newcomer);
    play.wrong_commit(turn.by, Commit { add: vec![newcomer.key_package()], ..Default::default() }, expected)
}

/// The address of somebody who stays there, said to be at its domain or at any other one.
pub fn someones_address(play: &Play<'_>, turn: &mut Turn) -> Option<(Domain, Address)> {
    let other = turn.another()?;
    if play.model.leaves(other) || play.is_to_change(other) {
        return None;
    }
    let member = &play.group.members[other];
    let its_own = turn.rng.random_bool(0.5);
    let domain = if its_own { member.domain.clone() } else { domain(turn.rng.random_range(0..10)) };
    Some((domain, member.address))
}

pub fn come_back_to_anothers_address(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (domain, address) = someones_address(play, turn)?;
    come_back_at(play, turn, &domain, address, VIOLATION)
}

/// A double makes the commit, since it is refused and its maker would forget where it was.
pub fn come_back_at(
    play: &mut Play<'_>,
    turn: &mut Turn,
    domain: &Domain,
    address: Address,
    expected: Expected,
) -> Option<Attempt> {
    let mut double = double_of(play, turn.by);
    double.leaf = leaf_at(play, turn.by, domain, address);
    let current = CurrentGroup { proposals: Vec::new(), ..turn.current() };
    let made = double.join_externally(&current, None);
    wrong(play, turn.by, &made, expected)
}

pub fn take_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let other = turn.another()?;
    if play.model.leaves(turn.by) || play.model.leaves(other) || play.is_to_change(other) {
        return None;
    }
    let key = play.group.members[other].party.key.clone();
    let made = play.group.party(turn.by).commit_to_key(&key);
    play.group.party(turn.by).drop_commit();
    wrong(play, turn.by, &made, INVALID)
}

pub fn propose_to_take_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let other = turn.another()?;
    let key = play.group.members[other].party.key.clone();
    let proposal = wrong_proposal(play, turn, |party| party.propose_update_to_key(&key))?;
    wrong(play, turn.by, &alone(proposal), INVALID)
}

pub fn change_pseudonym(play: &mut Play<'_>, turn: &mut Turn, pseudonym: Pseudonym) -> Option<Attempt> {
    let commit = Commit { identity: Some(pseudonym.0.to_vec()), ..Default::default() };
    play.wrong_commit(turn.by, commit, VIOLATION)
}

/// A proposal of another leaf that no commit could take along. Who has proposed already is told so first.
pub fn propose_leaf(
    play: &mut Play<'_>,
    turn: &mut Turn,
    expected: Expected,
    propose: impl FnOnce(&mut Party, Address) -> MlsMessage,
) -> Option<Attempt> {
    let (by, address) = (turn.by, play.group.members[turn.by].address);
    let again = play.model.leaves(by) || play.model.waits(by, Waiting::Updates);
    let proposal = withdrawn(play, by, |party| propose(party, address));
    wrong(play, by, &alone(proposal), if again { VIOLATION } else { expected })
}

/// Foreign libraries do so; here one leaves by a SelfRemove.
pub fn leave_by_remove(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let own = play.group.key(turn.by);
    let proposal = withdrawn(play, turn.by, |party| party.propose_removal(own));
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}
