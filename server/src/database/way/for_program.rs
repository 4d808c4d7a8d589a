//! The connection string by which one of PostgreSQL's own programs (`pg_dump`, `pg_restore`, `psql`) goes the same way (OPS-8).
//! It says all that matters: the program's libpq may be of any version, and finds files of its own in the user's home directory.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, ensure};
use tokio_postgres::config::SslMode;

use super::{Authorities, Mode, Way};
use crate::database::connection_string::list;

/// A directory that does not exist: libpq then has none of the files that it looks for there.
const NOWHERE: &str = "/nonexistent";
/// PostgreSQL's port.
const PORT: &str = "5432";
/// The parameters that a program is not told as they are: everybody sees its arguments, it has a name of its own, versions of
/// libpq lack some, and TLS is told in full.
const NOT_TOLD: [&str; 7] =
    ["password", "application_name", "load_balance_hosts", "sslmode", "sslrootcert", "sslcert", "sslkey"];
/// The files of the authorities that a system trusts, of Debian and others.
const OF_SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Way {
    /// The way in libpq's words, without the password, with these bounds where the connection string has none, and with these
    /// options of its session besides the string's.
    ///
    /// # Errors
    /// The authorities that this system trusts are in no file.
    pub fn for_program(&self, bounds: &[(&'static str, u64)], options: &str) -> anyhow::Result<String> {
        let mut told: BTreeMap<&'static str, String> =
            bounds.iter().map(|(name, value)| (*name, value.to_string())).collect();
        told.insert("port", PORT.to_owned());
        let own = self.parameters.all().filter(|(name, _)| !NOT_TOLD.contains(name));
        told.extend(own.map(|(name, value)| (name, value.to_owned())));
        // libpq verifies no certificate by an address that is no name as well.
        if let Some(addresses) = self.parameters.get("hostaddr") {
            told.entry("host").or_insert_with(|| addresses.to_owned());
        }
        if !options.is_empty() {
            let own = told.get("options").map_or_else(String::new, |own| format!("{own} "));
            told.insert("options", own + options);
        }
        // libpq would prefer it to TLS, and does not look at any certificate then.
        told.insert("gssencmode", "disable".to_owned());
        if self.config.get_ssl_mode() == SslMode::Disable {
            told.insert("sslmode", Mode::Disable.word().to_owned());
            told.remove("sslnegotiation");
        } else {
            self.tell_tls(&mut told)?;
        }
        Ok(list(told.iter().map(|(name, value)| (*name, value.as_str()))))
    }

    fn tell_tls(&self, told: &mut BTreeMap<&'static str, String>) -> anyhow::Result<()> {
        let text =
            |file: &Path| file.to_str().map(str::to_owned).context("the name of a file of TLS is no text");
        let authorities = match &self.asked.authorities {
            Authorities::Nobody => NOWHERE.to_owned(),
            // libpq knows this word from PostgreSQL 16 on, and not the variables that name another file.
            Authorities::System => of_system()?,
            Authorities::Of(file) => text(file)?,
        };
        let (certificate, key) = match &self.asked.ours {
            Some((certificate, key)) => (text(certificate)?, Some(text(key)?)),
            None => (NOWHERE.to_owned(), None),
        };
        told.extend([
            ("sslmode", self.asked.mode.word().to_owned()),
            ("sslrootcert", authorities),
            ("sslcert", certificate),
            ("sslcrl", NOWHERE.to_owned()),
            ("ssl_min_protocol_version", "TLSv1.3".to_owned()),
        ]);
        told.extend(key.map(|key| ("sslkey", key)));
        // The default, which libpq knows from PostgreSQL 17 on, as the database that takes the other.
        if told.get("sslnegotiation").is_some_and(|how| how == "postgres") {
            told.remove("sslnegotiation");
        }
        Ok(())
    }
}

impl Mode {
    /// The value of `sslmode`.
    fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// The file of the authorities that this system trusts, which are the same as [`crate::tls::system_authorities`].
fn of_system() -> anyhow::Result<String> {
    if let Ok(file) = std::env::var("SSL_CERT_FILE") {
        return Ok(file);
    }
    let found = OF_SYSTEM.into_iter().find(|file| Path::new(file).exists());
    ensure!(
        found.is_some() && std::env::var_os("SSL_CERT_DIR").is_none(),
        "sslrootcert=system: PostgreSQL's programs need the authorities that this system trusts in one file; name it in sslrootcert"
    );
    Ok(found.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConnectionString;

    fn told(text: &str) -> String {
        told_with(text, "")
    }

    fn told_with(text: &str, options: &str) -> String {
        let way = Way::of(&ConnectionString::new(text)).unwrap_or_else(|error| panic!("{text}: {error}"));
        way.for_program(&[("keepalives_idle", 60), ("tcp_user_timeout", 300_000)], options).unwrap()
    }

    #[test]
    fn a_program_goes_the_same_way_with_every_libpq_and_without_the_password() {
        const TLS: &str = "ssl_min_protocol_version='TLSv1.3' sslcert='/nonexistent' sslcrl='/nonexistent'";
        const BOUNDS: &str = "gssencmode='disable' host='db' keepalives_idle='60' port='5432'";
        for (text, expected) in [
            (
                "postgresql://me:secret@db/postern",
                format!(
                    "dbname='postern' {BOUNDS} {TLS} sslmode='prefer' sslrootcert='/nonexistent' tcp_user_timeout='300000' user='me'"
                ),
            ),
            (
                "host=db sslmode=require password=secret application_name=x load_balance_hosts=random sslnegotiation=postgres",
                format!("{BOUNDS} {TLS} sslmode='require' sslrootcert='/nonexistent' tcp_user_timeout='300000'"),
            ),
            (
                "host=db sslmode=require sslnegotiation=direct keepalives_retries=2 tcp_user_timeout=5000",
                format!(
                    "gssencmode='disable' host='db' keepalives_count='2' keepalives_idle='60' port='5432' {TLS} sslmode='require' sslnegotiation='direct' sslrootcert='/nonexistent' tcp_user_timeout='5000'"
                ),
            ),
            (
                "host=/run/it\\'s port=5433 sslmode=verify-full sslrootcert=system keepalives_idle=9",
                r"gssencmode='disable' host='/run/it\'s' keepalives_idle='9' port='5433' sslmode='disable' tcp_user_timeout='300000'"
                    .to_owned(),
            ),
            (
                "hostaddr=127.0.0.1 sslmode=require",
                format!(
                    "gssencmode='disable' host='127.0.0.1' hostaddr='127.0.0.1' keepalives_idle='60' port='5432' {TLS} sslmode='require' sslrootcert='/nonexistent' tcp_user_timeout='300000'"
                ),
            ),
            (
                "host=db,other port=1,2 target_session_attrs=read-write channel_binding=require options='-c a=b' sslmode=disable",
                "channel_binding='require' gssencmode='disable' host='db,other' keepalives_idle='60' options='-c a=b' port='1,2' sslmode='disable' target_session_attrs='read-write' tcp_user_timeout='300000'"
                    .to_owned(),
            ),
        ] {
            assert_eq!(told(text), expected);
        }
        for (text, expected) in [
            ("host=/run", " options='-c x=0' "),
            ("host=/run options='-c a=\\'b\\''", r" options='-c a=\'b\' -c x=0' "),
        ] {
            let told = told_with(text, "-c x=0");
            assert!(told.contains(expected), "{told}");
        }
    }
}
