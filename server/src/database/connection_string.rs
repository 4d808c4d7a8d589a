//! Connection strings of libpq, in both of their forms, as all that connects here takes them (OPS-8). The driver, and libpq, by
//! which PostgreSQL's own programs connect, know different parameters, libpq others with each version, and some mean different
//! things to the two. So a connection string is read here, and either is told what it says in its own words. What one of the
//! two cannot do is refused.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, anyhow, bail, ensure};
use percent_encoding::percent_decode_str;

/// The parameters that are understood, by libpq's names.
const KNOWN: [&str; 22] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    KEEPALIVES_COUNT,
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    UNACKNOWLEDGED,
    "user",
];
const KEEPALIVES_COUNT: &str = "keepalives_count";
/// The driver's name of the same.
const KEEPALIVES_RETRIES: &str = "keepalives_retries";
/// The time, in milliseconds, for which sent data may be unacknowledged. The driver takes the number for seconds.
const UNACKNOWLEDGED: &str = "tcp_user_timeout";
/// The parameters that the driver is not told: it knows no certificates, and fewer modes of TLS.
const NOT_THE_DRIVERS: [&str; 5] = ["sslcert", "sslkey", "sslmode", "sslrootcert", UNACKNOWLEDGED];
/// The parameters whose value is a number, of which zero and less stand for the default.
const NUMBERS: [&str; 5] =
    ["connect_timeout", KEEPALIVES_COUNT, "keepalives_idle", "keepalives_interval", UNACKNOWLEDGED];
/// The values of `target_session_attrs` that the driver has, too.
const SESSIONS: [&str; 3] = ["any", "read-write", "read-only"];

/// The parameters that are taken with values which say what is so anyhow, and refused with all others.
const SO_ANYHOW: [(&str, &[&str]); 7] = [
    ("client_encoding", &["UTF8", "UTF-8"]),
    ("gssencmode", &["disable", "prefer"]),
    ("ssl_max_protocol_version", &["TLSv1.3"]),
    ("ssl_min_protocol_version", &["TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1"]),
    ("sslcertmode", &["allow"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
];

/// The other parameters that a version of libpq has, each with the reason why it is refused.
const REFUSED: [(&str, &str); 22] = [
    ("fallback_application_name", NAMES),
    ("gssdelegation", GSS),
    ("gsslib", GSS),
    ("krbsrvname", GSS),
    ("max_protocol_version", PROTOCOL),
    ("min_protocol_version", PROTOCOL),
    ("oauth_client_id", OAUTH),
    ("oauth_client_secret", OAUTH),
    ("oauth_issuer", OAUTH),
    ("oauth_scope", OAUTH),
    ("passfile", "write the password into the connection string, and that where nobody else reads it"),
    ("replication", "no session here replicates"),
    (
        "require_auth",
        "the way of authentication is not looked at; channel_binding=require takes a password over TLS only, by SCRAM",
    ),
    ("requirepeer", "name the directory of a socket in which nobody but PostgreSQL's user can make one"),
    ("scram_client_key", SCRAM),
    ("scram_server_key", SCRAM),
    ("service", SERVICE),
    ("servicefile", SERVICE),
    ("sslcrl", REVOKED),
    ("sslcrldir", REVOKED),
    ("sslkeylogfile", "no keys of TLS are written"),
    ("sslpassword", "name a file in sslkey whose key has no password, and that nobody else can read"),
];
const GSS: &str = "GSSAPI is not spoken";
const NAMES: &str = "each session has a name of its own";
const OAUTH: &str = "OAuth is not spoken";
const PROTOCOL: &str = "the protocol is version 3.0";
const REVOKED: &str = "lists of revoked certificates are not looked at";
const SCRAM: &str = "give the password itself, or a certificate in sslcert";
const SERVICE: &str = "write what the service says into the connection string";

/// A connection string: its parameters with their values, by libpq's names. Those that it does not have, or that are empty, are
/// left to what connects.
#[derive(Default)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads a connection string.
    ///
    /// # Errors
    /// One that does not parse, that names no host, or asks for what there is not. No error quotes it.
    pub(super) fn of(text: &str) -> anyhow::Result<Self> {
        let (mut found, mut pairs) = (Self::default(), Vec::new());
        match Url::of(text) {
            Some(url) => url.read(&mut pairs)?,
            None => read_list(text, &mut pairs)?,
        }
        for (name, value) in pairs {
            found.take(&name, value)?;
        }
        found.normalise()?;
        Ok(found)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The connection string in the driver's words.
    pub(super) fn for_driver(&self) -> String {
        let told = self.all().filter(|(name, _)| !NOT_THE_DRIVERS.contains(name));
        list(told.map(|(name, value)| match name {
            KEEPALIVES_COUNT => (KEEPALIVES_RETRIES, value),
            _ => (name, value),
        }))
    }

    /// The time for which sent data may be unacknowledged.
    pub(super) fn unacknowledged(&self) -> Option<Duration> {
        self.get(UNACKNOWLEDGED)?.parse().ok().map(Duration::from_millis)
    }

    /// Takes a parameter. As for libpq, the last one of each name counts, and an empty value is none.
    fn take(&mut self, name: &str, value: String) -> anyhow::Result<()> {
        let name = if name == KEEPALIVES_RETRIES { KEEPALIVES_COUNT } else { name };
        if let Some(known) = KNOWN.iter().copied().find(|known| *known == name) {
            if value.is_empty() {
                self.0.remove(known)
            } else {
                self.0.insert(known, value)
            };
            return Ok(());
        }
        if let Some((name, values)) = SO_ANYHOW.iter().find(|(so, _)| *so == name) {
            let is_so = value.is_empty() || values.iter().any(|so| so.eq_ignore_ascii_case(&value));
            ensure!(is_so, "{name} is not supported, except as {}: leave it out", values.join(" or "));
            return Ok(());
        }
        match REFUSED.iter().find(|(refused, _)| *refused == name) {
            Some(_) if value.is_empty() => Ok(()),
            Some((name, why)) => bail!("{name} is not supported: {why}"),
            // Not by its name, which may be a part of a password.
            None => bail!(
                "it has a parameter that is not known; a value with spaces has to be in quotes, as in password='two words', and in a URL special characters are percent-encoded"
            ),
        }
    }

    /// Brings values into the form that all take alike, and refuses others.
    fn normalise(&mut self) -> anyhow::Result<()> {
        for name in NUMBERS {
            let Some(value) = self.get(name) else { continue };
            let number: i32 = value.trim().parse().map_err(|_| anyhow!("{name} is no number"))?;
            if number > 0 {
                self.0.insert(name, number.to_string());
            } else {
                self.0.remove(name);
            }
        }
        if let Some(wanted) = self.get("target_session_attrs") {
            ensure!(
                SESSIONS.contains(&wanted),
                "target_session_attrs is one of any, read-write and read-only: read-write finds the primary"
            );
        }
        let hosts = self.get("host").or_else(|| self.get("hostaddr"));
        let hosts = hosts.context(
            "it names no host: give one, or the directory of a socket, as in host=/run/postgresql",
        )?;
        for host in hosts.split(',') {
            ensure!(!host.is_empty(), "its list of hosts has an empty one");
            ensure!(!host.starts_with('@'), "abstract sockets (host=@…) are not supported");
        }
        Ok(())
    }
}

/// Parameters as a connection string that is a list.
pub(super) fn list<'a>(parameters: impl Iterator<Item = (&'static str, &'a str)>) -> String {
    let quoted = |value: &str| value.replace('\\', r"\\").replace('\'', r"\'");
    let pairs: Vec<String> = parameters.map(|(name, value)| format!("{name}='{}'", quoted(value))).collect();
    pairs.join(" ")
}

/// The parts of a connection string that is a URL.
struct Url<'a> {
    /// The user and the password, with the `@` behind them, or nothing.
    user: &'a str,
    /// Hosts and database.
    place: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    /// None for a list of pairs.
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if !["postgresql", "postgres"].contains(&scheme) {
            return None;
        }
        // All before the first `@` is the user and the password, whatever is in it.
        let (user, rest) = rest.split_at(rest.find('@').map_or(0, |at| at + 1));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        Some(Self { user, place, query })
    }

    /// Adds its parameters to others, in their order.
    fn read(&self, pairs: &mut Vec<(String, String)>) -> anyhow::Result<()> {
        let mut put = |name: &str, value: &str| -> anyhow::Result<()> {
            pairs.push((decoded(name)?, decoded(value)?));
            Ok(())
        };
        if let Some(user) = self.user.strip_suffix('@') {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            put("user", user)?;
            put("password", password)?;
        }
        let (hosts, database) = self.place.split_once('/').unwrap_or((self.place, ""));
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = match host.strip_prefix('[') {
                // Colons are in the address itself.
                Some(address) => {
                    let (address, behind) =
                        address.split_once(']').context("a host that begins with [ has no ]")?;
                    let port = if behind.is_empty() { Some("") } else { behind.strip_prefix(':') };
                    (address, port.context("behind the ] of a host there is something else than a port")?)
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            names.push(name);
            ports.push(port);
        }
        put("host", &names.join(","))?;
        if ports.iter().any(|port| !port.is_empty()) {
            put("port", &ports.join(","))?;
        }
        put("dbname", database)?;
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').context("a parameter of the URL has no value")?;
            match (name, value) {
                // The word of other drivers, which libpq takes, too.
                ("ssl", "true") => put("sslmode", "require")?,
                _ => put(name, value)?,
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> anyhow::Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| anyhow!("what it has percent-encoded is not UTF-8"))?.into_owned())
}

/// Adds the parameters of a list to others, in their order.
fn read_list(text: &str, pairs: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, value, behind) = pair(rest)
            .context("it is neither a URL nor a list of NAME=VALUE, or a quote in it has no end")?;
        pairs.push((name.to_owned(), value));
        rest = behind;
    }
    Ok(())
}

/// The first pair of a list `name = value`: its name and its value, and what comes behind it. A value may be quoted, with `'`,
/// and `\` before a character takes it as it is.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, behind) = text.split_once('=')?;
    let mut value = String::new();
    let behind = behind.trim_start();
    let (quoted, mut letters) = match behind.strip_prefix('\'') {
        Some(inner) => (true, inner.chars()),
        None => (false, behind.chars()),
    };
    loop {
        match letters.next() {
            Some('\\') => value.extend(letters.next()),
            Some('\'') if quoted => break,
            Some(letter) if !quoted && letter.is_whitespace() => break,
            Some(letter) => value.push(letter),
            None if quoted => return None,
            None => break,
        }
    }
    Some((name.trim(), value, letters.as_str().trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        list(Parameters::of(text).unwrap_or_else(|error| panic!("{text}: {error:#}")).all())
    }

    fn refusal(text: &str) -> String {
        let error = Parameters::of(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        format!("{error:#}")
    }

    #[test]
    fn both_forms_of_a_connection_string_say_the_same() {
        for (text, expected) in [
            (
                "postgresql://me:se%26cret@db1,db2:5433/postern?sslmode=verify-full&sslrootcert=/etc/a%20file's/root.crt",
                r"dbname='postern' host='db1,db2' password='se&cret' port=',5433' sslmode='verify-full' sslrootcert='/etc/a file\'s/root.crt' user='me'",
            ),
            (
                r"host=db user=me  password = 'it\'s \\' sslrootcert='/etc/a file\'s/root.crt' dbname=postern",
                r"dbname='postern' host='db' password='it\'s \\' sslrootcert='/etc/a file\'s/root.crt' user='me'",
            ),
            // A password may have anything in it.
            ("postgres://me:pa/s?s=1@db/postern", "dbname='postern' host='db' password='pa/s?s=1' user='me'"),
            ("postgresql://[::1]:5433,[::2]/x", "dbname='x' host='::1,::2' port='5433,'"),
            ("postgresql://%2Frun%2Fpostgresql/x", "dbname='x' host='/run/postgresql'"),
            ("postgresql:///postern?host=/run", "dbname='postern' host='/run'"),
            ("postgres://db?password=secret", "host='db' password='secret'"),
            ("postgresql://db?ssl=true", "host='db' sslmode='require'"),
            // The last one counts, and an empty one is none.
            ("host=db host=other password=''", "host='other'"),
            ("postgresql://me:one@db?password=two", "host='db' password='two' user='me'"),
            ("host=db sslmode=require sslmode=", "host='db'"),
            ("hostaddr=127.0.0.1", "hostaddr='127.0.0.1'"),
        ] {
            assert_eq!(read(text), expected);
            assert_eq!(read(expected), expected, "what is written is read again");
        }
    }

    #[test]
    fn libpqs_words_are_put_into_the_drivers() {
        let text = "host=db tcp_user_timeout=15000 keepalives_count=3 keepalives_idle=0 connect_timeout=-1 sslmode=verify-ca";
        let parameters = Parameters::of(text).unwrap();
        assert_eq!(parameters.for_driver(), "host='db' keepalives_retries='3'");
        assert_eq!(parameters.unacknowledged(), Some(Duration::from_secs(15)));
        let config: tokio_postgres::Config = parameters.for_driver().parse().unwrap();
        assert_eq!(config.get_keepalives_retries(), Some(3));
        assert_eq!(read("host=db keepalives_retries=3"), "host='db' keepalives_count='3'");
        // Each that is known is one of the driver's, or of ours.
        let values = [
            ("channel_binding", "require"),
            ("connect_timeout", "3"),
            ("hostaddr", "127.0.0.1"),
            ("keepalives", "1"),
            (KEEPALIVES_COUNT, "3"),
            ("keepalives_idle", "3"),
            ("keepalives_interval", "3"),
            ("load_balance_hosts", "random"),
            ("port", "5433"),
            ("sslnegotiation", "postgres"),
            ("target_session_attrs", "read-write"),
            (UNACKNOWLEDGED, "3"),
        ];
        for name in KNOWN {
            let value = values.iter().find(|(of, _)| *of == name).map_or("x", |(_, value)| *value);
            let text = format!("host=db {name}={value}");
            let parsed = Parameters::of(&text).unwrap().for_driver().parse::<tokio_postgres::Config>();
            assert!(parsed.is_ok(), "{text}");
        }
    }

    #[test]
    fn what_the_driver_cannot_do_is_refused_with_the_reason_and_without_a_word_of_a_password() {
        for (text, expected) in [
            ("host=db sslpassword=secret", "sslpassword is not supported: name a file in sslkey"),
            ("host=db passfile=/secret", "passfile is not supported: write the password"),
            ("service=secret", "service is not supported: write what the service says"),
            ("postgresql://db?require_auth=secret", "channel_binding=require"),
            ("host=db sslcrl=/secret", "lists of revoked certificates"),
            ("host=db gssencmode=require", "gssencmode is not supported, except as disable or prefer"),
            ("host=db sslcertmode=secret", "sslcertmode is not supported, except as allow"),
            ("host=db ssl_max_protocol_version=TLSv1.2", "except as TLSv1.3"),
            ("host=db target_session_attrs=primary", "read-write finds the primary"),
            ("host=db connect_timeout=secret", "connect_timeout is no number"),
            ("host=db password=two secret=1", "not known; a value with spaces has to be in quotes"),
            ("host=db password='secret", "a quote in it has no end"),
            ("secret", "neither a URL nor a list"),
            ("postgresql://me:secret@db?sslmode", "has no value"),
            ("postgresql://me:%FF@db", "not UTF-8"),
            ("postgresql://[secret", "begins with ["),
            ("user=secret", "it names no host"),
            ("host=db,,other", "an empty one"),
            ("host=@secret", "abstract sockets"),
        ] {
            let refused = refusal(text);
            assert!(refused.contains(expected), "{text}: {refused}");
            assert!(!refused.contains("secret"), "{text}: {refused}");
        }
        for (name, _) in REFUSED {
            assert!(refusal(&format!("host=db {name}=x")).starts_with(name), "{name}");
        }
        for (name, values) in SO_ANYHOW {
            for value in values {
                assert_eq!(read(&format!("host=db {name}={value}")), "host='db'");
            }
        }
    }
}
