//! Attributes of leaves (DS-12): what members keep at the DS for each other to read. Each leaf's is a
//! card that says which client it is, so that those who come in know everyone at once. Owns the table
//! `cards`.

use postern_protocol::{
    Attributes, Payload, PublicKey, Signature,
    ds::{GroupId, LeafAttributes, MAX_ATTRIBUTES},
    eid::EidState,
    key::SigningKey,
    label::Label,
    problem::ProblemType,
};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{links, record, state::GroupState};
use crate::{
    account::Account,
    error::{Error, Result},
    identity::{self, IdentityLink},
    key_packages,
    profile::{self, SharedProfileKey},
    sealed,
    store::{Tx, decode, encode},
};

/// The most bytes of an application's attributes: the rest of a card has room next to them.
const MOST_CONTENT: usize = 500;
/// The most cards of added leaves that come with one commit. Others show themselves by what they say.
const CARDS_AT_ONCE: usize = 64;

/// The attributes of a leaf.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Card {
    pub link: IdentityLink,
    /// The state of the identity of the leaf's user (AS-3). Absent in a card that another member brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<CardState>,
    /// The key to the profile of the leaf's user (AS-6). Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_key: Option<SharedProfileKey>,
    /// The application's.
    pub content: Payload,
}

/// The state of a user's identity as one of the user's clients knows it. The client signs it, since all members can seal a
/// card: nobody speaks of another's identity.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CardState {
    pub eid: EidState,
    /// By the client's key (Ed25519, 64 bytes), over [`CardState::to_be_signed`].
    pub signature: Signature,
}

impl CardState {
    pub(super) fn sign(client: &SigningKey, group: &GroupId, leaf_key: &PublicKey, eid: EidState) -> Self {
        Self { eid, signature: client.sign(&Self::to_be_signed(group, leaf_key, &eid)) }
    }

    /// Whether this client told it of a leaf of the group.
    pub(super) fn is_by(&self, client: &PublicKey, group: &GroupId, leaf_key: &PublicKey) -> bool {
        client.verify(&Self::to_be_signed(group, leaf_key, &self.eid), &self.signature).is_ok()
    }

    /// `"Postern card state" || 0 || group id || leaf key || incarnation as u32 || epoch as u64 || transcript`
    fn to_be_signed(group: &GroupId, leaf_key: &PublicKey, eid: &EidState) -> Vec<u8> {
        Label::CARD_STATE.followed_by(&[&group.to_mls(), leaf_key.as_bytes(), &eid.to_bytes()])
    }
}

impl GroupState {
    /// The application's attributes of leaves, by leaf key, as far as they open and are not empty.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`].
    pub(crate) fn open_attributes(
        &self,
        tx: &Tx<'_>,
        kept: &[LeafAttributes],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let cards = self.cards(tx, kept)?.ok_or(Error::NoAttributesKey)?;
        let contents = cards.into_iter().map(|(leaf_key, card)| (leaf_key, card.content.into_bytes()));
        Ok(contents.filter(|(_, content)| !content.is_empty()).collect())
    }

    /// Learns from cards who the members are, and how far their users' identities have come.
    pub(crate) fn learn(&self, tx: &Tx<'_>, kept: &[LeafAttributes]) -> Result<()> {
        for (leaf_key, card) in self.cards(tx, kept)?.unwrap_or_default() {
            if self.member(&leaf_key).is_some() {
                links::told(tx, &self.id, &leaf_key, &card.link)?;
                if let Some(state) = &card.state
                    && let Some(client) = links::client(tx, &self.id, &leaf_key)?
                    && state.is_by(&client.client_key, &self.id, &leaf_key)
                {
                    links::told_state(tx, &self.id, &leaf_key, &state.eid)?;
                }
                let profile_key = card.profile_key.as_ref();
                let by = (&leaf_key, false);
                links::told_profile_key(tx, &self.id, &leaf_key, &card.link, profile_key, by)?;
            }
        }
        links::hear_states(tx)
    }

    /// The cards of leaves, as far as they open. `None` while this device has no key for them.
    fn cards(&self, tx: &Tx<'_>, kept: &[LeafAttributes]) -> Result<Option<Vec<(PublicKey, Card)>>> {
        let Some(key) = record::attributes_key(tx, &self.id)? else { return Ok(None) };
        let open = |of: &LeafAttributes| {
            let content = sealed::open(&key, &of.leaf_key, of.attributes.as_bytes())?;
            Some((of.leaf_key, decode(&content, "a card").ok()?))
        };
        Ok(Some(kept.iter().filter_map(open).collect()))
    }

    /// The cards that go with a commit: this device's own, and those of the leaves that it adds. None
    /// while this device has no key for them.
    pub(super) fn cards_for_commit(&self, tx: &Tx<'_>, added: &[PublicKey]) -> Result<Vec<LeafAttributes>> {
        let Some(key) = record::attributes_key(tx, &self.id)? else { return Ok(Vec::new()) };
        let (account, own_leaf) = (Account::load(tx)?, self.leaf.public_key());
        let client = account.client_key();
        let link = IdentityLink::sign(&client, account.credential()?, Some(&self.id), &self.leaf);
        let state = match identity::own_state(tx) {
            Ok(eid) => Some(CardState::sign(&client, &self.id, &own_leaf, eid)),
            Err(Error::NotReady) => None,
            Err(error) => return Err(error),
        };
        let content = Payload::new(record::attributes(tx, &self.id)?);
        let own = Card { link, state, profile_key: profile::own_key(tx)?, content };
        let mut cards = vec![(own_leaf, own)];
        for leaf_key in added.iter().take(CARDS_AT_ONCE) {
            if let Some(link) = key_packages::link_of(tx, leaf_key)? {
                let profile_key = links::profile_key(tx, &link)?;
                cards.push((*leaf_key, Card { link, state: None, profile_key, content: Payload::default() }));
            }
        }
        let mut attributes = Vec::new();
        for (leaf_key, card) in cards {
            let sealed = sealed::seal(&key, &leaf_key, &encode(&card))?;
            // A card that is too large is left out: the commit is worth more.
            if sealed.len() <= MAX_ATTRIBUTES {
                attributes.push(LeafAttributes { leaf_key, attributes: Attributes::new(sealed) });
            }
        }
        Ok(attributes)
    }

    /// Replaces the application's attributes, which the next commit brings.
    ///
    /// # Errors
    /// [`Error::NoAttributesKey`], `message-too-large`.
    pub(super) fn set_attributes(&self, tx: &Tx<'_>, content: &[u8]) -> Result<()> {
        if content.len() > MOST_CONTENT {
            return Err(postern_protocol::problem::Problem::from(ProblemType::MessageTooLarge).into());
        }
        if record::attributes_key(tx, &self.id)?.is_none() {
            return Err(Error::NoAttributesKey);
        }
        record::set_attributes(tx, &self.id, content)
    }
}

/// Keeps cards until the key that opens them was told.
pub(super) fn keep(tx: &Tx<'_>, id: &GroupId, kept: &[LeafAttributes]) -> Result<()> {
    for of in kept {
        tx.sql()
            .prepare_cached("INSERT OR REPLACE INTO cards (group_id, leaf_key, sealed) VALUES (?1, ?2, ?3)")?
            .execute(params![id.to_mls(), of.leaf_key.as_bytes(), of.attributes.as_bytes()])?;
    }
    Ok(())
}

/// Takes the cards that were kept.
pub(super) fn take(tx: &Tx<'_>, id: &GroupId) -> Result<Vec<LeafAttributes>> {
    let mut statement =
        tx.sql().prepare_cached("DELETE FROM cards WHERE group_id = ?1 RETURNING leaf_key, sealed")?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<([u8; 32], Vec<u8>)>, _>>()?;
    let kept = rows.into_iter().map(|(leaf_key, sealed)| LeafAttributes {
        leaf_key: PublicKey::new(leaf_key),
        attributes: Attributes::new(sealed),
    });
    Ok(kept.collect())
}
