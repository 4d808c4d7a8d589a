//! `postern root`: the domain's root, which certifies the keys of the AS (AS-2). It is for a machine without a network:
//! a file goes in, a line of text comes out, and no database is asked.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use postern_protocol::{PublicKey, credential::IssuerStatement, key::SigningKey, name::Domain};
use zeroize::Zeroizing;

use crate::{
    clock::{DAY, today},
    say::give,
};

const EXAMPLES: &str = "\
Examples:
  postern root new root.key                              makes the root, once, on a machine without a network
  postern root sign root.key --domain example.org --key '\\x4f…'
                                                         certifies a key that operator.signing_keys() lists
  postern psql -- -c \"SELECT operator.certify_signing_key('…')\"
                                                         takes the certificate that it prints, where the database is";

#[derive(Subcommand)]
pub enum Command {
    /// Make a root: write its secret to a new file, and print its public key
    #[command(after_help = EXAMPLES)]
    New {
        /// File for the secret, which must not exist
        file: PathBuf,
    },
    /// Print the public key of a root
    #[command(after_help = EXAMPLES)]
    Show {
        /// File with the secret
        file: PathBuf,
    },
    /// Certify a signing key of the AS: print the certificate
    #[command(after_help = EXAMPLES)]
    Sign(Sign),
}

#[derive(Args)]
pub struct Sign {
    /// File with the root's secret
    file: PathBuf,
    /// Home domain of the AS
    #[arg(long, value_name = "NAME")]
    domain: Domain,
    /// The AS's signing key, in hex, as operator.signing_keys() shows it
    #[arg(long, value_name = "KEY")]
    key: String,
    /// Days for which the certificate is valid, from today (UTC) on
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::New { file } => give(sql_hex(make(file)?.public_key().as_bytes()))?,
        Command::Show { file } => give(sql_hex(read(file)?.public_key().as_bytes()))?,
        Command::Sign(sign) => {
            let root = read(&sign.file)?;
            let key = sign.key.trim().trim_start_matches("\\x");
            let key = hex::decode(key).ok().and_then(|key| PublicKey::try_from(key.as_slice()).ok());
            let statement = IssuerStatement {
                domain: sign.domain.clone(),
                issuer_key: key.context("--key is no Ed25519 key: 32 bytes in hex")?,
                root_key: root.public_key(),
                not_before: today(),
                not_after: today() + u64::from(sign.days) * DAY - 1,
            };
            give(sql_hex(statement.certify(&root).as_bytes()))?;
        }
    }
    Ok(())
}

/// Bytes as PostgreSQL reads them.
fn sql_hex(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

fn make(path: &Path) -> anyhow::Result<SigningKey> {
    let unwritable = || format!("cannot write {}", path.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(unwritable)?;
    let key = SigningKey::generate();
    let text = Zeroizing::new(hex::encode(key.seed()) + "\n");
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(unwritable)?;
    Ok(key)
}

fn read(path: &Path) -> anyhow::Result<SigningKey> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    let mode = file.metadata().with_context(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{0} has mode {mode:03o}: others can read it; `chmod 600 {0}`", path.display());
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).with_context(unreadable)?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *seed)
        .with_context(|| format!("{} holds no root: `postern root new` makes one", path.display()))?;
    Ok(SigningKey::from_seed(*seed))
}
