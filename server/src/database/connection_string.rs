//! Connection strings of libpq, in both of their forms (OPS-8). The driver reads them itself, except for a few parameters: it has
//! no certificates, fewer modes of TLS, another name for one, and another unit for one. Those are taken out here.

use std::collections::BTreeMap;

use anyhow::{anyhow, ensure};
use percent_encoding::percent_decode_str;

/// The parameters that are taken out, by libpq's names.
const OURS: [&str; 6] = [KEEPALIVES_COUNT, "sslcert", "sslkey", "sslmode", "sslrootcert", UNACKNOWLEDGED];
/// The number of signs of life that are asked for before a connection is given up.
pub(super) const KEEPALIVES_COUNT: &str = "keepalives_count";
/// The time, in milliseconds, for which sent data may be unacknowledged. The driver takes the number for seconds.
pub(super) const UNACKNOWLEDGED: &str = "tcp_user_timeout";

/// The parameters that say where the server is. The driver adds up those that come again, where for libpq the last one counts.
const PLACES: [&str; 3] = ["host", "hostaddr", "port"];

/// The parameters that are not the driver's, with their values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number that a parameter has. As for libpq, zero and less stand for the default.
    ///
    /// # Errors
    /// A value that is no number.
    pub(super) fn number(&self, name: &str) -> anyhow::Result<Option<u32>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number: i32 = value.trim().parse().map_err(|_| anyhow!("{name} is no number"))?;
        Ok(u32::try_from(number).ok().filter(|number| *number > 0))
    }

    /// Takes a parameter that is one of ours; returns whether it is. As for libpq, the last one of each name counts, and an empty
    /// value is none.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let Some(ours) = OURS.into_iter().find(|ours| *ours == name) else { return false };
        if value.is_empty() {
            self.0.remove(ours);
        } else {
            self.0.insert(ours, value.to_owned());
        }
        true
    }
}

/// Splits a connection string into what the driver reads, and the parameters that it does not. What does not parse is left to the
/// driver, which refuses it, except for a list in which a name is missing: it would take that for the end of the list.
///
/// # Errors
/// A string that says twice where the server is, or has a value without a name.
pub(super) fn split(text: &str) -> anyhow::Result<(String, Parameters)> {
    let (mut parameters, mut places) = (Parameters::default(), Vec::new());
    if let Some(Url { before, names_hosts, query }) = Url::of(text) {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if names_hosts {
            places.extend(["host", "port"].map(str::to_owned));
        }
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if let Some((name, value)) = pair.split_once('=') {
                let name = decoded(name);
                if parameters.take(&name, &decoded(value)) {
                    continue;
                }
                places.push(name);
            }
            kept.push(pair);
        }
        check(&places)?;
        let mark = if kept.is_empty() { "" } else { "?" };
        return Ok((format!("{before}{mark}{}", kept.join("&")), parameters));
    }
    let (mut kept, mut rest) = (String::new(), text);
    while let Some((name, value, behind)) = pair(rest) {
        ensure!(
            !name.is_empty(),
            "it has a `=` without a name before it: write a value that has a space in it in quotes"
        );
        if !parameters.take(name, &value) {
            kept.push_str(&rest[..rest.len() - behind.len()]);
            places.push(name.to_owned());
        }
        rest = behind;
    }
    check(&places)?;
    kept.push_str(rest);
    Ok((kept, parameters))
}

/// Refuses names among which one comes twice that says where the server is.
fn check(names: &[String]) -> anyhow::Result<()> {
    for place in PLACES {
        ensure!(
            names.iter().filter(|name| *name == place).count() < 2,
            "it has {place} twice: several hosts are one list with commas, and in a URL each port stands behind its host"
        );
    }
    Ok(())
}

/// The parts of a connection string that is a URL.
struct Url<'a> {
    /// All before the query, without its `?`.
    before: &'a str,
    /// Whether there are hosts in it.
    names_hosts: bool,
    query: &'a str,
}

impl<'a> Url<'a> {
    /// None for a list of pairs.
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if !["postgresql", "postgres"].contains(&scheme) {
            return None;
        }
        // As for the driver, all before the first `@` is the user and the password, whatever is in it.
        let place = rest.split_once('@').map_or(rest, |(_, place)| place);
        let query = place.split_once('?').map_or("", |(_, query)| query);
        let names_hosts = !place.starts_with(['/', '?']) && !place.is_empty();
        let before = &text[..text.len() - query.len()];
        Some(Self { before: before.strip_suffix('?').unwrap_or(before), names_hosts, query })
    }
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

    fn ours(pairs: &[(&'static str, &str)]) -> Parameters {
        Parameters(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    #[test]
    fn what_the_driver_does_not_read_is_taken_out_of_both_forms_of_a_connection_string() {
        let tls = [("sslmode", "verify-full"), ("sslrootcert", "/etc/a file's/root.crt")];
        let cases: &[(&str, &str, &[(&str, &str)])] = &[
            (
                "postgresql://me:se%26cret@db1,db2:5433/postern?sslmode=verify-full&application_name=x&sslrootcert=/etc/a%20file's/root.crt",
                "postgresql://me:se%26cret@db1,db2:5433/postern?application_name=x",
                &tls,
            ),
            (
                r"host=db user=me  password = 'it\'s \\' sslrootcert='/etc/a file\'s/root.crt' sslmode = verify-full dbname=postern",
                r"host=db user=me  password = 'it\'s \\' dbname=postern",
                &tls,
            ),
            // A password may have anything in it, and a name be written in more than one way.
            (
                "postgresql://me:pa/s?s=1@db/postern?ssl%6Dode=require",
                "postgresql://me:pa/s?s=1@db/postern",
                &[("sslmode", "require")],
            ),
            (
                r"sslmode=require password=a\  host=db sslcert='x'sslkey=y",
                r"password=a\  host=db ",
                &[("sslcert", "x"), ("sslkey", "y"), ("sslmode", "require")],
            ),
            (
                "postgres://db?tcp_user_timeout=1&keepalives_count=2",
                "postgres://db",
                &[(KEEPALIVES_COUNT, "2"), (UNACKNOWLEDGED, "1")],
            ),
            // The last one counts, and an empty one is none.
            ("sslmode=require host=db sslmode=", "host=db ", &[]),
            ("postgresql://db/postern", "postgresql://db/postern", &[]),
            ("host=/run user=me", "host=/run user=me", &[]),
            // The driver refuses these.
            ("postgresql://db?sslmode", "postgresql://db?sslmode", &[]),
            ("host=db sslmode='require", "host=db sslmode='require", &[]),
            ("sslmode", "sslmode", &[]),
        ];
        for &(text, rest, taken) in cases {
            assert_eq!(split(text).unwrap(), (rest.to_owned(), ours(taken)), "{text}");
        }
    }

    #[test]
    fn a_connection_string_says_once_where_the_server_is() {
        for (text, place) in [
            ("host=a host=b", "host"),
            ("port=1 host=a port=2", "port"),
            ("hostaddr=1.2.3.4 host=a hostaddr=1.2.3.5", "hostaddr"),
            ("postgresql://a/postern?host=/run", "host"),
            ("postgresql://me:secret@a?p%6Frt=5433", "port"),
            ("postgresql:///postern?host=a&host=b", "host"),
        ] {
            let refused = split(text).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("it has {place} twice")), "{text}: {refused}");
        }
        for text in [
            "postgresql://me@/postern?host=/run&port=5433",
            "postgresql://a?hostaddr=1.2.3.4",
            "host=a,b port=1,2",
        ] {
            split(text).unwrap();
        }
    }

    /// The driver would drop the rest of the list.
    #[test]
    fn a_list_in_which_a_name_is_missing_is_refused() {
        for text in [
            "host=db password=ab =cd dbname=postern channel_binding=require",
            "host=db password=ab= = channel_binding=require",
            "=",
            " = host=db",
            "host='db'=sslmode=require",
            "sslmode=require =x",
        ] {
            let refused = split(text).unwrap_err().to_string();
            assert!(refused.contains("without a name"), "{text}: {refused}");
        }
        for text in ["host=db password=ab=cd", "host = db password = '=' dbname=\\=x"] {
            assert_eq!(split(text).unwrap().0, text);
        }
    }

    #[test]
    fn a_number_of_ours_is_one_and_zero_is_the_default() {
        let number = |value| ours(&[(UNACKNOWLEDGED, value)]).number(UNACKNOWLEDGED).ok();
        assert_eq!(number("15000"), Some(Some(15000)));
        assert_eq!((number("0"), number("-1")), (Some(None), Some(None)));
        assert_eq!((number("secret"), number("1.5")), (None, None));
        assert_eq!(Parameters::default().number(UNACKNOWLEDGED).unwrap(), None);
    }
}
