//! The code by which two devices of a user find each other, and know that nobody is between: the number of a
//! rendezvous, and two words that the server does not know.

use std::{fmt, str::FromStr};

use bip39::Language;
use postern_protocol::rendezvous::RendezvousNumber;
use serde::{Deserialize, Serialize};

/// The beginning of a code's text in a QR picture.
const SCHEME: &str = "postern-link:";
const WORDS: usize = 2;

/// A code that one device shows, and a person types on the other: `305718-river-orange`. It is good for one try.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkCode {
    pub(super) number: RendezvousNumber,
    pub(super) words: Words,
    server: Option<String>,
}

/// Two of the 2,048 words of BIP-39, by their places in the list.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Words([u16; WORDS]);

/// A text that is no [`LinkCode`].
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum MalformedCode {
    #[error("a code is a number of six digits and two words, such as 305718-river-orange")]
    Form,
    #[error("{0:?} is no word of a code")]
    Word(String),
}

impl Words {
    pub(super) fn random() -> Self {
        // 2^16 is a multiple of the number of words.
        Self([(); WORDS].map(|()| rand::random::<u16>() % 2048))
    }

    /// The password of the key agreement: `river-orange`.
    pub(super) fn password(self) -> String {
        let list = Language::English.word_list();
        self.0.map(|place| list[usize::from(place) % list.len()]).join("-")
    }

    fn parse(texts: [&str; WORDS]) -> Result<Self, MalformedCode> {
        let mut places = [0; WORDS];
        for (place, text) in places.iter_mut().zip(texts) {
            // The words of the list differ in their first four letters.
            let begin_with = Language::English.words_by_prefix(text);
            let word = match begin_with {
                [word] if text.len() >= 4 => word,
                words => words
                    .iter()
                    .find(|word| **word == text)
                    .ok_or_else(|| MalformedCode::Word(text.to_owned()))?,
            };
            *place = Language::English.find_word(word).ok_or_else(|| MalformedCode::Word(text.to_owned()))?;
        }
        Ok(Self(places))
    }
}

impl LinkCode {
    pub(super) const fn new(number: RendezvousNumber, words: Words) -> Self {
        Self { number, words, server: None }
    }

    /// The address of the server, which a code from a QR picture has in it.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The text of a QR picture: the code, and the address of the server.
    pub fn with_server(&self, server: &str) -> String {
        format!("{SCHEME}{self}@{server}")
    }
}

/// Blanks are as good as hyphens, capital letters as small ones, and the first four letters as a whole word.
impl FromStr for LinkCode {
    type Err = MalformedCode;

    fn from_str(text: &str) -> Result<Self, MalformedCode> {
        let text = text.trim();
        let (code, server) = match text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('@')) {
            Some((code, server)) => (code, Some(server.to_owned())),
            None => (text, None),
        };
        let code = code.to_lowercase();
        let parts: Vec<&str> =
            code.split(|c: char| c == '-' || c.is_whitespace()).filter(|part| !part.is_empty()).collect();
        let [number, one, other] = parts[..] else { return Err(MalformedCode::Form) };
        let number = number.parse().map_err(|_| MalformedCode::Form)?;
        Ok(Self { number, words: Words::parse([one, other])?, server })
    }
}

impl fmt::Display for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.words.password())
    }
}

/// Shows nothing of the words.
impl fmt::Debug for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkCode(…)")
    }
}

/// Shows nothing of them.
impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LinkCode, MalformedCode> {
        text.parse()
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = parse("305718-river-orange").unwrap();
        assert_eq!(code.to_string(), "305718-river-orange");
        for typed in ["305718 river orange", " 305718-River-ORANGE\n", "305718 - rive - oran"] {
            assert_eq!(parse(typed).unwrap(), code, "{typed}");
        }
        // Words of three letters are whole ones.
        assert_eq!(parse("305718-add-act").unwrap().to_string(), "305718-add-act");
        let scanned = parse(&code.with_server("https://chat.example.org/")).unwrap();
        assert_eq!(scanned.server(), Some("https://chat.example.org/"));
        assert_eq!(scanned.to_string(), "305718-river-orange");
    }

    #[test]
    fn a_mistake_in_typing_that_can_be_seen_costs_no_try() {
        for text in
            ["", "305718", "305718-river", "river-orange", "30571-river-orange", "305718-river-orange-add"]
        {
            assert_eq!(parse(text), Err(MalformedCode::Form), "{text}");
        }
        for (text, word) in [("305718-rivre-orange", "rivre"), ("305718-river-ora", "ora")] {
            assert_eq!(parse(text), Err(MalformedCode::Word(word.to_owned())));
        }
    }

    #[test]
    fn a_random_code_survives_its_text() {
        for _ in 0..200 {
            let code = LinkCode::new("305718".parse().unwrap(), Words::random());
            assert_eq!(parse(&code.to_string()).unwrap(), code);
            assert_eq!(format!("{code:?} {:?}", code.words), "LinkCode(…) Words(…)");
        }
    }
}
