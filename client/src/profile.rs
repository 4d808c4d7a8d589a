//! Profiles (AS-6): this user's, which the devices sign, and those of others as lookups showed them. None goes back to an
//! earlier version, and none counts that no device of its user signed. The key of a user's part for contacts is part of
//! the friendship that contacts have, and of what devices say in groups. Owns the table `profiles`.

use postern_protocol::{
    LookupSecret, MessageDigest, Payload, PublicKey, Transcript,
    encoding::Encoding,
    name::UserName,
    problem::ProblemType,
    profile::{PictureFormat, PictureLink, Profile, ProfileKey, PutProfile, SignedProfile},
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    contact::{self, Edition, Friendship},
    error::{Error, Result},
    event::Event,
    group, identity, sealed,
    server::Api,
    store::{Store, Tx, decode, encode, integer},
};

/// How often a change is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

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

/// Source of a profile key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A device of the key's user.
    User,
    /// Anybody else, or a device that the AS did not confirm yet.
    Told,
}

/// Keys of other users' profiles, as this user's devices share them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ProfileKeys(Vec<(UserName, SharedProfileKey)>);

/// A row of the table.
#[derive(Clone, Default)]
struct Kept {
    /// The key as it is known; of this device's own user the one that the AS's profile is under.
    key: Option<SharedProfileKey>,
    told: bool,
    signed: Option<SignedProfile>,
    /// The part for contacts of the last profile that opened.
    for_contacts: Option<ForContacts>,
    /// The version that the AS showed last, whether that profile counts or not.
    version: u64,
    /// The greatest version that a device of the user told.
    claimed: u64,
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
    if is_own(tx, user)? { own_key(tx) } else { Ok(find(tx, user)?.key) }
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

/// Keeps a user's key, unless a later one is known, or one that the user gave and this was only told. Returns whether
/// it is news.
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
    let told = source == Source::Told;
    let is_news = before.key.as_ref().is_none_or(|known| match before.told {
        // Some of a user's devices may have said it before the key became another one.
        true => !told || shared.replaces(known),
        false => !told && shared.replaces(known),
    });
    if is_news {
        let kept = Kept { key: Some(shared.clone()), told, ..before.clone() };
        take_effect(tx, user, &before, kept, true)?;
    }
    Ok(is_news)
}

/// Notes the version of a user's profile that a device of the user told. Returns whether the AS has to be asked for it.
pub(crate) fn claimed(tx: &Tx<'_>, user: &UserName, incarnation: u32, version: u64) -> Result<bool> {
    if is_own(tx, user)? {
        return Ok(false);
    }
    let kept = find(tx, user)?;
    let seen = kept.signed.as_ref().filter(|signed| signed.profile.incarnation == incarnation);
    if version <= kept.claimed.max(seen.map_or(0, |signed| signed.profile.version)) {
        return Ok(false);
    }
    save(tx, user, &Kept { claimed: version, ..kept })?;
    Ok(true)
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
    let sql =
        "SELECT user, key FROM profiles WHERE key IS NOT NULL AND told = 0 AND user <> ?1 ORDER BY user";
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
    let known = [find(tx, user)?.key, key_of(tx, user)?].into_iter().flatten();
    let known = known.map(|shared| shared.key.lookup_secret());
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
        kept.key = keys.find(|shared| open(&shared.key, founding, &shown.profile.sealed).is_some());
    }
    take_effect(tx, user, &before, kept, !is_new)
}

/// Keeps a row, with the part for contacts if the key opens it, and tells of another name to show.
fn take_effect(tx: &Tx<'_>, user: &UserName, before: &Kept, mut kept: Kept, tell: bool) -> Result<()> {
    let founding = identity::known(tx, user)?.map(|known| known.founding);
    if let (Some(shared), Some(founding), Some(signed)) = (&kept.key, founding, &kept.signed)
        && let Some(content) = open(&shared.key, &founding, &signed.profile.sealed)
    {
        kept.for_contacts = Some(content);
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

/// Changes this user's profile at the AS, and has contacts told. Where another device changed it meanwhile, the change is
/// made to that one.
pub(crate) async fn change(api: &Api, store: &Store, change: &ProfileChange) -> Result<()> {
    let account = store.read(Account::load)?;
    let picture = change.picture.as_deref().map_or(Ok(NextPicture::Same), NextPicture::of)?;
    for _ in 0..ATTEMPTS {
        let before = store.read(|tx| find(tx, &account.user))?.signed;
        if let Some(put) = put(api, store, &account, change, picture).await? {
            return store.write(|tx| {
                contact::tell_contacts_of_profile(tx)?;
                let hides = !put.discoverable && before.is_none_or(|before| before.profile.discoverable);
                if hides || put.version == 1 {
                    // Members need the key from now on, and may have missed one.
                    group::give_profile_key(tx)?;
                }
                Ok(())
            });
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// Seals the part for contacts again, if the key to it became another one, and signs the profile anew: a device that was
/// removed may have signed it last (AS-13). Then groups are told the key; contacts have it with the friendship.
pub(crate) async fn settle(api: &Api, store: &Store) -> Result<()> {
    let account = store.read(Account::load)?;
    for _ in 0..ATTEMPTS {
        if !store.read(|tx| is_due(tx, &account))? {
            return Ok(());
        }
        if put(api, store, &account, &ProfileChange::default(), NextPicture::Same).await?.is_some() {
            return store.write(group::give_profile_key);
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// Whether the profile at the AS is under an older key than this device's, or signed by a device that is none of the
/// user's. A device that cannot read the part for contacts leaves that to another.
fn is_due(tx: &Tx<'_>, account: &Account) -> Result<bool> {
    let kept = find(tx, &account.user)?;
    let (Some(signed), Some(_), Some(current)) = (&kept.signed, &kept.for_contacts, own_key(tx)?) else {
        return Ok(false);
    };
    let is_ours = signed.client == account.client_key().public_key()
        || identity::confirmed(tx, &signed.client)?.as_ref() == Some(&account.user);
    let is_under_old_key = kept.key.is_some_and(|key| current.replaces(&key));
    Ok(is_under_old_key || !is_ours || kept.version > signed.profile.version)
}

/// Puts the next version of this user's profile. `None` if another device was faster, whose version is known then.
async fn put(
    api: &Api,
    store: &Store,
    account: &Account,
    change: &ProfileChange,
    picture: NextPicture,
) -> Result<Option<Profile>> {
    let (put, key) = store.read(|tx| make(tx, account, change, picture))?;
    match api.put_profile(&put, &account.client_key()).await {
        Ok(()) => store.write(|tx| {
            let before = find(tx, &account.user)?;
            let profile = put.profile.profile.clone();
            let (signed, version) = (Some(put.profile), profile.version);
            let kept = Kept { key, signed, version, ..before.clone() };
            take_effect(tx, &account.user, &before, kept, false)?;
            Ok(Some(profile))
        }),
        Err(error) if error.problem() == Some(ProblemType::ProfileOutdated) => {
            identity::look_up(api, store, &account.user).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The next version of this user's profile, and the key that its part for contacts is under; `None` if that is one that
/// this device does not have.
fn make(
    tx: &Tx<'_>,
    account: &Account,
    change: &ProfileChange,
    picture: NextPicture,
) -> Result<(PutProfile, Option<SharedProfileKey>)> {
    let own = identity::known(tx, &account.user)?.ok_or(Error::NotReady)?;
    let (current, kept) = (own_key(tx)?.ok_or(Error::NotReady)?, find(tx, &account.user)?);
    // That of a device that was removed says nothing of what the AS has.
    let own_version = match &kept.signed {
        Some(signed) if identity::has_device(tx, &account.user, &signed.client)? == Some(true) => {
            signed.profile.version
        }
        _ => 0,
    };
    let version = own_version.max(kept.version);
    let before = kept.signed.map(|signed| signed.profile);
    let before = before.filter(|profile| profile.incarnation == own.eid.incarnation);
    let text = |change: &Option<String>, before: Option<&String>| {
        change.as_ref().or(before).cloned().unwrap_or_default()
    };
    let content = change.for_contacts.as_ref().or(kept.for_contacts.as_ref());
    let (sealed, key) = match (content, &before) {
        // Another device sealed it, and seals it again under the key of now.
        (None, Some(before)) => (before.sealed.clone(), None),
        (content, _) => {
            let content = content.cloned().unwrap_or_default();
            (seal(&current.key, &own.founding, &content)?, Some(current.clone()))
        }
    };
    let discoverable = change.discoverable.or(before.as_ref().map(|before| before.discoverable));
    let profile = Profile {
        incarnation: own.eid.incarnation,
        version: version
            .checked_add(1)
            .ok_or(Error::unexpected("a profile of the last version that there is"))?,
        discoverable: discoverable.unwrap_or(true),
        display_name: text(&change.display_name, before.as_ref().map(|before| &before.display_name)),
        text: text(&change.text, before.as_ref().map(|before| &before.text)),
        picture: match picture {
            NextPicture::Same => before.as_ref().and_then(|before| before.picture),
            NextPicture::None => None,
            NextPicture::New(link) => Some(link),
        },
        sealed,
    };
    if profile.display_name.len() > postern_protocol::profile::MAX_PART
        || profile.text.len() > postern_protocol::profile::MAX_PART
    {
        return Err(Error::TooLong("the profile"));
    }
    let lookup = (!profile.discoverable).then(|| current.key.lookup_secret().digest());
    let put = PutProfile {
        profile: SignedProfile::sign(&own.founding, profile, &account.client_key()),
        picture: change.picture.clone().filter(|picture| !picture.is_empty()).map(Payload::new),
        lookup,
    };
    Ok((put, key))
}

/// The picture of a profile's next version.
#[derive(Clone, Copy)]
enum NextPicture {
    Same,
    None,
    New(PictureLink),
}

impl NextPicture {
    /// A picture of what its content says that it is; none for an empty one.
    ///
    /// # Errors
    /// [`Error::BadPicture`].
    fn of(picture: &[u8]) -> Result<Self> {
        if picture.is_empty() {
            return Ok(Self::None);
        }
        let format = match imagesize::image_type(picture) {
            Ok(imagesize::ImageType::Png) => PictureFormat::Png,
            Ok(imagesize::ImageType::Jpeg) => PictureFormat::Jpeg,
            Ok(imagesize::ImageType::Webp) => PictureFormat::Webp,
            _ => return Err(Error::BadPicture),
        };
        let bytes = u32::try_from(picture.len()).map_err(|_| Error::BadPicture)?;
        Ok(Self::New(PictureLink { format, bytes, digest: MessageDigest::of(picture) }))
    }
}

/// The picture that a profile names, as the AS shows it.
///
/// # Errors
/// [`Error::BadPicture`] for another one.
pub(crate) async fn picture(api: &Api, store: &Store, user: &UserName) -> Result<Option<Vec<u8>>> {
    let (profile, secrets) = store.read(|tx| Ok((profile(tx, user)?, lookup_secrets(tx, user)?)))?;
    let Some(wanted) = profile.picture else { return Ok(None) };
    let mut secrets = secrets.iter();
    let picture = loop {
        match api.fetch_picture(user, secrets.next()).await {
            Err(error) if error.problem() == Some(ProblemType::NotFound) && secrets.len() > 0 => {}
            answer => break answer?.into_bytes(),
        }
    };
    if MessageDigest::of(&picture) == wanted.digest { Ok(Some(picture)) } else { Err(Error::BadPicture) }
}

fn is_own(tx: &Tx<'_>, user: &UserName) -> Result<bool> {
    Ok(Account::find(tx)?.is_some_and(|account| account.user == *user))
}

fn find(tx: &Tx<'_>, user: &UserName) -> Result<Kept> {
    type Row = (Option<Vec<u8>>, bool, Option<Vec<u8>>, Option<Vec<u8>>, u64, u64);
    let row: Option<Row> = tx
        .sql()
        .prepare_cached(
            "SELECT key, told, profile, for_contacts, version, claimed FROM profiles WHERE user = ?1",
        )?
        .query_row([user.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .optional()?;
    let Some((key, told, signed, for_contacts, version, claimed)) = row else {
        return Ok(Kept::default());
    };
    Ok(Kept {
        key: key.map(|key| decode(&key, "a profile key")).transpose()?,
        told,
        signed: signed.map(|signed| decode(&signed, "a profile")).transpose()?,
        for_contacts: for_contacts.map(|content| decode(&content, "a profile")).transpose()?,
        version,
        claimed,
    })
}

fn save(tx: &Tx<'_>, user: &UserName, kept: &Kept) -> Result<()> {
    tx.sql().execute(
        "INSERT OR REPLACE INTO profiles (user, key, told, profile, for_contacts, version, claimed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            user.to_string(),
            kept.key.as_ref().map(encode),
            kept.told,
            kept.signed.as_ref().map(encode),
            kept.for_contacts.as_ref().map(encode),
            integer(kept.version),
            integer(kept.claimed)
        ],
    )?;
    Ok(())
}

/// Seals the part for contacts, for the identity that it is of.
fn seal(key: &ProfileKey, founding: &Transcript, content: &ForContacts) -> Result<Payload> {
    let content = Encoding::Cbor.encode(content);
    sealed::seal_for(key.as_bytes(), founding.as_bytes(), &content).map(Payload::new)
}

/// `None` for anything but what [`seal`] made under this key for this identity.
fn open(key: &ProfileKey, founding: &Transcript, sealed: &Payload) -> Option<ForContacts> {
    let content = sealed::open_for(key.as_bytes(), founding.as_bytes(), sealed.as_bytes())?;
    Encoding::Cbor.decode(&content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use postern_protocol::key::SigningKey;
    use rusqlite::params;

    struct World {
        store: Store,
        _directory: tempfile::TempDir,
        phone: SigningKey,
        founding: Transcript,
        bob: UserName,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self {
                store: Store::create(directory.path(), &Options::default()).unwrap(),
                _directory: directory,
                phone: SigningKey::generate(),
                founding: Transcript::new([1; 32]),
                bob: "bob@example.org".parse().unwrap(),
            }
        }

        fn signed(&self, incarnation: u32, version: u64, name: &str) -> SignedProfile {
            let profile = Profile {
                incarnation,
                version,
                discoverable: true,
                display_name: name.to_owned(),
                text: String::new(),
                picture: None,
                sealed: Payload::default(),
            };
            SignedProfile::sign(&self.founding, profile, &self.phone)
        }

        /// A lookup shows a profile of Bob, whose identity is of this incarnation.
        fn see(&self, shown: &SignedProfile, incarnation: u32) {
            let clients = [self.phone.public_key()];
            self.store
                .write(|tx| {
                    let sql = "SELECT EXISTS (SELECT 1 FROM eids)";
                    let is_new = !tx.sql().query_row(sql, [], |row| row.get::<_, bool>(0))?;
                    tx.sql().execute(
                        "INSERT OR REPLACE INTO eids (user, pending, founder, founding, incarnation, epoch, transcript,
                                                      public_group, seen, verified)
                         VALUES (?1, 0, ?2, ?2, ?3, 0, ?2, x'', 0, 0)",
                        params![self.bob.to_string(), self.founding.as_bytes(), incarnation],
                    )?;
                    seen(tx, &self.bob, shown, &self.founding, &clients, is_new)
                })
                .unwrap();
        }

        fn under(&self, version: u64, key: &ProfileKey, content: &ForContacts) -> SignedProfile {
            let sealed = seal(key, &self.founding, content).unwrap();
            let profile = Profile { sealed, ..self.signed(0, version, "Bob").profile };
            SignedProfile::sign(&self.founding, profile, &self.phone)
        }

        fn told(&self, shared: &SharedProfileKey, source: Source) -> bool {
            self.store.write(|tx| keep_key(tx, &self.bob, shared, source)).unwrap()
        }

        fn for_contacts(&self) -> Option<ForContacts> {
            self.store.read(|tx| profile(tx, &self.bob)).unwrap().for_contacts
        }

        fn name(&self) -> String {
            self.store.read(|tx| profile(tx, &self.bob)).unwrap().display_name
        }

        fn changes(&self) -> usize {
            let events = self.store.read(crate::event::pending).unwrap();
            events.iter().filter(|(_, event)| matches!(event, Event::DisplayName { .. })).count()
        }
    }

    #[test]
    fn a_profile_counts_if_a_device_of_its_user_signed_it_and_never_goes_back() {
        let world = World::new();
        world.see(&world.signed(0, 3, "Bob"), 0);
        assert_eq!((world.name().as_str(), world.changes()), ("Bob", 0));
        world.see(&world.signed(0, 4, "Bobby"), 0);
        assert_eq!((world.name().as_str(), world.changes()), ("Bobby", 1));
        let honest = world.signed(0, 5, "Mallory");
        let changed = Profile { display_name: "Mallory!".into(), ..honest.profile.clone() };
        for forged in [
            world.signed(0, 3, "Bob"),
            world.signed(0, 4, "Mallory"),
            world.signed(1, 1, "Mallory"),
            SignedProfile { profile: changed, ..honest.clone() },
            SignedProfile::sign(&Transcript::new([2; 32]), honest.profile.clone(), &world.phone),
            SignedProfile::sign(&world.founding, honest.profile.clone(), &SigningKey::generate()),
        ] {
            world.see(&forged, 0);
            assert_eq!((world.name().as_str(), world.changes()), ("Bobby", 1), "{forged:?}");
        }
        // After a reset versions begin anew.
        world.see(&world.signed(1, 0, "Robert"), 1);
        assert_eq!((world.name().as_str(), world.changes()), ("Robert", 2));
    }

    #[test]
    fn the_last_version_that_there_is_holds_nobody_up_once_its_device_was_removed() {
        let mut world = World::new();
        world.see(&world.signed(0, 1, "Bob"), 0);
        world.see(&world.signed(0, u64::MAX, "Mallory"), 0);
        assert_eq!(world.name(), "Mallory", "the device was Bob's");
        world.phone = SigningKey::generate();
        world.see(&world.signed(0, 2, "Bob"), 0);
        assert_eq!((world.name().as_str(), world.changes()), ("Bob", 2));
        world.see(&world.signed(0, 1, "Bobby"), 0);
        assert_eq!(world.name(), "Bob", "of devices that are there no version goes back");
    }

    #[test]
    fn another_identity_of_the_name_begins_without_a_profile() {
        let mut world = World::new();
        world.see(&world.signed(0, 7, "Bob"), 0);
        world.store.write(|tx| forget(tx, &world.bob)).unwrap();
        assert_eq!(world.name(), "");
        world.founding = Transcript::new([2; 32]);
        world.see(&world.signed(0, 1, "Bartholomew"), 0);
        assert_eq!(world.name(), "Bartholomew");
    }

    fn key(epoch: u64) -> SharedProfileKey {
        let edition = Edition { incarnation: 0, epoch, number: 1 };
        SharedProfileKey { edition, key: ProfileKey::generate() }
    }

    #[test]
    fn a_key_that_its_user_gave_is_replaced_by_a_later_one_of_the_user_only() {
        let world = World::new();
        let (first, second, third) = (key(1), key(2), key(3));
        assert!(world.told(&second, Source::Told) && world.told(&third, Source::Told), "nothing is known");
        assert!(world.told(&second, Source::User), "the user knows better");
        assert!(!world.told(&third, Source::Told) && !world.told(&first, Source::User));
        assert!(!world.told(&second, Source::User), "it is known");
        assert!(world.told(&third, Source::User));
        let secrets = world.store.read(|tx| lookup_secrets(tx, &world.bob)).unwrap();
        assert_eq!(secrets, [third.key.lookup_secret()]);
        // After a reset editions begin anew.
        world.store.write(|tx| forget(tx, &world.bob)).unwrap();
        assert!(world.told(&first, Source::User));
    }

    #[test]
    fn the_name_for_contacts_is_shown_once_there_is_a_key_and_stays_while_another_key_is_on_its_way() {
        let world = World::new();
        let (old, new) = (key(1), key(2));
        let named = |name: &str| ForContacts { display_name: name.into(), text: String::new() };
        world.see(&world.under(1, &old.key, &named("Bobby")), 0);
        assert_eq!((world.for_contacts(), world.changes()), (None, 0));
        world.told(&old, Source::User);
        assert_eq!((world.for_contacts(), world.changes()), (Some(named("Bobby")), 1));
        world.see(&world.under(2, &new.key, &named("Bobby")), 0);
        assert_eq!((world.for_contacts(), world.changes()), (Some(named("Bobby")), 1), "nothing changed");
        world.told(&new, Source::User);
        assert_eq!(world.changes(), 1);
        world.see(&world.under(3, &new.key, &named("Rob")), 0);
        assert_eq!((world.for_contacts(), world.changes()), (Some(named("Rob")), 2));
    }

    #[test]
    fn a_later_version_that_a_device_tells_is_asked_for_once() {
        let world = World::new();
        world.see(&world.signed(0, 3, "Bob"), 0);
        let is_asked = |version| world.store.write(|tx| claimed(tx, &world.bob, 0, version)).unwrap();
        assert!(!is_asked(3), "it was seen");
        assert!(is_asked(4));
        assert!(!is_asked(4));
        assert!(is_asked(5));
    }

    #[test]
    fn the_part_for_contacts_opens_under_its_key_and_for_its_identity_only() {
        let (key, other) = (ProfileKey::generate(), ProfileKey::generate());
        let (founding, another) = (Transcript::new([1; 32]), Transcript::new([2; 32]));
        let content = ForContacts { display_name: "Bob".into(), text: "at home".into() };
        let sealed = seal(&key, &founding, &content).unwrap();
        assert_eq!(open(&key, &founding, &sealed), Some(content));
        assert_eq!(open(&other, &founding, &sealed), None);
        assert_eq!(open(&key, &another, &sealed), None);
        let longer = ForContacts { display_name: "Bartholomew".into(), text: "away".into() };
        let longer = seal(&key, &founding, &longer).unwrap();
        assert_eq!(longer.as_bytes().len(), sealed.as_bytes().len(), "the length tells nothing of it");
    }
}
