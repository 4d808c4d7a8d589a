//! Names: a home domain (OPS-2) and a user's `name@domain` (AS-1).
//!
//! A user name is Unicode in the one form that PRECIS makes of what people type (`UsernameCaseMapped`, RFC 8265 §3.3):
//! lower case, usual width, NFC. UTS #39 keeps names apart that look alike: the letters of a name are of one script, or
//! of scripts that are written together (§5.2, *highly restrictive*), its digits of one kind (§5.3), nothing in it is
//! hidden (§5.4), and each name has a skeleton (§4), which no two accounts of a server share. So `асе`, all Cyrillic, is a
//! name, and keeps everybody else from `ace`. Domains are lower-case ASCII.

use std::{fmt, str::FromStr};

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{GeneralCategory, SoftDotted},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use precis_profiles::{
    UsernameCaseMapped,
    precis_core::{
        Error as PrecisError,
        profile::{PrecisFastInvocation, stabilize},
    },
};
use serde::{Deserialize, Serialize};
use unicode_normalization::{
    UnicodeNormalization,
    char::{canonical_combining_class, is_combining_mark},
};
use unicode_security::{RestrictionLevel, RestrictionLevelDetection};

/// The most characters of a user name before the `@`.
pub const MAX_CHARACTERS: usize = 64;
/// The most bytes of them in UTF-8.
pub const MAX_BYTES: usize = 255;

/// Marks such as accents that one letter can have (UTS #39 §5.4).
const MAX_MARKS: usize = 4;
const DOT_ABOVE: char = '\u{307}';
/// Canonical combining class of marks that are drawn above a letter.
const CLASS_ABOVE: u8 = 230;
/// The punctuation that a user name can have.
const PUNCTUATION: [char; 3] = ['.', '-', '_'];
/// Labels below a top-level domain of two letters, such as `co` in `co.uk`, under which registries sell names to anybody. The
/// function `federation.family` of the database has the same ones.
const REGISTRIES: [&str; 11] = ["ac", "co", "com", "edu", "gob", "go", "gov", "ne", "net", "or", "org"];
/// Characters that are not percent-encoded in the segment of a path (RFC 3986 §3.3).
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

/// Text that is no domain or user name. The messages quote nothing of it.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a domain is a fully qualified name of lower-case ASCII labels, such as chat.example.org")]
    Domain,
    #[error("a user name ends with '@' and the home domain, such as alice@example.org")]
    NoDomain,
    #[error("a user name has 1 to {MAX_CHARACTERS} characters before the '@', of at most {MAX_BYTES} bytes")]
    Length,
    #[error(
        "a user name consists of letters and digits, and '.', '-' and '_' between them: no spaces, symbols, ligatures or emoji"
    )]
    Characters,
    #[error(
        "the letters of a user name have to be of one script, so that nobody takes it for another name: Latin, say, or Cyrillic, and not both"
    )]
    Scripts,
    #[error(
        "a user name has an accent that cannot be told: on no letter, twice on one, more than {MAX_MARKS} on one, or a dot on a letter such as i"
    )]
    Marks,
    #[error("the digits of a user name have to be of one kind, such as 0 to 9")]
    Digits,
    #[error(
        "a user name that is written from right to left begins with a letter, and has no other letters in it"
    )]
    Direction,
}

/// A fully qualified domain name of at most 253 bytes (RFC 1035 §2.3), without the final dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// The name of a user, `local@domain`, which only the AS knows. It is in its one form, whatever form it was read from:
/// equal names are equal bytes.
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

    /// The family of names that a domain is in: see [`family`].
    pub fn family(&self) -> &str {
        family(&self.0)
    }
}

/// The family of names that the name of a host or domain is in: its last two labels, or three where names are sold below two
/// (`a.co.uk`). Whoever has one name has as many below it as they like, so what is shared out by name is shared out by
/// family.
///
/// The public suffix list knows more places where names are sold. But it changes every few days, and rows of the database are
/// counted by families: with another list, what was counted in one would leave another. So the labels here are few, and stay.
/// The owner of such a name, as somebody may own `ac.de`, has many families, as one who buys many names has.
pub fn family(name: &str) -> &str {
    let mut labels = name.rsplit('.');
    let (top, second) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    let is_country = top.len() == 2 && top.bytes().all(|byte| byte.is_ascii_lowercase());
    let number = if is_country && REGISTRIES.contains(&second) { 3 } else { 2 };
    name.rmatch_indices('.').nth(number - 1).map_or(name, |(dot, _)| &name[dot + 1..])
}

impl UserName {
    pub fn local(&self) -> &str {
        &self.local
    }
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
    /// See [`skeleton`].
    pub fn skeleton(&self) -> String {
        skeleton(&self.local)
    }
    /// The name as the segment of a URL's path, percent-encoded (RFC 3986 §2.1).
    pub fn path_segment(&self) -> String {
        utf8_percent_encode(&self.to_string(), IN_PATH).to_string()
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
        // A last label like 1 or 0x7f would make the name an IP address in a URL, without a look at DNS.
        let is_numeric =
            !text.rsplit('.').next().unwrap_or_default().starts_with(|top: char| top.is_ascii_lowercase());
        if text.len() <= 253 && text.contains('.') && !is_numeric && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Domain)
        }
    }
}

impl FromStr for UserName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (local, domain) = text.split_once('@').ok_or(NameError::NoDomain)?;
        Ok(Self { local: canonical(local)?, domain: domain.to_ascii_lowercase().parse()? })
    }
}

/// The one form of the part of a user name before the `@`.
///
/// # Errors
/// [`NameError`], for what is no such part.
pub fn canonical(local: &str) -> Result<String, NameError> {
    // PRECIS makes nothing much shorter.
    if local.is_empty() || local.len() > 4 * MAX_BYTES {
        return Err(NameError::Length);
    }
    // The library has small letters one by one; a sigma at the end of a word has another (RFC 8265 §3.3.2).
    let small = local.to_lowercase();
    // One application of the rules may make what another would change (RFC 8264 §7).
    let name =
        stabilize(small.as_str(), |text| UsernameCaseMapped::enforce(text)).map_err(|error| match error {
            PrecisError::Invalid => NameError::Direction,
            _ => NameError::Characters,
        })?;
    if name.chars().count() > MAX_CHARACTERS || name.len() > MAX_BYTES {
        return Err(NameError::Length);
    }
    let is_ours = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || PUNCTUATION.contains(&c);
    let begins = name.starts_with(|c: char| c.is_alphanumeric() && !is_combining_mark(c));
    let ends = name.ends_with(|c: char| c.is_alphanumeric() || is_combining_mark(c));
    if !(name.chars().all(is_ours) && begins && ends) {
        return Err(NameError::Characters);
    }
    if has_too_many_marks(&name) || has_hidden_marks(&name) {
        return Err(NameError::Marks);
    }
    if has_mixed_digits(&name) {
        return Err(NameError::Digits);
    }
    match name.detect_restriction_level() {
        RestrictionLevel::ASCIIOnly
        | RestrictionLevel::SingleScript
        | RestrictionLevel::HighlyRestrictive => {}
        // A character is not one for identifiers (UTS #39 §3.1).
        RestrictionLevel::Unrestricted => return Err(NameError::Characters),
        RestrictionLevel::ModeratelyRestrictive | RestrictionLevel::MinimallyRestrictive => {
            return Err(NameError::Scripts);
        }
    }
    Ok(name.into_owned())
}

/// Whether a letter has more than [`MAX_MARKS`] marks, or the same one twice (UTS #39 §5.4).
fn has_too_many_marks(name: &str) -> bool {
    let mut marks = Vec::new();
    name.nfd().any(|c| {
        if !is_combining_mark(c) {
            marks.clear();
            return false;
        }
        let again = marks.contains(&c);
        marks.push(c);
        again || marks.len() > MAX_MARKS
    })
}

/// Whether a mark is not seen (UTS #39 §5.4): one that is drawn on no letter, or a dot on a letter that has one anyway, or
/// that is taken for such a letter, as ICU's `USPOOF_HIDDEN_OVERLAY` finds it.
fn has_hidden_marks(name: &str) -> bool {
    let (mut on_letter, mut on_dot) = (false, false);
    name.nfd().any(|c| {
        let is_hidden = if is_combining_mark(c) {
            !on_letter || on_dot && c == DOT_ABOVE
        } else {
            on_letter = c.is_alphabetic();
            false
        };
        // Marks in other places, such as an ogonek, change nothing above the letter.
        if matches!(canonical_combining_class(c), 0 | CLASS_ABOVE) {
            on_dot = hides_a_dot(c);
        }
        is_hidden
    })
}

/// Whether a dot above this character is drawn in place of its own, or makes it another that has one.
fn hides_a_dot(c: char) -> bool {
    let is_dotted =
        |c: char| matches!(c, 'ı' | 'ȷ' | 'l') || CodePointSetData::new::<SoftDotted>().contains(c);
    is_dotted(c) || unicode_security::skeleton(c.encode_utf8(&mut [0; 4])).last().is_some_and(is_dotted)
}

/// Whether there are digits of two decimal systems (UTS #39 §5.3), of which one may look like another digit of the other.
fn has_mixed_digits(name: &str) -> bool {
    let is_digit =
        |c: &char| CodePointMapData::<GeneralCategory>::new().get(*c) == GeneralCategory::DecimalNumber;
    // The ten of a system follow each other.
    let zero = |digit: char| {
        let before = |distance| char::from_u32(u32::from(digit).saturating_sub(distance)).filter(is_digit);
        (1..10).map_while(before).last().unwrap_or(digit)
    };
    let mut zeros = name.chars().filter(is_digit).map(zero);
    zeros.next().is_some_and(|first| zeros.any(|other| other != first))
}

/// The skeleton of the part of a user name before the `@`, in its one form: names with the same skeleton are taken for
/// each other. It is that of UTS #39 §4 without case, without punctuation, and with one letter for more that look alike
/// in names: `adm1n`, `a-d-m-i-n` and `аdmin` (with a Cyrillic а) have the skeleton of `admin`.
pub fn skeleton(local: &str) -> String {
    // Prototypes have capital letters, such as O for the digit 0, which may have prototypes of their own.
    let mut text = folded(local);
    for _ in 0..2 {
        text = folded(&unicode_security::skeleton(&text).collect::<String>());
    }
    let plain = text.chars().filter(|c| !is_separator(*c)).map(look_alike).collect::<String>();
    plain.replace('w', "vv")
}

/// The text without the difference of capital and small letters, each character by itself: ß is ss, and the final ς is
/// σ.
fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

fn is_separator(c: char) -> bool {
    // The last ones are the dots, the hyphens and apostrophes that UTS #39 allows in identifiers.
    PUNCTUATION.contains(&c)
        || matches!(
            c,
            '\'' | '\u{b7}' | '\u{58a}' | '\u{f0b}' | '\u{2010}' | '\u{2019}' | '\u{2027}' | '\u{30fb}'
        )
}

/// Digits, and the letter i, as the letters that people put them for. The skeleton has made l of 1 and o of 0.
fn look_alike(c: char) -> char {
    match c {
        '3' => 'e',
        '4' => 'a',
        '5' => 's',
        '7' => 't',
        'i' => 'l',
        _ => c,
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
    use icu_properties::props::DefaultIgnorableCodePoint;

    use super::*;

    #[test]
    fn domains_are_fully_qualified_and_lower_case() {
        for good in ["example.localhost", "chat.example.org", "xn--bcher-kva.example"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        for bad in ["localhost", "Example.org", "a..b", "-a.org", "a.org.", "127.0.0.1", "bücher.de", ""] {
            assert_eq!(bad.parse::<Domain>(), Err(NameError::Domain), "{bad}");
        }
        for address in ["127.0x1", "127.0.0.0x1", "10.0x", "a.0x7f", "0177.1", "a.7f"] {
            assert_eq!(address.parse::<Domain>(), Err(NameError::Domain), "{address}");
        }
    }

    #[test]
    fn a_family_of_domains_shares_the_last_two_labels_or_three_where_names_are_sold_below_two() {
        for (domain, family) in [
            ("a.example", "a.example"),
            ("b.a.example", "a.example"),
            ("c.b.a.example", "a.example"),
            ("a.co.uk", "a.co.uk"),
            ("c.b.a.co.uk", "a.co.uk"),
            ("a.com.au", "a.com.au"),
            ("co.uk", "co.uk"),
            ("b.a.uk", "a.uk"),
            ("b.aco.uk", "aco.uk"),
            ("b.a.co.example", "co.example"),
            ("b.com.co.uk", "com.co.uk"),
        ] {
            assert_eq!(domain.parse::<Domain>().unwrap().family(), family, "{domain}");
        }
        // A host's name may have one label.
        assert_eq!(family("localhost"), "localhost");
    }

    fn alike(one: &str, other: &str) -> bool {
        skeleton(&canonical(one).unwrap()) == skeleton(&canonical(other).unwrap())
    }

    #[test]
    fn a_user_name_has_one_form_whatever_is_typed() {
        for (typed, name) in [
            ("alice", "alice"),
            ("a.b-c_1", "a.b-c_1"),
            ("Alice", "alice"),
            ("ＡＬＩＣＥ１", "alice1"),
            ("jose\u{301}", "josé"),
            ("JOSÉ", "josé"),
            ("Straße", "straße"),
            ("ẞ", "ß"),
            ("ΝΊΚΟΣ", "νίκος"),
            ("Иван.Петров", "иван.петров"),
            ("王小明", "王小明"),
            ("さくら", "さくら"),
            ("ｶﾅ", "カナ"),
            ("김철수", "김철수"),
            ("कुमार", "कुमार"),
            ("राजेश_1", "राजेश_1"),
            ("דניאל", "דניאל"),
            ("محمد", "محمد"),
            ("paral·lel", "paral·lel"),
            ("7of9", "7of9"),
            ("राजेश२०२६", "राजेश२०२६"),
            ("Łukasz", "łukasz"),
            ("Żaneta", "żaneta"),
            ("Įvė", "įvė"),
            ("Nguyễn", "nguyễn"),
            ("Їжак", "їжак"),
            ("Сара", "сара"),
        ] {
            assert_eq!(canonical(typed).as_deref(), Ok(name), "{typed}");
            assert_eq!(canonical(name).as_deref(), Ok(name), "{name} again");
        }
        let name: UserName = "ALICE@Chat.Example.ORG".parse().unwrap();
        assert_eq!(name.to_string(), "alice@chat.example.org");
    }

    #[test]
    fn what_is_no_user_name_is_refused_with_its_reason() {
        let long = "a".repeat(MAX_CHARACTERS + 1);
        let heavy = "語".repeat(MAX_BYTES / 3 + 1);
        for (text, reason) in [
            ("", NameError::Length),
            (long.as_str(), NameError::Length),
            (heavy.as_str(), NameError::Length),
            ("a b", NameError::Characters),
            ("a\u{a0}b", NameError::Characters),
            (".a", NameError::Characters),
            ("a.", NameError::Characters),
            ("-", NameError::Characters),
            ("a/b", NameError::Characters),
            ("a%b", NameError::Characters),
            ("a'b", NameError::Characters),
            ("a:b", NameError::Characters),
            ("a＠b", NameError::Characters),
            ("a\0b", NameError::Characters),
            ("ﬁsh", NameError::Characters),
            ("ǆ", NameError::Characters),
            ("²", NameError::Characters),
            ("Ⅳ", NameError::Characters),
            ("alice😀", NameError::Characters),
            ("❤", NameError::Characters),
            ("\u{301}a", NameError::Characters),
            ("ali\u{200d}ce", NameError::Characters),
            ("क्\u{200d}ष", NameError::Characters),
            ("a\u{200b}b", NameError::Characters),
            ("a\u{ad}b", NameError::Characters),
            ("a\u{202e}b", NameError::Characters),
            ("\u{feff}a", NameError::Characters),
            ("a·b", NameError::Characters),
            ("\u{e000}", NameError::Characters),
            // With a Cyrillic а; with a Greek ο; in two scripts that nobody writes together.
            ("аlice", NameError::Scripts),
            ("bοb", NameError::Scripts),
            ("αб", NameError::Scripts),
            ("alice한さ", NameError::Scripts),
            ("a\u{301}\u{301}", NameError::Marks),
            ("a\u{300}\u{302}\u{303}\u{304}\u{306}", NameError::Marks),
            // A dot that is there already, or that makes another letter of it.
            ("ALİCE", NameError::Marks),
            ("ali\u{307}ce", NameError::Marks),
            ("admi\u{307}n", NameError::Marks),
            ("aliı\u{307}", NameError::Marks),
            ("j\u{307}", NameError::Marks),
            ("al\u{307}i", NameError::Marks),
            ("i\u{328}\u{307}", NameError::Marks),
            ("мі\u{307}ша", NameError::Marks),
            ("νι\u{307}κος", NameError::Marks),
            // On no letter.
            ("a.\u{323}b", NameError::Marks),
            ("a_\u{331}b", NameError::Marks),
            ("a1\u{307}b", NameError::Marks),
            ("राजेश१2", NameError::Digits),
            ("1דניאל", NameError::Direction),
        ] {
            assert_eq!(canonical(text), Err(reason), "{text:?}");
        }
        for (text, reason) in [
            ("alice", NameError::NoDomain),
            ("", NameError::NoDomain),
            ("@example.org", NameError::Length),
            ("alice@", NameError::Domain),
            ("alice@localhost", NameError::Domain),
            ("alice@bücher.example", NameError::Domain),
            ("alice@example.org@example.org", NameError::Domain),
        ] {
            assert_eq!(text.parse::<UserName>(), Err(reason), "{text}");
        }
        assert!("a".repeat(MAX_CHARACTERS).parse::<UserName>().is_err(), "no domain");
        assert_eq!(canonical(&"語".repeat(MAX_CHARACTERS)).map(|name| name.len()), Ok(3 * MAX_CHARACTERS));
        assert_eq!(canonical(&"𐌰".repeat(MAX_CHARACTERS)), Err(NameError::Length), "256 bytes");
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("admin", "adm1n"),
            ("admin", "a-d.m_i-n"),
            ("admin", "adrnin"),
            ("webmaster", "vvebmaster"),
            ("webmaster", "WEBMASTER"),
            ("root", "r00t"),
            ("support", "5upport"),
            ("mailer-daemon", "mailerdaemon"),
            ("administrator", "adm1n1strat0r"),
            ("paypal", "paypa1"),
            ("apple", "аррӏе"),
            ("scope", "ѕсоре"),
            ("strasse", "straße"),
            ("νικος", "νικοσ"),
            ("paral·lel", "parallel"),
            ("alıce", "alice"),
            ("сара", "capa"),
            ("асе", "ace"),
            ("şah", "șah"),
        ] {
            assert!(alike(one, other), "{one} and {other}");
        }
        for (one, other) in [
            ("adam", "admin"),
            ("josé", "jose"),
            ("ali\u{323}ce", "alice"),
            ("иван", "ivan"),
            ("martin", "admin"),
            ("user-1", "user-2"),
            ("user-10", "user-11"),
        ] {
            assert!(!alike(one, other), "{one} and {other}");
        }
        let digits: std::collections::BTreeSet<_> =
            ('0'..='9').map(|digit| skeleton(&digit.to_string())).collect();
        assert_eq!(digits.len(), 10, "no two digits are taken for each other");
    }

    #[test]
    fn nothing_that_is_drawn_as_nothing_is_in_a_name() {
        let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
        for c in ignorable.iter_ranges().flatten().filter_map(char::from_u32) {
            assert!(canonical(&format!("ali{c}ce")).is_err(), "{c:?}");
        }
    }

    #[test]
    fn a_name_in_a_path_is_percent_encoded() {
        let segment = |name: &str| name.parse::<UserName>().unwrap().path_segment();
        assert_eq!(segment("josé@example.org"), "jos%C3%A9@example.org");
        assert_eq!(segment("a.b-c_1@example.org"), "a.b-c_1@example.org");
    }
}
