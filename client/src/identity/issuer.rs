//! The keys of each domain's AS, as this client trusts them: which credentials and tickets are its (AS-2). A root that was
//! seen once stays the root, and a key that was revoked once stays revoked, whatever the server shows later. Owns the
//! tables `issuers` and `revoked_issuers`.

use postern_protocol::{
    IssuedCredential, PublicKey,
    auth::AuthenticationKeys,
    credential::{ClientCredential, IssuerStatement},
    name::Domain,
};
use rusqlite::{OptionalExtension as _, params};

use super::known;
use crate::{
    clock::CLOCK_SKEW,
    elsewhere,
    error::{Error, IdentityError, IssuerError, Result},
    event::Event,
    missed,
    server::Api,
    store::{Store, Tx, decode, encode, fixed, integer},
    strangers::{self, Published as _},
};

/// Seconds between two looks at the AS's keys that nobody asks for: an hour, for which copies of them may be kept.
const LOOK_EVERY: u64 = 60 * 60;

/// The most revoked keys that are remembered when an AS does not list them any more.
const REVOKED_KEPT: i64 = 256;

/// Asks an AS for its keys. Those of the own one that are new are compared with what strangers see (AAS-7): to another
/// one everybody is a stranger. If that fails for long while the homeserver is there, the user is told.
///
/// # Errors
/// [`Error::Issuer`] when the server shows others to strangers, or another root than it did.
pub(crate) async fn authentication_keys(store: &Store, api: &Api) -> Result<AuthenticationKeys> {
    let is_own = api.wallet.own().is_none();
    let asked = ask(store, api, is_own).await;
    if is_own {
        missed::note(store, &api.http, AuthenticationKeys::NAME, asked.as_ref().err()).await?;
    }
    asked
}

async fn ask(store: &Store, api: &Api, is_own: bool) -> Result<AuthenticationKeys> {
    let domain = &api.origin;
    let is_of_domain = |shown: AuthenticationKeys| match shown.domain == *domain {
        true => Ok(shown),
        false => Err(Error::unexpected("the keys of another domain")),
    };
    let shown = api.http.authentication_keys().await.map_err(Error::from).and_then(is_of_domain);
    let mut shown = elsewhere::noted(api, shown)?;
    if store.read(|tx| seen(tx, domain))?.as_ref() == Some(&shown) {
        return store.read(|tx| trusted(tx, shown));
    }
    if is_own {
        shown = strangers::compare(store, &api.http, shown).await?;
    }
    store.write(|tx| take(tx, shown))?
}

/// Whether it is time to look at the keys of the own AS, the one of this domain. After a look that failed it is an hour later.
pub(super) fn is_due(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    if !missed::may_try(tx, AuthenticationKeys::NAME)? {
        return Ok(false);
    }
    let sql = "SELECT looked FROM issuers WHERE domain = ?1";
    let looked: Option<u64> = tx.sql().query_row(sql, [domain.as_str()], |row| row.get(0)).optional()?;
    let now = tx.now();
    Ok(looked.is_none_or(|looked| !(looked..looked.saturating_add(LOOK_EVERY)).contains(&now)))
}

/// Notes a look at the keys of an AS.
pub(super) fn looked(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    let sql = "UPDATE issuers SET looked = ?1 WHERE domain = ?2";
    tx.sql().execute(sql, params![integer(tx.now()), domain.as_str()])?;
    Ok(())
}

/// Makes the next look at the AS's keys due.
#[cfg(feature = "lab")]
pub(crate) fn forget_look(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE issuers SET looked = 0", [])?;
    Ok(())
}

/// Forgets the AS of a domain, of which nobody is known here.
pub(crate) fn forget_as(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    for table in ["issuers", "revoked_issuers"] {
        tx.sql().execute(&format!("DELETE FROM {table} WHERE domain = ?1"), [domain.as_str()])?;
    }
    Ok(())
}

/// Accepts whatever root the AS of a domain shows next: a person decided so.
pub(crate) fn accept_root(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    tx.sql().execute("DELETE FROM issuers WHERE domain = ?1", [domain.as_str()])?;
    Ok(())
}

/// Whether the AS of a domain was seen to sign with a key, or to revoke it.
pub(crate) fn was_seen(tx: &Tx<'_>, domain: &Domain, issuer: &PublicKey) -> Result<bool> {
    let keys = seen(tx, domain)?;
    let published =
        keys.is_some_and(|keys| keys.keys.iter().any(|published| published.public_key == *issuer));
    Ok(published || is_revoked(tx, domain, issuer)?)
}

/// Whether the AS of a domain ever showed its keys.
pub(crate) fn is_heard(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    Ok(seen(tx, domain)?.is_some())
}

/// Whether a credential that somebody sends was good at a time (seconds since 1970), under its AS's keys as they were
/// shown last. Whether its client is still its user's, a lookup says.
pub(crate) fn vouches(tx: &Tx<'_>, credential: &IssuedCredential, at: u64) -> Result<bool> {
    let Ok(claim) = ClientCredential::parse(credential) else { return Ok(false) };
    let Some(keys) = seen(tx, claim.user.domain())? else { return Ok(false) };
    Ok(verify_credential(credential, &trusted(tx, keys)?, at).is_ok())
}

/// Whether the AS of a domain revoked a key of its own, as far as this client was told.
pub(crate) fn is_revoked(tx: &Tx<'_>, domain: &Domain, issuer: &PublicKey) -> Result<bool> {
    if seen(tx, domain)?.is_some_and(|keys| keys.revoked.contains(issuer)) {
        return Ok(true);
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM revoked_issuers WHERE public_key = ?1 AND domain = ?2)";
    let mut statement = tx.sql().prepare_cached(sql)?;
    Ok(statement.query_row(params![issuer.as_bytes(), domain.as_str()], |row| row.get(0))?)
}

/// Verifies that a published key of the AS signed a credential, that both are valid at `now`, and that the root
/// certified the key if there is one. A credential may begin a little later: clocks differ, and it begins at midnight.
pub(super) fn verify_credential(
    credential: &IssuedCredential,
    keys: &AuthenticationKeys,
    now: u64,
) -> Result<ClientCredential, IdentityError> {
    let claim = ClientCredential::parse(credential).map_err(|_| IdentityError::Credential)?;
    let issuer = claim.issuer_key;
    let now = claim.not_before.clamp(now, now.saturating_add(CLOCK_SKEW));
    let is_good = *claim.user.domain() == keys.domain
        && is_issuer(keys, &issuer, now)
        && !is_worthless(credential, keys, now);
    if !is_good {
        return Err(IdentityError::Credential);
    }
    ClientCredential::verify(credential, issuer, now).map_err(|_| IdentityError::Credential)
}

/// Whether a credential, which may have been good once, is worth nothing: the key that signed it was revoked, or the
/// domain has a root now that did not certify it. Its client gets another.
pub(super) fn is_worthless(credential: &IssuedCredential, keys: &AuthenticationKeys, now: u64) -> bool {
    let Ok(claim) = ClientCredential::parse(credential) else { return true };
    keys.revoked.contains(&claim.issuer_key)
        || keys.root.is_some_and(|root| ClientCredential::verify_chain(credential, root, now).is_err())
}

/// Whether this is a key of the AS that signs at `now`: published, not revoked, and certified if there is a root.
pub(super) fn is_issuer(keys: &AuthenticationKeys, key: &PublicKey, now: u64) -> bool {
    let is_certified = |root| {
        keys.certificates.iter().any(|certificate| {
            IssuerStatement::verify(certificate, root, now)
                .is_ok_and(|statement| statement.issuer_key == *key && statement.domain == keys.domain)
        })
    };
    keys.keys.iter().any(|published| published.public_key == *key && published.is_valid_at(now))
        && !keys.revoked.contains(key)
        && keys.root.is_none_or(is_certified)
}

/// The keys of a domain's AS as they were shown last.
fn seen(tx: &Tx<'_>, domain: &Domain) -> Result<Option<AuthenticationKeys>> {
    let sql = "SELECT keys FROM issuers WHERE domain = ?1";
    let keys: Option<Vec<u8>> = tx.sql().query_row(sql, [domain.as_str()], |row| row.get(0)).optional()?;
    keys.map(|keys| decode(&keys, "the AS's keys")).transpose()
}

/// Keeps keys that are the same for everyone. What has to be told of those that are refused is kept, too: so a refusal is
/// a result, and no failure of the transaction.
fn take(tx: &Tx<'_>, shown: AuthenticationKeys) -> Result<Result<AuthenticationKeys>> {
    let domain = shown.domain.clone();
    let before = seen(tx, &domain)?;
    if before.as_ref().is_some_and(|before| before.root.is_some() && before.root != shown.root) {
        Event::RootChanged { domain: domain.clone() }.record(tx)?;
        return Ok(Err(IssuerError::OtherRoot(domain).into()));
    }
    // Nothing counted that another key signed: it need not be remembered.
    let was_published = |key: &&PublicKey| {
        before.as_ref().is_some_and(|keys| keys.keys.iter().any(|published| published.public_key == **key))
    };
    for key in shown.revoked.iter().filter(was_published) {
        let sql = "INSERT OR IGNORE INTO revoked_issuers (public_key, domain) VALUES (?1, ?2)";
        if tx.sql().execute(sql, params![key.as_bytes(), domain.as_str()])? > 0 {
            // It may have vouched for any user of the domain: the next lookup says.
            known::doubt_all(tx, &domain)?;
        }
    }
    tx.sql().execute(
        "DELETE FROM revoked_issuers WHERE rowid IN (
             SELECT rowid FROM revoked_issuers WHERE domain = ?1 ORDER BY rowid DESC LIMIT -1 OFFSET ?2)",
        params![domain.as_str(), REVOKED_KEPT],
    )?;
    // The own credential may be worth nothing now.
    tx.sql().execute(
        "INSERT OR REPLACE INTO issuers (domain, keys, looked) VALUES (?1, ?2, 0)",
        params![domain.as_str(), encode(&shown)],
    )?;
    trusted(tx, shown).map(Ok)
}

/// Keys that were shown, and those besides that were revoked before.
fn trusted(tx: &Tx<'_>, shown: AuthenticationKeys) -> Result<AuthenticationKeys> {
    let mut statement =
        tx.sql().prepare_cached("SELECT public_key FROM revoked_issuers WHERE domain = ?1")?;
    let revoked = statement.query_map([shown.domain.as_str()], |row| row.get(0))?;
    let revoked = revoked.collect::<Result<Vec<Vec<u8>>, _>>()?;
    let mut revoked: Vec<PublicKey> = revoked.iter().map(|key| fixed(key, "a key")).collect::<Result<_>>()?;
    revoked.extend(shown.revoked.iter().filter(|key| !revoked.contains(key)).copied().collect::<Vec<_>>());
    Ok(AuthenticationKeys { revoked, ..shown })
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::{PublishedKey, SigningKey};

    use super::{known::Which, *};
    use crate::{event, options::Options};

    const NOW: u64 = 1_000;

    fn keys(issuers: &[&SigningKey]) -> AuthenticationKeys {
        let published = |key: &&SigningKey| PublishedKey {
            public_key: key.public_key(),
            not_before: 0,
            not_after: 2 * NOW,
        };
        AuthenticationKeys {
            domain: "example.org".parse().unwrap(),
            root: None,
            keys: issuers.iter().map(published).collect(),
            certificates: Vec::new(),
            revoked: Vec::new(),
        }
    }

    fn credential(issuer: &SigningKey) -> ClientCredential {
        ClientCredential {
            user: "alice@example.org".parse().unwrap(),
            client_key: SigningKey::generate().public_key(),
            not_before: 0,
            not_after: 2 * NOW,
            issuer_key: issuer.public_key(),
        }
    }

    #[test]
    fn a_credential_counts_under_a_key_that_is_published_valid_and_not_revoked() {
        let (issuer, other) = (SigningKey::generate(), SigningKey::generate());
        let issued = credential(&issuer).issue(&issuer);
        let verify = |keys: &AuthenticationKeys| verify_credential(&issued, keys, NOW);
        assert!(verify(&keys(&[&other, &issuer])).is_ok());
        let refused = Err(IdentityError::Credential);
        assert_eq!(verify(&keys(&[&other])), refused);
        let revoked = AuthenticationKeys { revoked: vec![issuer.public_key()], ..keys(&[&issuer]) };
        assert_eq!(verify(&revoked), refused);
        assert!(is_worthless(&issued, &revoked, NOW) && !is_issuer(&revoked, &issuer.public_key(), NOW));
        let elsewhere = AuthenticationKeys { domain: "example.com".parse().unwrap(), ..keys(&[&issuer]) };
        assert_eq!(verify(&elsewhere), refused);
        assert_eq!(verify_credential(&issued, &keys(&[&issuer]), 2 * NOW + 1), refused);
    }

    #[test]
    fn with_a_root_nothing_counts_that_it_did_not_certify() {
        let (issuer, root) = (SigningKey::generate(), SigningKey::generate());
        let statement = IssuerStatement {
            domain: "example.org".parse().unwrap(),
            issuer_key: issuer.public_key(),
            root_key: root.public_key(),
            not_before: 0,
            not_after: 2 * NOW,
        };
        let certificate = statement.certify(&root);
        let bare = AuthenticationKeys { root: Some(root.public_key()), ..keys(&[&issuer]) };
        let certified = AuthenticationKeys { certificates: vec![certificate.clone()], ..bare.clone() };
        let with = credential(&issuer).issue_certified(&issuer, Some(&certificate));
        let without = credential(&issuer).issue(&issuer);
        assert!(verify_credential(&with, &certified, NOW).is_ok());
        assert!(verify_credential(&without, &certified, NOW).is_err());
        assert!(is_worthless(&without, &certified, NOW));
        assert!(is_issuer(&certified, &issuer.public_key(), NOW));
        assert!(!is_issuer(&bare, &issuer.public_key(), NOW));
        assert!(verify_credential(&with, &bare, NOW).is_err());
    }

    #[test]
    fn a_root_stays_until_a_person_accepts_another_and_what_was_revoked_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let (issuer, old, root) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
        let take = |shown: &AuthenticationKeys| store.write(|tx| take(tx, shown.clone())).unwrap();
        let plain = keys(&[&issuer, &old]);
        let stranger = SigningKey::generate().public_key();
        let rooted = AuthenticationKeys {
            root: Some(root.public_key()),
            revoked: vec![stranger, old.public_key()],
            ..keys(&[&issuer])
        };
        assert!(take(&plain).is_ok(), "there is no root");
        assert_eq!(take(&rooted).unwrap().root, rooted.root, "it is the first one");
        let other = AuthenticationKeys { root: Some(old.public_key()), ..rooted.clone() };
        for changed in [&plain, &other] {
            assert!(matches!(take(changed), Err(Error::Issuer(IssuerError::OtherRoot(_)))));
        }
        let told = store.read(event::pending).unwrap();
        let changed = Event::RootChanged { domain: plain.domain.clone() };
        assert!(told.iter().all(|(_, event)| *event == changed) && !told.is_empty());
        store.write(|tx| accept_root(tx, &plain.domain)).unwrap();
        let taken = take(&AuthenticationKeys { revoked: Vec::new(), ..other.clone() }).unwrap();
        assert_eq!((taken.root, taken.revoked), (other.root, vec![old.public_key()]));
        assert!(store.read(|tx| is_revoked(tx, &plain.domain, &old.public_key())).unwrap());
        assert!(
            !store.read(|tx| is_revoked(tx, &plain.domain, &stranger)).unwrap(),
            "it never signed anything that counted"
        );
    }

    #[test]
    fn a_domain_that_revokes_the_key_of_another_one_takes_nothing_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let issuer = SigningKey::generate();
        let own = keys(&[&issuer]);
        let elsewhere = AuthenticationKeys { domain: "example.com".parse().unwrap(), ..own.clone() };
        let client = credential(&issuer);
        let confirmed = [client.client_key];
        store.write(|tx| known::keep_clients(tx, &client.user, Which::Accepted, &confirmed)).unwrap();
        let is_confirmed = || store.read(|tx| known::confirmed(tx, &client.client_key)).unwrap().is_some();
        let is_revoked =
            |domain: &Domain| store.read(|tx| is_revoked(tx, domain, &issuer.public_key())).unwrap();
        for published in [&elsewhere, &own] {
            assert!(!is_revoked(&own.domain) && is_confirmed());
            let after = AuthenticationKeys { keys: Vec::new(), ..published.clone() };
            let revoked = AuthenticationKeys { revoked: vec![issuer.public_key()], ..after.clone() };
            for shown in [published.clone(), revoked, after] {
                store.write(|tx| take(tx, shown)).unwrap().unwrap();
            }
            assert!(is_revoked(&published.domain), "that stays, though the server does not say so any more");
        }
        assert!(!is_confirmed(), "the key may have vouched for the client");
    }

    #[test]
    fn no_more_revoked_keys_are_kept_than_a_server_needs_and_the_last_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let issuers: Vec<_> = (0..REVOKED_KEPT + 10).map(|_| SigningKey::generate()).collect();
        let all = keys(&issuers.iter().collect::<Vec<_>>());
        let domain = all.domain.clone();
        let revoked: Vec<_> = issuers.iter().map(SigningKey::public_key).collect();
        let gone = AuthenticationKeys { revoked: revoked.clone(), ..keys(&[]) };
        for shown in [all, gone, keys(&[])] {
            store.write(|tx| take(tx, shown)).unwrap().unwrap();
        }
        let is_kept = |key: &&PublicKey| store.read(|tx| is_revoked(tx, &domain, key)).unwrap();
        let kept: Vec<_> = revoked.iter().filter(is_kept).collect();
        assert_eq!(kept, revoked[10..].iter().collect::<Vec<_>>());
    }
}
