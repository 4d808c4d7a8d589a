//! Members' proposals: Updates that change more than a key, and proposals that nobody may make by itself.

use postern_protocol::{MlsMessage, key::SigningKey, mls::UserKey};
use postern_tests_kit::{Party, fresh_address, home, leaf_extensions};
use rand::Rng as _;

use super::{
    INVALID, VIOLATION, Waiting,
    mistakes::{alone, withdrawn, wrong},
    operations::leaf_at,
    play::{Attempt, Effect, Play, Renewal, Turn, domain},
};

/// An Update that changes more than the encryption key.
fn propose_renewal(
    play: &mut Play<'_>,
    turn: &mut Turn,
    renewal: Renewal,
    propose: impl FnOnce(&mut Party) -> MlsMessage,
) -> Option<Attempt> {
    let by = turn.by;
    let again = play.model.leaves(by) || play.model.waits(by, Waiting::Updates);
    let party = play.group.party(by);
    let before = party.waiting();
    let proposal = propose(party);
    let call = play.group.submit(by, &proposal, None);
    let effect = Effect::Proposal { by, before, waits: Waiting::Updates, renewal: Some(renewal) };
    Some(Attempt { call, expected: if again { VIOLATION } else { None }, effect })
}

/// To another address of its mailbox, and to another homeserver in most cases.
pub fn propose_to_move(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let (address, domain) = (turn.address.take()?, domain(turn.rng.random_range(0..10)));
    let leaf = leaf_at(play, turn.by, &domain, address);
    let renewal = Renewal::Moves { domain, address };
    propose_renewal(play, turn, renewal, |party| party.propose_leaf(Some(leaf), None, None))
}

/// The user has one client, so that no other client brings another key meanwhile.
pub fn propose_next_user_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    if !turn.own.is_empty() {
        return None;
    }
    let member = &play.group.members[turn.by];
    let user = SigningKey::generate();
    let key = UserKey { generation: member.party.generation + 1, public_key: user.public_key() };
    let leaf = leaf_extensions(&member.domain, member.address, Some(key));
    propose_renewal(play, turn, Renewal::Rekeys(user), |party| party.propose_leaf(Some(leaf), None, None))
}

/// A leaf keeps its signature key.
pub fn propose_leaf_key(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let key = SigningKey::generate();
    let proposal = withdrawn(play, turn.by, |party| party.propose_update_to_key(&key));
    wrong(play, turn.by, &alone(proposal), INVALID)
}

/// A proposal that no member may make by itself, of this type and with this content.
pub fn propose_bytes(play: &mut Play<'_>, turn: &mut Turn, kind: u16, content: &[u8]) -> Option<Attempt> {
    let proposal = [kind.to_be_bytes().as_slice(), content].concat();
    let proposal = play.group.party(turn.by).propose_bytes(&proposal);
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}

pub fn propose_to_add(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let key_package = Party::newcomer().key_package();
    let proposal = withdrawn(play, turn.by, |party| party.propose_add(&key_package));
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}

pub fn propose_to_add_client(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let mut client = Party::newcomer();
    let party = play.group.party(turn.by);
    client.identity.clone_from(&party.identity);
    client.leaf = leaf_extensions(&home(), fresh_address(), Some(party.users_key()));
    let proposal = withdrawn(play, turn.by, |party| party.propose_add(&client.key_package()));
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}

pub fn propose_to_remove_client(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let own = turn.own.clone();
    let key = play.group.key(turn.pick(&own)?);
    let proposal = withdrawn(play, turn.by, |party| party.propose_removal(key));
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}

pub fn propose_to_remove(play: &mut Play<'_>, turn: &mut Turn) -> Option<Attempt> {
    let other = turn.another()?;
    let key = play.group.key(other);
    let proposal = withdrawn(play, turn.by, |party| party.propose_removal(key));
    wrong(play, turn.by, &alone(proposal), VIOLATION)
}
