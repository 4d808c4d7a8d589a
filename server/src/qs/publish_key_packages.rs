//! `PUT /qs/key-packages` (QS-6): publishes a client's KeyPackages of one ciphersuite, for holders of its user's
//! friendship token. Each is validated as members that add it to groups would, and sealed before it goes to the
//! database.

use std::collections::HashSet;

use http::StatusCode;
use postern_protocol::{
    Address, PublicKey,
    encoding::Encoding,
    friendship::StockKey,
    mls::{CIPHERSUITE, UserKey},
    name::Domain,
    problem::{Problem, ProblemType},
    qs::{KeyPackageStock, PublishKeyPackages, StockedKeyPackage},
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
    mls::{self, InvalidMls, leaf::Leaf},
};

/// Bytes of a KeyPackage and of its attachment. Ours have some 500 of each, and a post-quantum KeyPackage 3,000.
const MAX_KEY_PACKAGE: usize = 4 * 1024;
const MAX_ATTACHMENT: usize = 2 * 1024;
/// The most KeyPackages that one request may hold, counted before anything is parsed: the operator lets no stock have more
/// (`qs.settings`).
const MAX_AT_ONCE: usize = 200;

outcome! {
    pub PublishKeyPackagesOutcome: "qs.publish_key_packages_outcome", paid {
        Published = "published",
        UnknownFriendship = "unknown_friendship",
        CiphersuiteForbidden = "ciphersuite_forbidden",
        TooManyKeyPackages = "too_many_key_packages",
        TooManyStocks = "too_many_stocks",
        ExpiresTooSoon = "expires_too_soon",
    }
}

pub async fn publish_key_packages(qs: Qs, mut request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<PublishKeyPackages>()?;
    check_size(&body)?;
    let (lookup, stock_id, create) = (body.friendship_token.lookup(), body.stock_id, body.create);
    // Three signatures each are verified.
    let seal = || Stock::validate(&body, &qs.home.domain)?.seal(&body);
    let sealed = request.while_waiting(payment.compute(&qs.home, seal)).await??;
    let (last_resort, last_resort_expires) = sealed.last_resort.unzip();
    let (outcome, row) = payment
        .call(
            &qs.home.database,
            "SELECT outcome, remaining, days
             FROM qs.publish_key_packages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            &[
                &lookup.as_slice(),
                &signer.as_bytes().as_slice(),
                &create,
                &stock_id.as_bytes().as_slice(),
                &sealed.key,
                &sealed.packages,
                &sealed.expires,
                &last_resort,
                &last_resort_expires,
                &i32::from(sealed.ciphersuite),
            ],
        )
        .await?;
    match outcome {
        PublishKeyPackagesOutcome::Published => {
            let remaining = u32::try_from(row.get::<_, i32>("remaining")).map_err(Failure::fault)?;
            request.answer(StatusCode::OK, &KeyPackageStock { remaining })
        }
        PublishKeyPackagesOutcome::UnknownFriendship => Err(ProblemType::NotFound.into()),
        PublishKeyPackagesOutcome::CiphersuiteForbidden => Err(ProblemType::CiphersuiteForbidden.into()),
        PublishKeyPackagesOutcome::TooManyKeyPackages | PublishKeyPackagesOutcome::TooManyStocks => {
            Err(ProblemType::TooManyKeyPackages.into())
        }
        PublishKeyPackagesOutcome::ExpiresTooSoon => {
            let days: i32 = row.get("days");
            let detail = format_args!(
                "a KeyPackage must be valid for more than {days} days: members read for as long that its client was added"
            );
            Err(Problem::with_detail(ProblemType::InvalidMls, detail).into())
        }
    }
}

fn check_size(body: &PublishKeyPackages) -> Result<(), Problem> {
    if body.key_packages.len() > MAX_AT_ONCE {
        let detail = format_args!("a request can hold at most {MAX_AT_ONCE} KeyPackages");
        return Err(Problem::with_detail(ProblemType::TooManyKeyPackages, detail));
    }
    let fits = |package: &StockedKeyPackage| {
        package.key_package.as_bytes().len() <= MAX_KEY_PACKAGE
            && package.attachment.as_bytes().len() <= MAX_ATTACHMENT
    };
    if !body.key_packages.iter().chain(&body.last_resort).all(fits) {
        let detail = format_args!(
            "a KeyPackage can have at most {MAX_KEY_PACKAGE} bytes, and its attachment {MAX_ATTACHMENT}"
        );
        return Err(Problem::with_detail(ProblemType::BodyTooLarge, detail));
    }
    Ok(())
}

/// A stock whose packages are all valid, with the ends of their lifetimes in seconds since 1970.
struct Stock {
    ciphersuite: u16,
    expires: Vec<i64>,
    last_resort_expires: Option<i64>,
}

/// A stock as the database keeps it.
struct Sealed {
    ciphersuite: u16,
    key: Vec<u8>,
    packages: Vec<Vec<u8>>,
    expires: Vec<i64>,
    last_resort: Option<(Vec<u8>, i64)>,
}

impl Stock {
    fn validate(body: &PublishKeyPackages, home: &Domain) -> Result<Self, Problem> {
        let mut seen = Seen::default();
        let mut check = |package: &StockedKeyPackage, last_resort| {
            seen.check(package, last_resort, home).map_err(Problem::from)
        };
        let expires =
            body.key_packages.iter().map(|package| check(package, false)).collect::<Result<_, _>>()?;
        let last_resort_expires =
            body.last_resort.as_ref().map(|package| check(package, true)).transpose()?;
        // The ciphersuite of an empty stock does not matter: nobody can fetch from it.
        let ciphersuite = seen.ciphersuite.unwrap_or(CIPHERSUITE);
        Ok(Self { ciphersuite, expires, last_resort_expires })
    }

    fn seal(self, body: &PublishKeyPackages) -> Result<Sealed, Failure> {
        let stock_key = StockKey::generate().map_err(Failure::fault)?;
        let seal = |package: &StockedKeyPackage, last_resort| {
            stock_key.seal(last_resort, &Encoding::Cbor.encode(package)).map_err(Failure::fault)
        };
        let last_resort = body.last_resort.as_ref().map(|package| seal(package, true)).transpose()?;
        Ok(Sealed {
            ciphersuite: self.ciphersuite,
            key: body.friendship_token.seal(&body.stock_id, &stock_key).map_err(Failure::fault)?,
            packages: body
                .key_packages
                .iter()
                .map(|package| seal(package, false))
                .collect::<Result<_, _>>()?,
            expires: self.expires,
            last_resort: last_resort.zip(self.last_resort_expires),
        })
    }
}

/// The ciphersuite, keys and addresses of the packages seen so far. A key or address serves one package only:
/// otherwise one that was handed out to somebody would be handed out to somebody else, too.
#[derive(Default)]
struct Seen {
    ciphersuite: Option<u16>,
    keys: HashSet<PublicKey>,
    addresses: HashSet<Address>,
}

impl Seen {
    /// Validates a package, and returns the end of its lifetime (seconds since 1970).
    fn check(
        &mut self,
        package: &StockedKeyPackage,
        last_resort: bool,
        home: &Domain,
    ) -> Result<i64, InvalidMls> {
        let key_package = mls::parse_key_package(&package.key_package)?;
        if key_package.last_resort() != last_resort {
            return Err(InvalidMls::Refused(
                "the last-resort KeyPackage must have the extension last_resort, and no other may have it",
            ));
        }
        let ciphersuite = key_package.ciphersuite().into();
        if *self.ciphersuite.get_or_insert(ciphersuite) != ciphersuite {
            return Err(InvalidMls::Refused("all KeyPackages of a stock must have the same ciphersuite"));
        }
        let leaf = Leaf::read(key_package.leaf_node())?;
        if leaf.delivery.domain != *home {
            return Err(InvalidMls::Refused("the delivery address of a KeyPackage must be at this server"));
        }
        if leaf.user_key.is_some_and(|key| key.generation > UserKey::latest_generation(0)) {
            return Err(InvalidMls::Refused("the generation of a KeyPackage's user key is too late"));
        }
        if !self.keys.insert(leaf.signature_key) || !self.addresses.insert(leaf.delivery.address) {
            return Err(InvalidMls::Refused("two KeyPackages share a signature key or an address"));
        }
        i64::try_from(key_package.life_time().not_after())
            .map_err(|_| InvalidMls::Refused("the KeyPackage's lifetime is too long"))
    }
}
