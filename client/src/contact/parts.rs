//! The secrets of a friendship in parts: with a long list of blocked users they do not fit into one letter. They take
//! effect once all parts are there, since a device that knows half of a list would take the other half for news. Owns
//! the table `secrets_parts`.

use postern_protocol::{MessageDigest, Payload, PublicKey, encoding::Encoding};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    friendship::FriendshipSecrets,
    letter::{LetterBody, Stamp},
    numbers::MAX_AGE,
};
use crate::{
    error::{Rejection, Result},
    store::{Tx, integer},
};

/// Bytes of a part. A deposit has 16 KiB at most, and the rest of a letter fills less than two of them.
const BYTES: usize = 12 * 1024;
/// The most parts that are put together.
const MOST: u32 = 16;

/// A part of a [`FriendshipSecrets`] in CBOR.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretsPart {
    /// SHA-256 of the whole.
    pub whole: MessageDigest,
    /// Its place, from 0.
    pub part: u32,
    pub parts: u32,
    pub content: Payload,
}

/// The letters' contents that tell these secrets.
pub(super) fn divide(secrets: &FriendshipSecrets) -> Vec<LetterBody> {
    let bytes = Encoding::Cbor.encode(secrets);
    if bytes.len() <= BYTES {
        return vec![LetterBody::Secrets(secrets.clone())];
    }
    let whole = MessageDigest::of(&bytes);
    let contents: Vec<Payload> = bytes.chunks(BYTES).map(|content| Payload::new(content.to_vec())).collect();
    let parts = contents.len() as u32;
    let part = |(part, content)| LetterBody::SecretsPart(SecretsPart { whole, part, parts, content });
    (0..).zip(contents).map(part).collect()
}

/// Keeps a part that another device of this user sent. Returns the whole once all parts of it are there.
///
/// # Errors
/// [`Rejection::Invalid`] for parts of nothing.
pub(super) fn put_together(
    tx: &Tx<'_>,
    client_key: &PublicKey,
    part: &SecretsPart,
    stamp: &Stamp,
) -> Result<Option<FriendshipSecrets>, Rejection> {
    if part.part >= part.parts || part.parts > MOST {
        return Err(Rejection::invalid("a letter brings a part of no whole"));
    }
    let (key, whole) = (client_key.as_bytes(), part.whole.as_bytes());
    let over = integer(tx.now().saturating_sub(MAX_AGE));
    tx.sql().execute("DELETE FROM secrets_parts WHERE time < ?1", [over])?;
    let is_old: bool = tx.sql().query_row(
        "SELECT EXISTS (SELECT 1 FROM secrets_parts WHERE client_key = ?1 AND whole <> ?2 AND number > ?3)",
        params![key, whole, integer(stamp.number)],
        |row| row.get(0),
    )?;
    if is_old {
        return Ok(None);
    }
    let sql = "DELETE FROM secrets_parts WHERE client_key = ?1 AND whole <> ?2";
    tx.sql().execute(sql, params![key, whole])?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO secrets_parts (client_key, part, whole, number, time, content)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![key, part.part, whole, integer(stamp.number), integer(stamp.time), part.content.as_bytes()],
    )?;
    let mut statement =
        tx.sql().prepare_cached("SELECT content FROM secrets_parts WHERE client_key = ?1 ORDER BY part")?;
    let contents = statement.query_map([key], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
    if contents.len() < part.parts as usize {
        return Ok(None);
    }
    tx.sql().execute("DELETE FROM secrets_parts WHERE client_key = ?1", [key])?;
    let bytes = contents.concat();
    let secrets = Encoding::Cbor.decode(&bytes).ok().filter(|_| MessageDigest::of(&bytes) == part.whole);
    secrets.map(Some).ok_or_else(|| Rejection::invalid("the parts of some letters make no whole"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contact::{Blocks, block::blocked},
        options::Options,
        store::Store,
    };
    use postern_protocol::{Transcript, eid::EidState};

    fn secrets(blocks: Blocks) -> FriendshipSecrets {
        let mut secrets = FriendshipSecrets::generate().unwrap();
        secrets.blocks = blocks;
        secrets
    }

    fn stamp(number: u64) -> Stamp {
        let eid = EidState::founded(0, Transcript::new([1; 32]));
        Stamp { time: crate::clock::Clock::default().now(), number, eid }
    }

    fn parts(secrets: &FriendshipSecrets) -> Vec<SecretsPart> {
        let part = |body| match body {
            LetterBody::SecretsPart(part) => part,
            other => panic!("{other:?}"),
        };
        divide(secrets).into_iter().map(part).collect()
    }

    #[test]
    fn a_list_that_fits_into_a_letter_is_in_one() {
        assert!(matches!(&divide(&secrets(blocked(20)))[..], [LetterBody::Secrets(_)]));
    }

    #[test]
    fn a_long_list_comes_in_parts_and_counts_once_all_are_there_in_whatever_order() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let (phone, other) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        let take = |from: &PublicKey, part: &SecretsPart, number| {
            store.write(|tx| Ok(put_together(tx, from, part, &stamp(number)))).unwrap()
        };
        let (old, new) = (secrets(blocked(300)), secrets(blocked(400)));
        let (old_parts, new_parts) = (parts(&old), parts(&new));
        assert!(old_parts.len() > 1 && new_parts.len() > old_parts.len());
        let largest = new_parts.iter().map(|part| Encoding::Cbor.encode(part).len()).max().unwrap();
        assert!(largest < 13 * 1024, "{largest}");

        let is_nothing = |from: &PublicKey, part: &SecretsPart, number| {
            assert!(matches!(take(from, part, number), Ok(None)), "{number}");
        };
        is_nothing(&phone, &old_parts[0], 1);
        // Another device says something else meanwhile, and then this one something later.
        is_nothing(&other, &new_parts[1], 5);
        for (number, part) in (10..).zip(new_parts[1..].iter().rev()) {
            is_nothing(&phone, part, number);
        }
        is_nothing(&phone, &old_parts[1], 2);
        let whole = take(&phone, &new_parts[0], 9).unwrap().expect("all are there");
        assert_eq!(whole.blocks, new.blocks);
        assert!(whole.friend == new.friend);

        let mut forged = new_parts[0].clone();
        forged.content = Payload::new(vec![0; 10]);
        for (number, part) in (20..).zip(&new_parts[1..]) {
            is_nothing(&phone, part, number);
        }
        assert!(take(&phone, &forged, 30).is_err(), "the digest is another");
        let endless = SecretsPart { parts: MOST + 1, ..new_parts[0].clone() };
        assert!(take(&phone, &endless, 31).is_err());
    }
}
