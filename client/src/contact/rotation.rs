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
/// device's KeyPackages are published anew, and the others do the same when they are told (AS-13). Nothing is to be done
/// before there is one.
pub(crate) fn rotate_after_removal(tx: &Tx<'_>) -> Result<()> {
    let Some(old) = Friendship::find(tx)? else { return Ok(()) };
    let old = old.secrets.clone();
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
/// device's. Where this device is ahead it tells the others. `written` is the time of their letter (seconds since 1970).
pub(super) fn adopt(tx: &Tx<'_>, theirs: &FriendshipSecrets, written: u64) -> Result<()> {
    let mut friendship = Friendship::load(tx)?;
    let own = friendship.secrets.clone();
    let mut blocks = own.blocks.clone();
    blocks.merge(&theirs.blocks, written);
    let newly_blocked: Vec<UserName> = blocks.users().filter(|user| !own.is_blocked(user)).cloned().collect();
    for user in &newly_blocked {
        block::forget_blocked(tx, user)?;
    }
    let adopted = theirs.friend.replaces(&own.friend);
    // Users that the winner's maker did not know to be blocked may have been told its token.
    let told: Vec<_> = blocks
        .users()
        .filter(|user| if adopted { !theirs.is_blocked(user) } else { !own.is_blocked(user) })
        .collect();
    let leaked = !told.is_empty();
    let blocks_are_news = blocks.has_later_than(&theirs.blocks);
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
        // Done by an attempt whose answer was lost, or by another device.
        let repeated = answer.as_ref().is_err_and(|error| error.problem() == Some(ProblemType::NotFound));
        let answer = or_repeated(answer, ProblemType::NotFound);
        if answer.as_ref().is_err_and(|error| error.refusal().is_none()) {
            return answer;
        }
        store.write(|tx| {
            tx.sql().execute("DELETE FROM friendship_changes WHERE id = ?1", [id])?;
            if repeated && matches!(change.request, Request::Rotate(_)) {
                // The other device may have given it another token than this one did: that shows when it is asked.
                key_packages::forget_count(tx)?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contact::block, options::Options, store::integer};
    use postern_protocol::eid::EidState;
    use rusqlite::params;

    /// A device of Bob's, whose identity is in this epoch.
    fn device(secrets: &FriendshipSecrets, epoch: u64) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        store
            .write(|tx| {
                Account::new("http://127.0.0.1:1".to_owned(), user("bob"))?.save(tx)?;
                Friendship::join(secrets.clone()).save(tx)?;
                at_epoch(tx, epoch)
            })
            .unwrap();
        (directory, store)
    }

    fn at_epoch(tx: &Tx<'_>, epoch: u64) -> Result<()> {
        tx.sql().execute(
            "INSERT OR REPLACE INTO eids
                 (user, pending, founder, founding, incarnation, epoch, transcript, public_group, seen, verified)
             VALUES (?1, 0, ?2, ?2, 0, ?3, ?2, x'', 0, 0)",
            params![user("bob").to_string(), [1_u8; 32], integer(epoch)],
        )?;
        Ok(())
    }

    fn user(name: &str) -> UserName {
        format!("{name}@example.org").parse().unwrap()
    }

    fn secrets(store: &Store) -> FriendshipSecrets {
        store.read(Friendship::load).unwrap().secrets.clone()
    }

    fn count(store: &Store, rows: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {rows}");
        store.read(|tx| Ok(tx.sql().query_row(&sql, [], |row| row.get(0))?)).unwrap()
    }

    #[test]
    fn an_old_letter_with_secrets_rolls_neither_the_friendship_nor_a_block_back() {
        let old = FriendshipSecrets::generate().unwrap();
        let (_directory, store) = device(&old, 1);
        store.write(|tx| block::block(tx, &user("alice"))).unwrap();
        let new = secrets(&store);
        assert!(new.friend.replaces(&old.friend) && new.is_blocked(&user("alice")));
        store.write(|tx| Ok(tx.sql().execute("DELETE FROM news", [])?)).unwrap();
        store.write(|tx| adopt(tx, &old, tx.now())).unwrap();
        let kept = secrets(&store);
        assert!(kept.friend == new.friend && kept.is_blocked(&user("alice")));
        assert_eq!(count(&store, "news"), 1, "the device that is behind is told");
    }

    #[test]
    fn a_removed_device_with_the_highest_of_numbers_does_not_come_back_into_the_friendship() {
        let old = FriendshipSecrets::generate().unwrap();
        let (_directory, store) = device(&old, 1);
        let mut made_up = old.with_another_token(&at(1)).unwrap();
        made_up.friend.edition.number = u64::MAX - 1;
        store
            .write(|tx| {
                at_epoch(tx, 2)?;
                rotate_after_removal(tx)?;
                adopt(tx, &made_up, tx.now())
            })
            .unwrap();
        let kept = secrets(&store);
        assert_ne!(kept.friend.friendship_token, made_up.friend.friendship_token);
        assert!(!kept.shares_stock_with(&old));
        assert_eq!(kept.friend.edition.epoch, 2);
    }

    fn at(epoch: u64) -> EidState {
        EidState { incarnation: 0, epoch, transcript: postern_protocol::Transcript::new([1; 32]) }
    }

    #[test]
    fn two_devices_that_block_at_once_end_with_one_friendship_that_neither_user_has_the_token_of() {
        let before = FriendshipSecrets::generate().unwrap();
        let (_one, phone) = device(&before, 1);
        let (_two, laptop) = device(&before, 1);
        phone.write(|tx| block::block(tx, &user("alice"))).unwrap();
        laptop.write(|tx| block::block(tx, &user("carol"))).unwrap();
        let told = [secrets(&phone), secrets(&laptop)];
        for _ in 0..3 {
            let (one, other) = (secrets(&phone), secrets(&laptop));
            phone.write(|tx| adopt(tx, &other, tx.now())).unwrap();
            laptop.write(|tx| adopt(tx, &one, tx.now())).unwrap();
        }
        let (one, other) = (secrets(&phone), secrets(&laptop));
        assert!(one.friend == other.friend && one.blocks == other.blocks);
        assert_eq!(one.blocks.users().collect::<Vec<_>>(), [&user("alice"), &user("carol")]);
        for secrets in told {
            assert_ne!(
                one.friend.friendship_token, secrets.friend.friendship_token,
                "it may be known to one"
            );
        }
    }

    #[test]
    fn a_device_that_is_told_of_another_friendship_gives_the_old_one_up_and_takes_another_place() {
        let old = FriendshipSecrets::generate().unwrap();
        let (_directory, store) = device(&old, 1);
        let stock = store.read(Friendship::load).unwrap().stock_id;
        let new = old.replaced(&at(2)).unwrap();
        store.write(|tx| adopt(tx, &new, tx.now())).unwrap();
        let friendship = store.read(Friendship::load).unwrap();
        assert!(friendship.secrets.shares_stock_with(&new));
        assert_ne!(friendship.stock_id, stock, "nothing links the two");
        assert_eq!(count(&store, "friendship_changes"), 1);
    }
}
