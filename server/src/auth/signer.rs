//! Statements that the AS signs: that a key belongs to one of a user's clients (AS-2), and that a state of an identity is
//! the latest (AS-10). With a root, it signs with a key that the root certified.

use postern_protocol::{
    IssuedCredential, PublicKey, TreeHash,
    auth::AuthenticationKeys,
    credential::{ClientCredential, IssuerStatement},
    eid::{EidState, FreshnessTicket},
    name::{Domain, UserName},
};

use crate::{
    clock::{DAY, now, today},
    home::Home,
    http::Failure,
    keys::{
        Held, SigningKeys, SigningService,
        signing_keys::{HeldKey, Keys},
    },
};

const CREDENTIAL_LIFETIME: u64 = 90 * DAY;

pub struct Signer {
    domain: Domain,
    keys: SigningKeys,
    /// The root that certifies the keys, if the domain has one.
    root: Held<Option<PublicKey>>,
}

impl Signer {
    /// Loads the keys and the root, after making a key if one is due.
    ///
    /// # Errors
    /// As [`SigningKeys::load`].
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        let keys =
            SigningKeys::load(&home.database, &home.master_key, SigningService::Authentication).await?;
        Ok(Self { domain: home.domain.clone(), keys, root: Held::new(load_root(home).await?) })
    }

    /// Loads them again, after making a key if one is due.
    ///
    /// # Errors
    /// As [`SigningKeys::renew`].
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.root.replace(load_root(home).await?);
        self.keys.renew(&home.database, &home.master_key).await?;
        if let Err(error) = self.signer(&self.keys.now()) {
            tracing::error!("no credential can be signed: {error:#}");
        }
        Ok(())
    }

    pub fn published(&self) -> AuthenticationKeys {
        let keys = self.keys.now();
        AuthenticationKeys {
            domain: self.domain.clone(),
            root: *self.root.now(),
            keys: keys.published().to_vec(),
            certificates: keys.certificates().to_vec(),
            revoked: keys.revoked().to_vec(),
        }
    }

    /// A credential that ends before the key that signs it does.
    ///
    /// # Errors
    /// A fault: no key is valid now, or none is certified.
    pub fn issue(&self, user: UserName, client_key: PublicKey) -> Result<IssuedCredential, Failure> {
        let keys = self.keys.now();
        let root = *self.root.now();
        let issuer = self.signer(&keys).map_err(Failure::fault)?;
        let certificate = issuer.certificate.as_ref().filter(|_| root.is_some());
        let certified = certificate
            .zip(root)
            .and_then(|(certificate, root)| IssuerStatement::verify(certificate, root, now()).ok())
            .map_or(u64::MAX, |statement| statement.not_after);
        let credential = ClientCredential {
            user,
            client_key,
            not_before: today(),
            not_after: (today() + CREDENTIAL_LIFETIME).min(issuer.validity.not_after).min(certified),
            issuer_key: issuer.key.public_key(),
        };
        Ok(credential.issue_certified(&issuer.key, certificate))
    }

    /// The ticket that this state of the user's identity is the latest (AS-10).
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn ticket(
        &self,
        user: UserName,
        eid: EidState,
        tree_hash: TreeHash,
    ) -> Result<FreshnessTicket, Failure> {
        let keys = self.keys.now();
        let issuer = self.signer(&keys).map_err(Failure::fault)?;
        Ok(FreshnessTicket::issue(user, eid, tree_hash, now(), &issuer.key))
    }

    fn signer<'a>(&self, keys: &'a Keys) -> anyhow::Result<&'a HeldKey> {
        let root = *self.root.now();
        keys.signer(|key| is_fit(key, root, &self.domain))
    }
}

/// Whether clients accept what a key signs: without a root, or with the root's certificate of the key.
fn is_fit(key: &HeldKey, root: Option<PublicKey>, domain: &Domain) -> bool {
    let Some(root) = root else { return true };
    let certificate = key.certificate.as_ref();
    certificate
        .and_then(|certificate| IssuerStatement::verify(certificate, root, now()).ok())
        .is_some_and(|statement| statement.issuer_key == key.key.public_key() && statement.domain == *domain)
}

async fn load_root(home: &Home) -> anyhow::Result<Option<PublicKey>> {
    let row = home.database.query_one("SELECT auth.load_root_key()", &[]).await?;
    Ok(row.get::<_, Option<&[u8]>>(0).map(PublicKey::try_from).transpose()?)
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::{PublishedKey, SigningKey};

    use super::*;

    #[test]
    fn with_a_root_a_key_signs_only_with_a_good_certificate() {
        let (root, key) = (SigningKey::generate(), SigningKey::generate());
        let domain: Domain = "home.example".parse().unwrap();
        let statement = IssuerStatement {
            domain: domain.clone(),
            issuer_key: key.public_key(),
            root_key: root.public_key(),
            not_before: 0,
            not_after: now() + DAY,
        };
        let validity = PublishedKey { public_key: key.public_key(), not_before: 0, not_after: u64::MAX };
        let mut held = HeldKey { key, validity, certificate: None };
        assert!(is_fit(&held, None, &domain));
        let is_certified = |held: &HeldKey| is_fit(held, Some(root.public_key()), &domain);
        assert!(!is_certified(&held));
        held.certificate = Some(statement.certify(&root));
        assert!(is_certified(&held));
        assert!(!is_fit(&held, Some(SigningKey::generate().public_key()), &domain));
        for bad in [
            IssuerStatement { not_after: now() - 1, ..statement.clone() },
            IssuerStatement { domain: "other.example".parse().unwrap(), ..statement.clone() },
            IssuerStatement { issuer_key: root.public_key(), ..statement },
        ] {
            held.certificate = Some(bad.certify(&root));
            assert!(!is_certified(&held));
        }
    }
}
