//! The operator's master key, under which the server's own secrets (issuer keys, signing keys) are sealed
//! before they go to the database. It comes from a file or the environment and never leaves the process; each
//! purpose has its own subkey, and the row's identity goes in as associated data, so that sealed bytes cannot be
//! moved from one row or use to another.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use aws_lc_rs::{aead::AES_256_GCM, hkdf, hmac, rand};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use postern_protocol::sealed::{NONCE_LEN, SealingKey};
use zeroize::Zeroizing;

use crate::{files, service_manager::is_credential};

/// The environment variable that may hold the key itself.
pub const ENVIRONMENT: &str = "POSTERN_MASTER_KEY";

const KEY_LEN: usize = 32;

/// The purpose for which a key's id is derived.
const ID: &str = "master key id";

#[derive(Clone)]
pub struct MasterKey {
    key: Zeroizing<[u8; KEY_LEN]>,
    id: MasterKeyId,
}

/// The id of a master key, with which every value begins that is sealed under it. It tells nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasterKeyId([u8; Self::LEN]);

impl MasterKeyId {
    pub const LEN: usize = 8;

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id of the key that a value is sealed under.
    pub fn of(sealed: &[u8]) -> Option<Self> {
        sealed.first_chunk().map(|id| Self(*id))
    }
}

/// A digest key, from which a key for each purpose is derived.
pub struct DigestKey(Zeroizing<[u8; KEY_LEN]>);

#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error(
        "there is no master key: give --master-key-file FILE or {ENVIRONMENT} (make one: `openssl rand -hex 32`)"
    )]
    Missing,
    #[error("cannot read the master key file {0}: {1}")]
    Unreadable(PathBuf, #[source] std::io::Error),
    #[error("cannot write the master key file {0}: {1}")]
    Unwritable(PathBuf, #[source] std::io::Error),
    #[error("the master key file {0} has mode {1:03o}: others can read it; `chmod 600 {path}`", path = .0.display())]
    Exposed(PathBuf, u32),
    #[error("the master key in {0} is not 32 bytes in hex or base64 (make one: `openssl rand -hex 32`)")]
    Malformed(String),
}

/// The sealed bytes were changed, or belong to another key, purpose or row.
#[derive(Debug, thiserror::Error)]
#[error("cannot open sealed bytes: they were sealed under another master key, or changed")]
pub struct OpenError;

impl MasterKey {
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        let key = Zeroizing::new(bytes);
        let derived = subkey(&key, ID);
        let id = MasterKeyId::of(&*derived).expect("a key is longer than its id");
        Self { key, id }
    }

    pub fn id(&self) -> MasterKeyId {
        self.id
    }

    /// Reads the key from `file` if one is given, else from the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, MasterKeyError> {
        match (file, std::env::var(ENVIRONMENT).map(Zeroizing::new)) {
            (Some(path), _) => Self::from_file(path),
            (None, Ok(text)) => {
                Self::parse(&text).ok_or_else(|| MasterKeyError::Malformed(ENVIRONMENT.to_owned()))
            }
            (None, Err(_)) => Err(MasterKeyError::Missing),
        }
    }

    pub fn from_file(path: &Path) -> Result<Self, MasterKeyError> {
        let unreadable = |error| MasterKeyError::Unreadable(path.to_owned(), error);
        let mode = fs::metadata(path).map_err(unreadable)?.mode() & 0o777;
        // A credential of systemd's shows what its access list allows the service as what its group may.
        let allowed = if is_credential(path) { 0o040 } else { 0 };
        if mode & 0o077 & !allowed != 0 {
            return Err(MasterKeyError::Exposed(path.to_owned(), mode));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
        Self::parse(&text).ok_or_else(|| MasterKeyError::Malformed(path.display().to_string()))
    }

    /// Reads the file, after making it with a fresh key if it does not exist. It is there whole or not at all, and durable
    /// by then, since what is sealed under the key will be.
    pub fn from_file_or_new(path: &Path) -> Result<Self, MasterKeyError> {
        Self::from_file_or_new_of(path, None)
    }

    /// The same for a user and group, whose the file is from the moment on at which it is there: the server reads it, whoever
    /// made it. One that exists stays whose it is.
    pub fn from_file_or_new_of(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, MasterKeyError> {
        let unwritable = |error| MasterKeyError::Unwritable(path.to_owned(), error);
        remove_remains(path);
        // One that exists may be where nothing can be made.
        if path.exists() {
            return Self::from_file(path);
        }
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        fill_random(&mut *bytes);
        let text = Zeroizing::new(STANDARD_NO_PAD.encode(*bytes) + "\n");
        // A name that no other process has.
        let new = path.with_added_extension(format!("new-{}", std::process::id()));
        let make = || {
            files::remove_if_there(&new)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            if let Some((user, group)) = owner {
                fchown(&file, Some(user), Some(group))?;
            }
            file.sync_all()?;
            // Replaces nothing, unlike a rename.
            let linked = fs::hard_link(&new, path);
            fs::remove_file(&new)?;
            files::sync_directory(files::directory_of(path))?;
            linked
        };
        match make() {
            Ok(()) => Ok(Self::from_bytes(*bytes)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::from_file(path),
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(unwritable(error))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        if text.len() == 2 * KEY_LEN {
            hex::decode_to_slice(text, &mut *bytes).ok()?;
        } else {
            let decoded = Zeroizing::new(STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?);
            bytes.copy_from_slice(decoded.get(..).filter(|decoded| decoded.len() == KEY_LEN)?);
        }
        Some(Self::from_bytes(*bytes))
    }

    /// Seals for `purpose` (a constant of the code) with `aad` (the row's identity) into the key's id and an envelope
    /// (see [`postern_protocol::sealed`]).
    pub fn seal(&self, purpose: &str, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = self.id.as_bytes().to_vec();
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(plaintext);
        self.sealing_key(purpose)
            .seal_in_place(aad, &mut sealed, MasterKeyId::LEN)
            .expect("the system's random number generator works");
        sealed
    }

    /// The inverse of [`MasterKey::seal`].
    ///
    /// # Errors
    /// [`OpenError`], also for a value of another key.
    pub fn open(&self, purpose: &str, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let envelope = sealed.strip_prefix(self.id.as_bytes()).ok_or(OpenError)?;
        self.sealing_key(purpose).open(aad, envelope).map(Zeroizing::new).map_err(|_| OpenError)
    }

    /// The code (HMAC-SHA256) that vouches for `bytes` for `purpose` (a constant of the code).
    pub fn mac(&self, purpose: &str, bytes: &[u8]) -> Vec<u8> {
        hmac::sign(&self.mac_key(purpose), bytes).as_ref().to_vec()
    }

    /// Whether `mac` is [`MasterKey::mac`] of these. It takes as long for a wrong one.
    pub fn mac_is_valid(&self, purpose: &str, bytes: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.mac_key(purpose), bytes, mac).is_ok()
    }

    fn mac_key(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*subkey(&self.key, purpose))
    }

    fn sealing_key(&self, purpose: &str) -> SealingKey {
        SealingKey::new(&subkey(&self.key, purpose)).expect("any 32 bytes are a key")
    }
}

/// Removes what processes left that were killed while they made this file. Where nothing can be removed, it stays.
fn remove_remains(path: &Path) {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return };
    let prefix = format!("{name}.new-");
    for entry in fs::read_dir(files::directory_of(path)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<i32>().ok());
        if maker.is_some_and(|maker| maker > 0 && kill(Pid::from_raw(maker), None) == Err(Errno::ESRCH)) {
            let _removed = fs::remove_file(entry.path());
        }
    }
}

impl DigestKey {
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        fill_random(&mut *key);
        Self(key)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &*self.0
    }

    /// The keyed digest (HMAC-SHA256) of `bytes` for `purpose` (a constant of the code): equal bytes have equal digests,
    /// and nobody without the key finds the bytes by trying all of them.
    pub fn digest(&self, purpose: &str, bytes: &[u8]) -> [u8; KEY_LEN] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*subkey(&self.0, purpose));
        hmac::sign(&key, bytes).as_ref().try_into().expect("SHA-256 yields 32 bytes")
    }
}

impl TryFrom<&[u8]> for DigestKey {
    type Error = OpenError;

    fn try_from(bytes: &[u8]) -> Result<Self, OpenError> {
        bytes.try_into().map(|key| Self(Zeroizing::new(key))).map_err(|_| OpenError)
    }
}

fn subkey(key: &[u8; KEY_LEN], purpose: &str) -> Zeroizing<[u8; KEY_LEN]> {
    let info = [purpose.as_bytes()];
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(key);
    let mut derived = Zeroizing::new([0; KEY_LEN]);
    secret
        .expand(&info, &AES_256_GCM)
        .and_then(|subkey| subkey.fill(&mut *derived))
        .expect("HKDF-SHA256 yields 32 bytes");
    derived
}

fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the system's random number generator works");
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::sealed::OVERHEAD;
    use std::os::unix::fs::PermissionsExt;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn key() -> MasterKey {
        MasterKey::parse(HEX).unwrap()
    }

    #[test]
    fn hex_and_base64_spell_the_same_key() {
        let expected: Vec<u8> = (0..32).collect();
        assert_eq!(key().key.as_slice(), expected);
        for text in
            ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", " AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"]
        {
            assert_eq!(MasterKey::parse(text).unwrap().key.as_slice(), expected);
        }
    }

    #[test]
    fn anything_else_is_no_key() {
        for text in ["", "00", &HEX[..63], &format!("{HEX}0"), &HEX.replace('1', "g"), &"é".repeat(32)] {
            assert!(MasterKey::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn sealed_bytes_open_only_with_the_same_key_purpose_and_row() {
        let sealed = key().seal("issuer key", b"row 1", b"secret");
        assert_eq!(sealed.len(), MasterKeyId::LEN + 6 + OVERHEAD);
        assert_eq!(MasterKeyId::of(&sealed), Some(key().id()));
        assert_ne!(MasterKey::from_bytes([1; 32]).id(), key().id());
        assert_eq!(key().open("issuer key", b"row 1", &sealed).unwrap().as_slice(), b"secret");
        assert!(key().open("signing key", b"row 1", &sealed).is_err());
        assert!(key().open("issuer key", b"row 2", &sealed).is_err());
        assert!(MasterKey::from_bytes([1; 32]).open("issuer key", b"row 1", &sealed).is_err());
        for cut in [0, 5, MasterKeyId::LEN, MasterKeyId::LEN + NONCE_LEN, sealed.len() - 1] {
            assert!(key().open("issuer key", b"row 1", &sealed[..cut]).is_err());
        }
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        assert_ne!(key().seal("p", b"", b"same"), key().seal("p", b"", b"same"));
    }

    #[test]
    fn a_digest_is_of_its_key_purpose_and_bytes_only() {
        let key = DigestKey::generate();
        let digest = key.digest("source", b"192.0.2.1");
        assert_eq!(DigestKey::try_from(key.as_bytes()).unwrap().digest("source", b"192.0.2.1"), digest);
        for other in [
            key.digest("source", b"192.0.2.2"),
            key.digest("queue", b"192.0.2.1"),
            DigestKey::generate().digest("source", b"192.0.2.1"),
        ] {
            assert_ne!(other, digest);
        }
    }

    #[test]
    fn a_new_file_is_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let made = MasterKey::from_file_or_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = MasterKey::from_file_or_new(&path).unwrap();
        assert_eq!(made.key, read.key);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["master.key"]);
    }

    #[test]
    fn the_remains_of_a_killed_process_are_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        // One has this process's id, the others those of a process that is there, and of one that no system has.
        let others = [1, 0x7fff_ffff];
        let of = |process: u32| path.with_added_extension(format!("new-{process}"));
        for process in [std::process::id(), others[0], others[1]] {
            fs::write(of(process), "").unwrap();
        }
        let made = MasterKey::from_file_or_new(&path).unwrap();
        assert_eq!(MasterKey::from_file(&path).unwrap().key, made.key);
        assert_eq!(others.map(|process| of(process).exists()), [true, false], "somebody may still be at it");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        fs::write(&path, HEX).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(MasterKey::from_file(&path), Err(MasterKeyError::Exposed(_, 0o640))));
    }
}
