//! Another friendship in place of the old one (QS-7, AS-13): a new token where a user is blocked, and nothing of the old
//! one where a device is removed. What the QS is asked for that is kept, in order, until it is done. Owns the table
//! `friendship_changes`.

use postern_protocol::{
    FriendshipToken,
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
    qs::{RemoveKeyPackages, RotateFriendshipToken},
};
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use super::{
    block, contacts,
    friendship::{Friendship, FriendshipSecrets},
    news::{self, News},
};
use crate::{
    account::Account,
    error::{Result, or_repeated},
    identity, key_packages,
    server::Api,
    store::{Store, Tx, decode, encode},
};

/// A change of a friendship at the QS, and the key that signs it.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
struct Change {
    owner_seed: [u8; 32],
    #[zeroize(skip)]
    request: Request,
}

#[derive(Clone, Serialize, Deserialize)]
enum Request {
    Rotate(RotateFriendshipToken),
    /// Gives the friendship up, with the KeyPackages of all devices.
    Remove(FriendshipToken),
}

/// Takes another friendship token, and tells everyone that is to have it.
pub(super) fn take_another_token(tx: &Tx<'_>, secrets: &FriendshipSecrets) -> Result<()> {
    let mut friendship = Friendship::load(tx)?;
    let renewed = secrets.with_another_token(&identity::own_state(tx)?)?;
    let request = Request::Rotate(RotateFriendshipToken {
        friendship_token: secrets.friend.friendship_token,
        new_friendship_token: renewed.friend.friendship_token,
    });
    keep_change(tx, &secrets.owner(), request)?;
    friendship.secrets = renewed;
    friendship.save(tx)?;
    tell_all(tx)
}

/// Takes another friendship, because a device of this user was removed: token, link key and owner's key are new, this
/// device's KeyPackages are published anew, and the others do the same when they are told (AS-13).
pub(crate) fn rotate_after_removal(tx: &Tx<'_>) -> Result<()> {
    let old = Friendship::load(tx)?.secrets.clone();
    let renewed = old.replaced(&identity::own_state(tx)?)?;
    give_up(tx, &old)?;
    Friendship::join(renewed).save(tx)?;
    key_packages::publish_elsewhere(tx, true)?;
    tell_all(tx)
}

/// The QS does not know the friendship: another device took another one, and this one was not told, or all were away
/// for long. With the next step this device takes a new one, unless it was told meanwhile: to make the old one again
/// would give it back to those that it was taken from.
pub(crate) fn doubt(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE friendship SET unknown = 1", [])?;
    Ok(())
}

/// Takes over what another device of this user knows: decisions to block, and a friendship that is later than this
/// device's. Where this device is ahead it tells the others.
pub(super) fn adopt(tx: &Tx<'_>, theirs: &FriendshipSecrets) -> Result<()> {
    let mut friendship = Friendship::load(tx)?;
    let own = friendship.secrets.clone();
    let mut blocks = own.blocks.clone();
    blocks.merge(&theirs.blocks);
    let newly_blocked: Vec<UserName> = blocks.users().filter(|user| !own.is_blocked(user)).cloned().collect();
    for user in &newly_blocked {
        block::forget_blocked(tx, user)?;
    }
    let adopted = theirs.friend.replaces(&own.friend);
    // Those that the winner's maker did not know to be blocked may have been told its token.
    let told: Vec<_> = blocks
        .users()
        .filter(|user| if adopted { !theirs.is_blocked(user) } else { !own.is_blocked(user) })
        .collect();
    let leaked = !told.is_empty();
    let blocks_are_news = blocks != theirs.blocks;
    if adopted && theirs.shares_stock_with(&own) {
        friendship.secrets = theirs.clone();
    } else if adopted {
        give_up(tx, &own)?;
        friendship = Friendship::join(theirs.clone());
        key_packages::publish_elsewhere(tx, false)?;
    }
    friendship.secrets.blocks = blocks;
    friendship.save(tx)?;
    if leaked {
        return take_another_token(tx, &friendship.secrets);
    }
    if own.friend.replaces(&theirs.friend) || blocks_are_news {
        news::tell(tx, &Account::load(tx)?.user, &News::Secrets)?;
    }
    Ok(())
}

/// Brings the QS up to date, before KeyPackages are published and anybody is told.
pub(crate) async fn settle_friendship(store: &Store, api: &Api) -> Result<()> {
    let unknown = store.read(|tx| {
        Ok(tx
            .sql()
            .query_row("SELECT EXISTS (SELECT 1 FROM friendship WHERE unknown = 1)", [], |row| row.get(0))?)
    })?;
    if unknown {
        store.write(rotate_after_removal)?;
    }
    let changes = store.read(|tx| {
        let mut statement =
            tx.sql().prepare_cached("SELECT id, change FROM friendship_changes ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<Vec<(i64, Vec<u8>)>, _>>()?)
    })?;
    for (id, change) in changes {
        let change: Change = decode(&change, "a change of the friendship")?;
        let owner = SigningKey::from_seed(change.owner_seed);
        let answer = match &change.request {
            Request::Rotate(rotation) => api.rotate_friendship_token(rotation, &owner).await,
            Request::Remove(friendship_token) => {
                let all = RemoveKeyPackages { friendship_token: *friendship_token, stock_id: None };
                api.remove_key_packages(&all, &owner).await
            }
        };
        // Done by an attempt whose answer was lost or by another device, or not there at all.
        let answer = or_repeated(answer, ProblemType::NotFound);
        if answer.as_ref().is_err_and(|error| error.refusal().is_none()) {
            return answer;
        }
        store.write(|tx| {
            tx.sql().execute("DELETE FROM friendship_changes WHERE id = ?1", [id])?;
            Ok(())
        })?;
        if let Err(error) = answer {
            tracing::warn!(%error, "the QS refused a change of the friendship");
        }
    }
    Ok(())
}

fn give_up(tx: &Tx<'_>, secrets: &FriendshipSecrets) -> Result<()> {
    keep_change(tx, &secrets.owner(), Request::Remove(secrets.friend.friendship_token))
}

fn keep_change(tx: &Tx<'_>, owner: &SigningKey, request: Request) -> Result<()> {
    let change = Change { owner_seed: *owner.seed(), request };
    tx.sql().execute("INSERT INTO friendship_changes (change) VALUES (?1)", [encode(&change)])?;
    Ok(())
}

fn tell_all(tx: &Tx<'_>) -> Result<()> {
    for user in contacts::given(tx)? {
        news::tell(tx, &user, &News::Renewal)?;
    }
    news::tell(tx, &Account::load(tx)?.user, &News::Secrets)
}
