//! Profiles (AS-6): this user's, which the devices sign, and those of others as lookups showed them. None goes back to an
//! earlier version, and none counts that no device of its user signed. The key of a user's part for contacts is part of
//! the friendship that contacts have, and of what devices say in groups. Owns the table `profiles`.

mod change;
mod picture;
mod sealing;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use postern_protocol::{
    LookupSecret, PublicKey, Transcript,
    name::UserName,
    profile::{PictureLink, ProfileKey, SignedProfile},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    contact::{self, Edition, Friendship},
    error::{Error, Result},
    event::Event,
    group, identity,
    store::{Tx, decode, encode, integer},
};
pub(crate) use change::{change, settle};
pub(crate) use picture::picture;

/// A user's profile as this device knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserProfile {
    /// Empty if there is none.
    pub display_name: String,
    pub text: String,
    /// The picture, which [`crate::Client::picture`] fetches.
    pub picture: Option<PictureLink>,
    /// Whether everybody can look the user up.
    pub discoverable: bool,
    /// The part for contacts, as it was when this device had the key to it last.
    pub for_contacts: Option<ForContacts>,
}

/// The part of a profile that contacts and groups see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForContacts {
    pub display_name: String,
    pub text: String,
}

/// A change of this user's profile. What is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ProfileChange {
    pub display_name: Option<String>,
    pub text: Option<String>,
    /// PNG, JPEG or WebP; an empty one takes the picture away.
    pub picture: Option<Vec<u8>>,
    pub for_contacts: Option<ForContacts>,
    /// Whether everybody can look this user up, or contacts and members of the user's groups only.
    pub discoverable: Option<bool>,
}

/// A profile key as it goes from client to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedProfileKey {
    /// Place among the keys of its user: it is made with a friendship.
    pub edition: Edition,
    pub key: ProfileKey,
}

/// This device's user reads this where an AS does not show a version of a profile that a device of the profile's user told.
pub(crate) const KEPT_BACK: &str = "the server keeps back a user's profile";
/// Lookups that do not show such a version before that is told, of one that a message in a group told: the first may have been
/// under way when the message came.
const LOOKS: u32 = 2;

/// The most keys of one user that others told which are kept, each by another of them: a lookup tries one after the other.
const MOST_TOLD: usize = 4;

/// Source of a profile key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A device of the key's user.
    User,
    /// Anybody else, or a device that the AS did not confirm yet.
    Told(Teller),
}

/// A member of a group that told a profile key of a user, in a message or a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Teller {
    /// The key of the member's leaf.
    pub leaf_key: PublicKey,
    /// Whether the AS, by the keys that it showed, vouches for the client of the user with which the key was told.
    pub is_vouched: bool,
    /// Whether the member says to be that client, and told it in a message.
    pub is_itself: bool,
    /// Whether the leaf of which it was told is the member's own: in its card, say.
    pub is_own_leaf: bool,
}

/// A profile key that somebody told.
#[derive(Clone, Serialize, Deserialize)]
struct ToldKey {
    teller: Teller,
    shared: SharedProfileKey,
}

/// Keys of other users' profiles, as this user's devices share them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ProfileKeys(Vec<(UserName, SharedProfileKey)>);

/// A row of the table.
#[derive(Clone, Default)]
struct Kept {
    /// The key as it is known; of this device's own user the one that the AS's profile is under.
    key: Option<SharedProfileKey>,
    /// While there is none: keys that others told, those first that are most likely the user's.
    told: Vec<ToldKey>,
    signed: Option<SignedProfile>,
    /// The part for contacts of the last profile that opened.
    for_contacts: Option<ForContacts>,
    /// The version that the AS showed last, whether that profile counts or not.
    version: u64,
    /// The greatest version that a device of the user told.
    claimed: u64,
    /// The client that told it, until a lookup shows it.
    claimed_by: Option<PublicKey>,
    /// Lookups since that did not show it, up to [`LOOKS`].
    looks: u32,
}

impl SharedProfileKey {
    /// Whether this is to take the other one's place. Friendships are compared in the same way.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    fn rank(&self) -> (Edition, &[u8; 32]) {
        (self.edition, self.key.as_bytes())
    }
}

impl UserProfile {
    /// The name to show to this device's user: that for contacts, if there is one and it is known.
    pub fn shown_name(&self) -> &str {
        let for_contacts = self.for_contacts.as_ref().map(|part| part.display_name.as_str());
        for_contacts.filter(|name| !name.is_empty()).unwrap_or(&self.display_name)
    }
}

impl Default for UserProfile {
    fn default() -> Self {
        Self {
            display_name: String::new(),
            text: String::new(),
            picture: None,
            discoverable: true,
            for_contacts: None,
        }
    }
}

impl Kept {
    /// The keys to try, one after the other.
    fn keys(&self) -> impl Iterator<Item = &SharedProfileKey> {
        self.key.iter().chain(self.told.iter().map(|told| &told.shared))
    }

    /// The keys that are told, with one more. Of each teller one is kept, the last of those that it told itself. Whoever the AS
    /// vouches for comes first, and then the client itself, and its card: nobody takes the user's key away by another one,
    /// whatever its edition. Among equals the latest is first.
    fn with_told(&self, teller: Teller, shared: &SharedProfileKey) -> Vec<ToldKey> {
        let is_of_teller = |told: &&ToldKey| told.teller.leaf_key == teller.leaf_key;
        let of_itself = |teller: &Teller| (teller.is_itself, teller.is_own_leaf);
        if self.told.iter().any(|told| is_of_teller(&told) && of_itself(&told.teller) > of_itself(&teller)) {
            return self.told.clone();
        }
        let others = self.told.iter().filter(|told| !is_of_teller(told)).cloned();
        let mut told: Vec<_> =
            [ToldKey { teller, shared: shared.clone() }].into_iter().chain(others).collect();
        told.sort_by_key(|told| Reverse((told.teller.is_vouched, of_itself(&told.teller))));
        told.truncate(MOST_TOLD);
        told
    }

    fn profile(&self) -> UserProfile {
        let Some(SignedProfile { profile, .. }) = &self.signed else { return UserProfile::default() };
        UserProfile {
            display_name: profile.display_name.clone(),
            text: profile.text.clone(),
            picture: profile.picture,
            discoverable: profile.discoverable,
            for_contacts: self.for_contacts.clone(),
        }
    }
}

/// The key of this user's part for contacts; `None` before there is a friendship.
pub(crate) fn own_key(tx: &Tx<'_>) -> Result<Option<SharedProfileKey>> {
    Ok(Friendship::find(tx)?.map(|friendship| friendship.secrets.friend.shared_profile_key()))
}

/// The key of a user's part for contacts, if this device has it.
pub(crate) fn key_of(tx: &Tx<'_>, user: &UserName) -> Result<Option<SharedProfileKey>> {
    if is_own(tx, user)? { own_key(tx) } else { Ok(find(tx, user)?.keys().next().cloned()) }
}

/// The version of this user's profile; 0: none.
pub(crate) fn own_version(tx: &Tx<'_>) -> Result<u64> {
    let own = find(tx, &Account::load(tx)?.user)?;
    Ok(own.signed.map_or(0, |signed| signed.profile.version))
}

/// The secret by which the reader of a letter can look this user up, if not everybody can.
pub(crate) fn own_lookup_secret(tx: &Tx<'_>) -> Result<Option<LookupSecret>> {
    let own = find(tx, &Account::load(tx)?.user)?;
    let hidden = own.signed.is_some_and(|signed| !signed.profile.discoverable);
    Ok(own_key(tx)?.filter(|_| hidden).map(|shared| shared.key.lookup_secret()))
}

/// Keeps a user's key, unless the user gave a later one, or this one was only told and the user gave any. Returns whether it is
/// news.
pub(crate) fn keep_key(
    tx: &Tx<'_>,
    user: &UserName,
    shared: &SharedProfileKey,
    source: Source,
) -> Result<bool> {
    if is_own(tx, user)? {
        return Ok(false);
    }
    let before = find(tx, user)?;
    let (kept, is_news) = match source {
        Source::User => {
            let is_news = before.key.as_ref().is_none_or(|known| shared.replaces(known));
            (Kept { key: Some(shared.clone()), told: Vec::new(), ..before.clone() }, is_news)
        }
        Source::Told(_) if before.key.is_some() => return Ok(false),
        Source::Told(teller) => {
            let kept = Kept { told: before.with_told(teller, shared), ..before.clone() };
            let is_news = kept.keys().any(|key| key == shared) && before.keys().all(|key| key != shared);
            if !is_news {
                save(tx, user, &kept)?;
            }
            (kept, is_news)
        }
    };
    if is_news {
        take_effect(tx, user, &before, kept, true)?;
    }
    Ok(is_news)
}

/// Forgets keys that were told of users whom nothing is known of, and whom no member says to be any more.
pub(crate) fn forget_unnamed(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute(
        "DELETE FROM profiles
          WHERE key IS NULL AND profile IS NULL AND version = 0 AND claimed = 0
            AND user NOT IN (SELECT user FROM links WHERE user IS NOT NULL)",
        [],
    )?;
    Ok(())
}

/// Notes the version of a user's profile that a client of the user told. Returns whether the AS has to be asked for it. One of
/// another incarnation is compared with none, and nothing would show that its teller is the user's no more, nor that the AS was asked
/// for it: what the client tells of its user's identity has the AS asked already.
pub(crate) fn claimed(
    tx: &Tx<'_>,
    user: &UserName,
    teller: &PublicKey,
    incarnation: u32,
    version: u64,
) -> Result<bool> {
    if is_own(tx, user)? {
        return Ok(false);
    }
    if identity::known(tx, user)?.map(|known| known.eid.incarnation) != Some(incarnation) {
        return Ok(false);
    }
    let kept = find(tx, user)?;
    let seen = kept.signed.as_ref().filter(|signed| signed.profile.incarnation == incarnation);
    if version <= kept.claimed.max(seen.map_or(0, |signed| signed.profile.version)) {
        return Ok(false);
    }
    save(tx, user, &Kept { claimed: version, claimed_by: Some(*teller), looks: 0, ..kept })?;
    Ok(true)
}

/// Compares the version of a user's profile that a client told with what a lookup showed just now of the user, who has these
/// clients. One that the second lookup does not show either is kept back, which is told once (AS-11). The word of a client that
/// is the user's no more counts for nothing, and holds up no other's.
pub(crate) fn check_claim(tx: &Tx<'_>, user: &UserName, clients: &[PublicKey]) -> Result<()> {
    let kept = find(tx, user)?;
    let Some(teller) = kept.claimed_by else { return Ok(()) };
    if !clients.contains(&teller) {
        return save(tx, user, &Kept { claimed: 0, claimed_by: None, looks: 0, ..kept });
    }
    let shown = kept.signed.as_ref().map_or(0, |signed| signed.profile.version);
    if shown >= kept.claimed {
        return save(tx, user, &Kept { claimed_by: None, looks: 0, ..kept });
    }
    if kept.looks == LOOKS {
        return Ok(());
    }
    let looks = kept.looks + 1;
    if looks == LOOKS {
        Event::ignored(KEPT_BACK).record(tx)?;
    }
    save(tx, user, &Kept { looks, ..kept })
}

/// Whether a lookup did not show the version of a user's profile that a client told, and another one is to say whether the AS
/// keeps it back.
pub(crate) fn is_to_be_looked_for(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    let kept = find(tx, user)?;
    Ok(kept.claimed_by.is_some() && kept.looks < LOOKS)
}

/// Forgets a user's profile, the key to it, and what was told of it, because a person accepted another identity of that
/// name: it may be somebody else's.
pub(crate) fn forget(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM profiles WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// The keys that this device has, for a new one of the user.
pub(crate) fn handover(tx: &Tx<'_>) -> Result<ProfileKeys> {
    let own = Account::load(tx)?.user.to_string();
    let sql = "SELECT user, key FROM profiles WHERE key IS NOT NULL AND user <> ?1 ORDER BY user";
    let mut statement = tx.sql().prepare(sql)?;
    let rows = statement
        .query_map([own], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, Vec<u8>)>, _>>()?;
    let entry = |(user, key): &(String, Vec<u8>)| {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        Ok((user, decode(key, "a profile key")?))
    };
    rows.iter().map(entry).collect::<Result<_>>().map(ProfileKeys)
}

/// Takes over what another device of the user handed over.
pub(crate) fn take_over(tx: &Tx<'_>, keys: &ProfileKeys) -> Result<()> {
    keys.0.iter().try_for_each(|(user, key)| keep_key(tx, user, key, Source::User).map(drop))
}

/// The secrets to try when a user is looked up, who may be hidden from others. The AS may know the one, and not yet the
/// other.
pub(crate) fn lookup_secrets(tx: &Tx<'_>, user: &UserName) -> Result<Vec<LookupSecret>> {
    let (kept, own) = (find(tx, user)?, key_of(tx, user)?);
    let known = kept.keys().chain(&own).map(|shared| shared.key.lookup_secret());
    let mut secrets = Vec::new();
    for secret in known.chain(contact::secrets_in_letters(tx, user)?) {
        if !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }
    Ok(secrets)
}

/// The profile of a user as far as it is known.
pub(crate) fn profile(tx: &Tx<'_>, user: &UserName) -> Result<UserProfile> {
    Ok(find(tx, user)?.profile())
}

/// The version of the profile that counts of a user; 0: none.
pub(crate) fn version(tx: &Tx<'_>, user: &UserName) -> Result<u64> {
    Ok(find(tx, user)?.signed.map_or(0, |signed| signed.profile.version))
}

/// Takes note of the profile that a lookup showed of a user with this identity, a state and confirmed clients. It counts if
/// one of the clients signed it, and if it is not older than one that was seen. Of a user that is `new` nothing changed.
pub(crate) fn seen(
    tx: &Tx<'_>,
    user: &UserName,
    shown: &SignedProfile,
    founding: &Transcript,
    clients: &[PublicKey],
    is_new: bool,
) -> Result<()> {
    let incarnation = identity::known(tx, user)?.map(|known| known.eid.incarnation);
    let before = find(tx, user)?;
    let mut kept = Kept { version: shown.profile.version, ..before.clone() };
    // A device that was removed may have signed it: then another one does so again.
    if !clients.contains(&shown.client)
        || Some(shown.profile.incarnation) != incarnation
        || shown.verify(founding).is_err()
    {
        tracing::warn!("a profile is not signed by a device of its user, and is not shown");
        return save(tx, user, &kept);
    }
    let order = |signed: &SignedProfile| (signed.profile.incarnation, signed.profile.version);
    match &before.signed {
        // Whatever number a device gave it that was removed since: it holds nobody else up.
        Some(before) if !clients.contains(&before.client) => {}
        Some(before) if order(before) > order(shown) => {
            tracing::warn!("the server shows an older profile of a user than before");
            return save(tx, user, &kept);
        }
        Some(before) if order(before) == order(shown) => return save(tx, user, &kept),
        Some(before) if before.profile.incarnation != shown.profile.incarnation => kept.for_contacts = None,
        _ => {}
    }
    kept.signed = Some(shown.clone());
    if is_own(tx, user)? {
        // Under the older one it is to be sealed again.
        let mut keys = own_key(tx)?.into_iter().chain(before.key.clone());
        kept.key = keys.find(|shared| sealing::open(&shared.key, founding, &shown.profile.sealed).is_some());
    }
    take_effect(tx, user, &before, kept, !is_new)
}

/// Keeps a row, with the part for contacts if a key opens it, and tells of another name to show.
fn take_effect(tx: &Tx<'_>, user: &UserName, before: &Kept, mut kept: Kept, tell: bool) -> Result<()> {
    let founding = identity::known(tx, user)?.map(|known| known.founding);
    let opened = founding.zip(kept.signed.as_ref()).and_then(|(founding, signed)| {
        kept.keys().find_map(|shared| sealing::open(&shared.key, &founding, &signed.profile.sealed))
    });
    if opened.is_some() {
        kept.for_contacts = opened;
    }
    save(tx, user, &kept)?;
    let (old, new) = (before.profile(), kept.profile());
    if tell && old.shown_name() != new.shown_name() {
        let display_name = new.shown_name().to_owned();
        group::shows_name(tx, user, &display_name)?;
        Event::DisplayName { user: user.clone(), display_name }.record(tx)?;
    }
    Ok(())
}

/// Keeps a user's profile under another name (AS-9).
pub(crate) fn rename(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM profiles WHERE user = ?1", [to.to_string()])?;
    tx.sql().execute("UPDATE profiles SET user = ?2 WHERE user = ?1", [from.to_string(), to.to_string()])?;
    Ok(())
}

fn is_own(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    Ok(Account::find(tx)?.is_some_and(|account| account.user == *user))
}

fn find(tx: &Tx<'_>, user: &UserName) -> Result<Kept> {
    type Row =
        (Option<Vec<u8>>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, u64, (u64, Option<[u8; 32]>, u32));
    let row: Option<Row> = tx
        .sql()
        .prepare_cached(
            "SELECT key, told, profile, for_contacts, version, claimed, claimed_by, looks
               FROM profiles WHERE user = ?1",
        )?
        .query_row([user.to_string()], |row| {
            let claim = (row.get(5)?, row.get(6)?, row.get(7)?);
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, claim))
        })
        .optional()?;
    let Some((key, told, signed, for_contacts, version, (claimed, claimed_by, looks))) = row else {
        return Ok(Kept::default());
    };
    Ok(Kept {
        key: key.map(|key| decode(&key, "a profile key")).transpose()?,
        told: decode(&told, "profile keys")?,
        signed: signed.map(|signed| decode(&signed, "a profile")).transpose()?,
        for_contacts: for_contacts.map(|content| decode(&content, "a profile")).transpose()?,
        version,
        claimed,
        claimed_by: claimed_by.map(PublicKey::new),
        looks,
    })
}

fn save(tx: &Tx<'_>, user: &UserName, kept: &Kept) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO profiles
                (user, key, told, profile, for_contacts, version, claimed, claimed_by, looks)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            user.to_string(),
            kept.key.as_ref().map(encode),
            encode(&kept.told),
            kept.signed.as_ref().map(encode),
            kept.for_contacts.as_ref().map(encode),
            integer(kept.version),
            integer(kept.claimed),
            kept.claimed_by.as_ref().map(PublicKey::as_bytes),
            kept.looks
        ],
    )?;
    Ok(())
}
