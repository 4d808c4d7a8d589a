//! Profiles (AS-6): this user's, which the devices sign, and those of others as lookups showed them. None goes back to an
//! earlier version, and none counts that no device of its user signed. Owns the table `profiles`.

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
    error::{Error, Result},
    event::Event,
    identity, sealed,
    server::Api,
    store::{Store, Tx, decode, encode, fixed},
};

/// How often a change is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

/// A user's profile as this device knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UserProfile {
    /// Empty if there is none.
    pub display_name: String,
    pub text: String,
    /// The picture, which [`crate::Client::picture`] fetches.
    pub picture: Option<PictureLink>,
    /// The part for contacts, if the user gave this one the key to it.
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
    /// Whether anybody can look this user up, or contacts only.
    pub discoverable: Option<bool>,
}

/// Keys of profiles, as the user's devices share them: of contacts, and the own one.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ProfileKeys(Vec<(UserName, ProfileKey)>);

/// A row of the table.
#[derive(Default)]
struct Kept {
    key: Option<ProfileKey>,
    signed: Option<SignedProfile>,
    hidden: bool,
}

/// The key of this user's part for contacts, which letters and groups carry.
pub(crate) fn key(tx: &Tx<'_>) -> Result<ProfileKey> {
    let user = Account::load(tx)?.user.clone();
    if let Some(key) = find(tx, &user)?.key {
        return Ok(key);
    }
    let key = ProfileKey::generate();
    keep_key(tx, &user, &key)?;
    Ok(key)
}

/// Keeps the key that a user gave, or that another device of this user has.
pub(crate) fn keep_key(tx: &Tx<'_>, user: &UserName, key: &ProfileKey) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO profiles (user, key) VALUES (?1, ?2) ON CONFLICT (user) DO UPDATE SET key = excluded.key",
        params![user.to_string(), key.as_bytes()],
    )?;
    Ok(())
}

/// The keys that this device has, for a new one of the user.
pub(crate) fn handover(tx: &Tx<'_>) -> Result<ProfileKeys> {
    key(tx)?;
    let mut statement =
        tx.sql().prepare("SELECT user, key FROM profiles WHERE key IS NOT NULL ORDER BY user")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, Vec<u8>)>, _>>()?;
    let entry = |(user, key): &(String, Vec<u8>)| {
        let user = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        Ok((user, fixed(key, "a profile key")?))
    };
    rows.iter().map(entry).collect::<Result<_>>().map(ProfileKeys)
}

/// Takes over what another device of the user handed over.
pub(crate) fn take_over(tx: &Tx<'_>, keys: &ProfileKeys) -> Result<()> {
    keys.0.iter().try_for_each(|(user, key)| keep_key(tx, user, key))
}

/// The secret to show when a user is looked up, who may be hidden from others.
pub(crate) fn lookup_secret(tx: &Tx<'_>, user: &UserName) -> Result<Option<LookupSecret>> {
    Ok(find(tx, user)?.key.map(|key| key.lookup_secret()))
}

/// What is known of a user's profile.
pub(crate) fn profile(tx: &Tx<'_>, user: &UserName) -> Result<UserProfile> {
    let kept = find(tx, user)?;
    let Some(SignedProfile { profile, .. }) = &kept.signed else { return Ok(UserProfile::default()) };
    let founding = identity::known(tx, user)?.map(|known| known.founding);
    Ok(UserProfile {
        display_name: profile.display_name.clone(),
        text: profile.text.clone(),
        picture: profile.picture,
        for_contacts: kept
            .key
            .zip(founding)
            .and_then(|(key, founding)| open(&key, &founding, &profile.sealed)),
    })
}

/// Takes note of the profile that a lookup showed of a user with this identity and these clients. It counts if one of the
/// clients signed it, and if it is not older than one that was seen.
pub(crate) fn seen(
    tx: &Tx<'_>,
    user: &UserName,
    shown: &SignedProfile,
    founding: &Transcript,
    incarnation: u32,
    clients: &[PublicKey],
) -> Result<()> {
    // A device that was removed may have signed it: then another one does so again.
    if !clients.contains(&shown.client)
        || shown.profile.incarnation != incarnation
        || shown.verify(founding).is_err()
    {
        tracing::warn!("a profile is not signed by a device of its user, and is not shown");
        return Ok(());
    }
    let before = find(tx, user)?.signed;
    let order = |signed: &SignedProfile| (signed.profile.incarnation, signed.profile.version);
    match before.as_ref() {
        Some(before) if order(before) > order(shown) => {
            tracing::warn!("the server shows an older profile of a user than before");
            return Ok(());
        }
        Some(before) if order(before) == order(shown) => return Ok(()),
        _ => {}
    }
    keep(tx, user, shown)?;
    let named = |signed: &SignedProfile| signed.profile.display_name.clone();
    let (old, new) = (before.as_ref().map(named).unwrap_or_default(), named(shown));
    // Of a user who is seen for the first time nothing has changed.
    if before.is_some() && old != new {
        Event::DisplayName { user: user.clone(), display_name: new }.record(tx)?;
    }
    Ok(())
}

/// Keeps a user's profile under another name (AS-9).
pub(crate) fn rename(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM profiles WHERE user = ?1", [to.to_string()])?;
    tx.sql().execute("UPDATE profiles SET user = ?2 WHERE user = ?1", [from.to_string(), to.to_string()])?;
    Ok(())
}

/// Changes this user's profile at the AS. Where another device changed it meanwhile, the change is made to that one.
pub(crate) async fn change(api: &Api, store: &Store, change: &ProfileChange) -> Result<()> {
    let (account, link) = (store.read(Account::load)?, change.picture.as_deref().map(link).transpose()?);
    for _ in 0..ATTEMPTS {
        let put = store.write(|tx| make(tx, &account, change, link))?;
        match api.put_profile(&put, &account.client_key()).await {
            Ok(()) => {
                return store.write(|tx| {
                    keep(tx, &account.user, &put.profile)?;
                    let sql = "UPDATE profiles SET hidden = ?2 WHERE user = ?1";
                    tx.sql().execute(sql, params![account.user.to_string(), !put.discoverable])?;
                    Ok(())
                });
            }
            Err(error) if error.problem() == Some(ProblemType::ProfileOutdated) => {
                identity::look_up(api, store, &account.user).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// The next version of this user's profile. `link` is of a new picture, or of none.
fn make(
    tx: &Tx<'_>,
    account: &Account,
    change: &ProfileChange,
    link: Option<Option<PictureLink>>,
) -> Result<PutProfile> {
    let own = identity::known(tx, &account.user)?.ok_or(Error::NotReady)?;
    let (key, kept) = (key(tx)?, find(tx, &account.user)?);
    let before = kept.signed.filter(|signed| signed.profile.incarnation == own.eid.incarnation);
    let before = before.map(|signed| signed.profile);
    let text = |change: &Option<String>, before: Option<&String>| {
        change.as_ref().or(before).cloned().unwrap_or_default()
    };
    let profile = Profile {
        incarnation: own.eid.incarnation,
        version: before.as_ref().map_or(0, |before| before.version + 1),
        display_name: text(&change.display_name, before.as_ref().map(|before| &before.display_name)),
        text: text(&change.text, before.as_ref().map(|before| &before.text)),
        picture: link.unwrap_or_else(|| before.as_ref().and_then(|before| before.picture)),
        sealed: match &change.for_contacts {
            Some(content) => seal(&key, &own.founding, content)?,
            None => before.as_ref().map(|before| before.sealed.clone()).unwrap_or_default(),
        },
    };
    if profile.display_name.len() > postern_protocol::profile::MAX_PART
        || profile.text.len() > postern_protocol::profile::MAX_PART
    {
        return Err(Error::TooLong("the profile"));
    }
    Ok(PutProfile {
        profile: SignedProfile::sign(&own.founding, profile, &account.client_key()),
        picture: change.picture.clone().filter(|picture| !picture.is_empty()).map(Payload::new),
        discoverable: change.discoverable.unwrap_or(!kept.hidden),
        lookup: key.lookup_secret().digest(),
    })
}

/// The link to a picture, of what its content says that it is; none to an empty one.
///
/// # Errors
/// [`Error::BadPicture`].
fn link(picture: &[u8]) -> Result<Option<PictureLink>> {
    if picture.is_empty() {
        return Ok(None);
    }
    let format = match imagesize::image_type(picture) {
        Ok(imagesize::ImageType::Png) => PictureFormat::Png,
        Ok(imagesize::ImageType::Jpeg) => PictureFormat::Jpeg,
        Ok(imagesize::ImageType::Webp) => PictureFormat::Webp,
        _ => return Err(Error::BadPicture),
    };
    let bytes = u32::try_from(picture.len()).map_err(|_| Error::BadPicture)?;
    Ok(Some(PictureLink { format, bytes, digest: MessageDigest::of(picture) }))
}

/// The picture that a profile names, as the AS shows it.
///
/// # Errors
/// [`Error::BadPicture`] for another one.
pub(crate) async fn picture(api: &Api, store: &Store, user: &UserName) -> Result<Option<Vec<u8>>> {
    let (profile, secret) = store.read(|tx| Ok((profile(tx, user)?, lookup_secret(tx, user)?)))?;
    let Some(wanted) = profile.picture else { return Ok(None) };
    let picture = api.fetch_picture(user, secret.as_ref()).await?.into_bytes();
    if MessageDigest::of(&picture) == wanted.digest { Ok(Some(picture)) } else { Err(Error::BadPicture) }
}

fn find(tx: &Tx<'_>, user: &UserName) -> Result<Kept> {
    let row: Option<(Option<Vec<u8>>, Option<Vec<u8>>, bool)> = tx
        .sql()
        .prepare_cached("SELECT key, profile, hidden FROM profiles WHERE user = ?1")?
        .query_row([user.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((key, signed, hidden)) = row else { return Ok(Kept::default()) };
    Ok(Kept {
        key: key.map(|key| fixed(&key, "a profile key")).transpose()?,
        signed: signed.map(|signed| decode(&signed, "a profile")).transpose()?,
        hidden,
    })
}

fn keep(tx: &Tx<'_>, user: &UserName, signed: &SignedProfile) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO profiles (user, profile) VALUES (?1, ?2)
         ON CONFLICT (user) DO UPDATE SET profile = excluded.profile",
        params![user.to_string(), encode(signed)],
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
                display_name: name.to_owned(),
                text: String::new(),
                picture: None,
                sealed: Payload::default(),
            };
            SignedProfile::sign(&self.founding, profile, &self.phone)
        }

        fn see(&self, shown: &SignedProfile, incarnation: u32) {
            let clients = [self.phone.public_key()];
            self.store.write(|tx| seen(tx, &self.bob, shown, &self.founding, incarnation, &clients)).unwrap();
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
