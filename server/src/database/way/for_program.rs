//! The connection string by which one of PostgreSQL's own programs (`pg_dump`, `pg_restore`, `psql`) goes the same way (OPS-8).
//! It says all that matters: the program's libpq may be of any version, and finds files of its own in the user's home directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use openssl_probe::{ENV_CERT_DIR, ENV_CERT_FILE};
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation, TargetSessionAttrs};

use super::{Authorities, Mode, Way};
use crate::database::{
    connection_string::{KEEPALIVES_COUNT, UNACKNOWLEDGED},
    session::DRIVERS_KEEPALIVE,
};

/// A directory that does not exist: libpq then has none of the files that it looks for there.
const NOWHERE: &str = "/nonexistent";
/// PostgreSQL's port.
const PORT: &str = "5432";

impl Way {
    /// The way in libpq's words, without the password, with these bounds where the connection string has none, and with these
    /// options of its session besides the string's.
    ///
    /// # Errors
    /// The authorities that this system trusts are in no file.
    pub fn for_program(&self, bounds: &[(&'static str, u64)], options: &str) -> anyhow::Result<String> {
        let mut told: BTreeMap<&'static str, String> =
            bounds.iter().map(|(name, value)| (*name, value.to_string())).collect();
        self.tell_place(&mut told)?;
        self.tell_session(&mut told);
        if !options.is_empty() {
            let own = told.get("options").map_or_else(String::new, |own| format!("{own} "));
            told.insert("options", own + options);
        }
        // libpq would prefer it to TLS, and does not look at any certificate then.
        told.insert("gssencmode", "disable".to_owned());
        if self.config.get_ssl_mode() == SslMode::Disable {
            told.insert("sslmode", Mode::Disable.word().to_owned());
        } else {
            self.tell_tls(&mut told)?;
        }
        let quoted = |value: &str| value.replace('\\', r"\\").replace('\'', r"\'");
        let pairs: Vec<String> =
            told.iter().map(|(name, value)| format!("{name}='{}'", quoted(value))).collect();
        Ok(pairs.join(" "))
    }

    fn tell_place(&self, told: &mut BTreeMap<&'static str, String>) -> anyhow::Result<()> {
        let config = &self.config;
        let mut hosts = Vec::new();
        for host in config.get_hosts() {
            hosts.push(match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(directory) => text(directory)?,
            });
        }
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        let ports: Vec<String> = config.get_ports().iter().map(ToString::to_string).collect();
        told.insert("host", hosts.join(","));
        told.insert("hostaddr", addresses.join(","));
        told.insert("port", if ports.is_empty() { PORT.to_owned() } else { ports.join(",") });
        told.insert("user", config.get_user().unwrap_or_default().to_owned());
        told.insert("dbname", config.get_dbname().unwrap_or_default().to_owned());
        told.retain(|_, value| !value.is_empty());
        Ok(())
    }

    /// Tells all that the connection string says of a session. (A program has a name of its own, and takes the first of several
    /// hosts that answers.)
    fn tell_session(&self, told: &mut BTreeMap<&'static str, String>) {
        let config = &self.config;
        let seconds = |time: Duration| time.as_secs().to_string();
        let idle = Some(config.get_keepalives_idle()).filter(|time| *time != DRIVERS_KEEPALIVE);
        let unacknowledged = config.get_tcp_user_timeout().map(|time| time.as_millis().to_string());
        let attributes = match config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Some("read-write"),
            TargetSessionAttrs::ReadOnly => Some("read-only"),
            _ => None,
        };
        let binding = match config.get_channel_binding() {
            ChannelBinding::Require => Some("require"),
            ChannelBinding::Disable => Some("disable"),
            _ => None,
        };
        let said = [
            ("options", config.get_options().map(str::to_owned)),
            ("connect_timeout", config.get_connect_timeout().copied().map(seconds)),
            ("keepalives", (!config.get_keepalives()).then(|| "0".to_owned())),
            ("keepalives_idle", idle.map(seconds)),
            ("keepalives_interval", config.get_keepalives_interval().map(seconds)),
            (KEEPALIVES_COUNT, config.get_keepalives_retries().map(|count| count.to_string())),
            (UNACKNOWLEDGED, unacknowledged),
            ("target_session_attrs", attributes.map(str::to_owned)),
            ("channel_binding", binding.map(str::to_owned)),
        ];
        told.extend(said.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }

    fn tell_tls(&self, told: &mut BTreeMap<&'static str, String>) -> anyhow::Result<()> {
        let authorities = match &self.asked.authorities {
            Authorities::Nobody => NOWHERE.to_owned(),
            // libpq knows this word from PostgreSQL 16 on, and not the variables that name another file.
            Authorities::System => text(&of_system()?)?,
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
        // libpq knows it from PostgreSQL 17 on, as the database that takes this one. The other is the default.
        if self.config.get_ssl_negotiation() == SslNegotiation::Direct {
            told.insert("sslnegotiation", "direct".to_owned());
        }
        Ok(())
    }
}

/// The name of a file as text, which a connection string is.
fn text(file: &Path) -> anyhow::Result<String> {
    let text = file.to_str().map(str::to_owned);
    text.context("the name of a file or of a directory in the connection string is no text")
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

/// The file of the authorities that this system trusts, which [`crate::tls::system_authorities`] reads, too. It reads directories
/// as well, which libpq cannot: systems that have both have the same authorities in them.
fn of_system() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os(ENV_CERT_FILE).map(PathBuf::from);
    let is_a_directory =
        named.is_none() && std::env::var_os(ENV_CERT_DIR).is_some_and(|directories| !directories.is_empty());
    let file = named.or_else(|| openssl_probe::probe().cert_file).filter(|_| !is_a_directory);
    file.context(
        "sslrootcert=system: PostgreSQL's programs need the authorities that this system trusts in one file; name it in sslrootcert",
    )
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
                "host=db sslmode=require sslnegotiation=direct keepalives_count=2 connect_timeout=7 keepalives=0 tcp_user_timeout=5000",
                format!(
                    "connect_timeout='7' gssencmode='disable' host='db' keepalives='0' keepalives_count='2' keepalives_idle='60' port='5432' {TLS} sslmode='require' sslnegotiation='direct' sslrootcert='/nonexistent' tcp_user_timeout='5000'"
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
