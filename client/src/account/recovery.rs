//! The recovery key as its owner writes it down (AS-8): 24 words of BIP-39, of which the last holds a checksum.

use bip39::{Language, Mnemonic};
use postern_protocol::second_proof::RecoveryKey;

use crate::error::{Error, Result};

/// The 24 English words of a recovery key, with a space between them.
///
/// ```
/// use postern_client::{RecoveryKey, recovery_words, recovery_key_of};
///
/// let words = recovery_words(&RecoveryKey::from_bytes([0; 32]));
/// assert!(words.ends_with("abandon art"));
/// assert_eq!(recovery_key_of(&words).unwrap().as_bytes(), &[0; 32]);
/// assert!(recovery_key_of(&words.replace("art", "able")).is_err());
/// ```
///
/// # Panics
/// Never: 32 bytes are 24 words.
pub fn recovery_words(key: &RecoveryKey) -> String {
    Mnemonic::from_entropy(key.as_bytes()).expect("32 bytes are 24 words").to_string()
}

/// The recovery key that these words are, in any case and with any white space between them.
///
/// # Errors
/// [`Error::BadRecoveryKey`] for anything but 24 words with their checksum.
pub fn recovery_key_of(words: &str) -> Result<RecoveryKey> {
    let words = words.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ");
    let bytes = Mnemonic::parse_in_normalized(Language::English, &words)
        .ok()
        .and_then(|mnemonic| mnemonic.to_entropy().try_into().ok())
        .ok_or(Error::BadRecoveryKey)?;
    Ok(RecoveryKey::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_people_write_them_and_a_mistake_shows() {
        let key = RecoveryKey::generate();
        let words = recovery_words(&key);
        assert_eq!(words.split(' ').count(), 24);
        let written = format!("  {}\n", words.to_uppercase().replace(' ', "\n "));
        assert!(recovery_key_of(&written).unwrap() == key);
        let mut shuffled: Vec<&str> = words.split(' ').collect();
        shuffled.pop();
        assert!(matches!(recovery_key_of(&shuffled.join(" ")), Err(Error::BadRecoveryKey)));
        for bad in ["", "abandon", &format!("{words} abandon"), &words.replacen(' ', " xyzzy ", 1)] {
            assert!(matches!(recovery_key_of(bad), Err(Error::BadRecoveryKey)), "{bad}");
        }
    }
}
