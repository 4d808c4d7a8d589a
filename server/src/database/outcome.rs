//! Outcomes: an API function of the database answers with an enum. In SQL it is the type `<schema>.<function>_outcome`,
//! in Rust an enum declared by [`outcome!`] in the file of the endpoint that calls the function. A test compares the
//! two.

use std::{error::Error, fmt};

use tokio_postgres::{
    Row,
    types::{FromSql, Kind, Type},
};

/// The outcome of every function that spends a token if the token was spent, or the request's signature used, before
/// (AAS-4).
const TOKEN_SPENT: &str = "token_spent";
/// The one outcome that leaves the token unspent: the state that a request was validated on has changed since, and
/// the fault is nobody's.
const STALE: &str = "stale";

pub trait SqlOutcome: Copy + PartialEq + 'static {
    /// `schema.type` of the enum in the database.
    const TYPE: &'static str;
    /// True if the type also has `token_spent`, for which [`SqlOutcome::of_paid`] returns `None`.
    const PAID: bool;
    const LABELS: &'static [(&'static str, Self)];

    /// The outcome in a row's first column.
    ///
    /// # Errors
    /// A label that this program does not know.
    fn of(row: &Row) -> Result<Self, UnknownOutcome> {
        let Label(label) = row.try_get(0).map_err(|_| UnknownOutcome("one of another type".to_owned()))?;
        let found = Self::LABELS.iter().find(|(known, _)| *known == label);
        found.map(|(_, outcome)| *outcome).ok_or_else(|| UnknownOutcome(label.to_owned()))
    }

    /// The outcome of a function that spends a token; `None` if the token was spent before.
    ///
    /// # Errors
    /// As [`SqlOutcome::of`].
    fn of_paid(row: &Row) -> Result<Option<Self>, UnknownOutcome> {
        match Self::of(row) {
            Err(UnknownOutcome(label)) if label == TOKEN_SPENT => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// False if the function left its token unspent.
    fn spends_token(self) -> bool {
        !Self::LABELS.contains(&(STALE, self))
    }
}

/// The database answered with an outcome that this program does not know.
#[derive(Debug)]
pub struct UnknownOutcome(String);

impl fmt::Display for UnknownOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database answered with an outcome that this program does not know: {}", self.0)
    }
}

impl Error for UnknownOutcome {}

/// The label of an enum's value.
struct Label<'a>(&'a str);

impl<'a> FromSql<'a> for Label<'a> {
    fn from_sql(_: &Type, label: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(label)?))
    }

    fn accepts(of: &Type) -> bool {
        matches!(of.kind(), Kind::Enum(_)) || *of == Type::TEXT
    }
}

/// Declares the Rust side of an outcome: visibility, name, the type in the database, `paid` if the function spends a
/// token, and each variant with its label.
macro_rules! outcome {
    (@paid) => { false };
    (@paid paid) => { true };
    ($visibility:vis $name:ident: $type:literal $(, $paid:ident)? { $($variant:ident = $label:literal),+ $(,)? }) => {
        #[doc = concat!("`", $type, "`")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($variant),+
        }

        impl $crate::database::outcome::SqlOutcome for $name {
            const TYPE: &'static str = $type;
            const PAID: bool = $crate::database::outcome::outcome!(@paid $($paid)?);
            const LABELS: &'static [(&'static str, Self)] = &[$(($label, Self::$variant)),+];
        }
    };
}
pub(crate) use outcome;

/// An outcome type as Rust declares it, for the test.
#[cfg(test)]
pub struct Declared {
    pub name: &'static str,
    pub labels: std::collections::BTreeSet<&'static str>,
}

#[cfg(test)]
pub fn declared<O: SqlOutcome>() -> Declared {
    let labels = O::LABELS.iter().map(|(label, _)| *label);
    Declared { name: O::TYPE, labels: labels.chain(O::PAID.then_some(TOKEN_SPENT)).collect() }
}
