//! Names: a home domain (OPS-2) and a user's `name@domain` (AS-1). Both are lower-case ASCII by
//! construction, which leaves no room for Unicode confusables (UTS #39).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Text that is no domain or user name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a domain is a fully qualified name of lower-case ASCII labels, such as chat.example.org")]
    Domain,
    #[error(
        "a user name is 1 to 64 of a-z, 0-9, '.', '-', '_' (a letter or digit first and last), '@' and the home domain"
    )]
    User,
}

/// A fully qualified domain name of at most 253 bytes (RFC 1035 §2.3), without the final dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// The name of a user, `local@domain`, which only the AS knows. The local part has 1 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName {
    local: String,
    domain: Domain,
}

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserName {
    pub fn local(&self) -> &str {
        &self.local
    }
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

/// A name and its length, for what is signed.
pub(crate) fn prefixed(user: &UserName) -> ([u8; 2], String) {
    let name = user.to_string();
    let length = u16::try_from(name.len()).expect("a name has less than 64 KiB");
    (length.to_be_bytes(), name)
}

impl FromStr for Domain {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric_top = text.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
        if text.len() <= 253 && text.contains('.') && !numeric_top && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Domain)
        }
    }
}

impl FromStr for UserName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (local, domain) = text.split_once('@').ok_or(NameError::User)?;
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = local.as_bytes();
        let valid = (1..=64).contains(&bytes.len())
            && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'-' | b'_'))
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric);
        if !valid {
            return Err(NameError::User);
        }
        Ok(Self { local: local.to_owned(), domain: domain.parse()? })
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({})", self.0)
    }
}

/// Shows nothing of the name (PRIV-4).
impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserName(…)")
    }
}

impl TryFrom<String> for Domain {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl TryFrom<String> for UserName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_fully_qualified_and_lower_case() {
        for good in ["example.localhost", "chat.example.org", "xn--bcher-kva.example"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        for bad in ["localhost", "Example.org", "a..b", "-a.org", "a.org.", "127.0.0.1", "bücher.de", ""] {
            assert_eq!(bad.parse::<Domain>(), Err(NameError::Domain), "{bad}");
        }
    }

    #[test]
    fn user_names_leave_no_room_for_confusables() {
        for good in ["alice@example.org", "a.b-c_1@example.org"] {
            assert_eq!(good.parse::<UserName>().unwrap().to_string(), good);
        }
        for bad in [
            "Alice@example.org",
            "аlice@example.org",
            ".a@example.org",
            "@example.org",
            "alice",
            "a b@example.org",
        ] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
    }
}
