//! This user's profile at the AS: a device of the user signs the next version, after the last one that it knows of.

use postern_protocol::{
    Payload,
    problem::ProblemType,
    profile::{MAX_PART, Profile, PutProfile, SignedProfile},
};

use super::{
    Kept, ProfileChange, SharedProfileKey, find, own_key, picture::NextPicture, sealing, take_effect,
};
use crate::{
    account::Account,
    contact,
    error::{Error, Result},
    group, identity,
    server::Api,
    store::{Store, Tx},
};

/// How often a change is tried again after another device was faster.
const ATTEMPTS: u32 = 5;

/// Changes this user's profile at the AS, and has contacts and groups told. Where another device changed it meanwhile, the
/// change is made to that one.
pub(crate) async fn change(api: &Api, store: &Store, change: &ProfileChange) -> Result<()> {
    let account = store.read(Account::load)?;
    let picture = change.picture.as_deref().map_or(Ok(NextPicture::Same), NextPicture::of)?;
    store.write(|tx| {
        let before = find(tx, &account.user)?.signed;
        let hides = change.discoverable == Some(false);
        if before.is_none_or(|before| hides && before.profile.discoverable) {
            // Members need the key from then on, and may have missed one. Noted before it is sent: where the answer is lost, the
            // next lookup shows a profile with which nothing changes any more.
            gives_key(tx, true)?;
        }
        Ok(())
    })?;
    for _ in 0..ATTEMPTS {
        if put(api, store, &account, change, picture).await?.is_some() {
            return store.write(|tx| {
                contact::tell_contacts_of_profile(tx)?;
                // A message of the next version has members ask the AS, and brings the key (AS-11).
                if give_key_if_due(tx)? { Ok(()) } else { group::tell_groups(tx) }
            });
        }
    }
    Err(Error::Contended(ATTEMPTS))
}

/// Notes whether groups are to be given the key to the profile.
fn gives_key(tx: &Tx<'_>, gives: bool) -> Result<()> {
    let mut account = Account::load(tx)?;
    account.gives_profile_key = gives;
    account.save(tx)
}

/// Gives groups the key to the profile, if they are to have it. Returns whether they were.
fn give_key_if_due(tx: &Tx<'_>) -> Result<bool> {
    let is_due = Account::load(tx)?.gives_profile_key;
    if is_due {
        group::give_profile_key(tx)?;
        gives_key(tx, false)?;
    }
    Ok(is_due)
}

/// Seals the part for contacts again, if the key to it became another one, and signs the profile anew: a device that was
/// removed may have signed it last (AS-13). Then groups are told the key; contacts have it with the friendship.
pub(crate) async fn settle(api: &Api, store: &Store) -> Result<()> {
    let account = store.read(Account::load)?;
    // A change whose answer was lost is known once a lookup showed that it was made.
    if account.gives_profile_key && store.read(|tx| Ok(find(tx, &account.user)?.signed.is_some()))? {
        store.write(give_key_if_due)?;
    }
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
            (sealing::seal(&current.key, &own.founding, &content)?, Some(current.clone()))
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
    if profile.display_name.len() > MAX_PART || profile.text.len() > MAX_PART {
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
