//! Connection strings of libpq, in both of their forms, as far as the driver does not read them: the parameters of TLS
//! are taken out, and so is the password for a program's arguments.

use percent_encoding::percent_decode_str;

use crate::config::ConnectionString;

/// The parameters of TLS in a connection string.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) mode: Option<String>,
    pub(super) authorities: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
}

impl Parameters {
    /// Takes a parameter of TLS; returns whether it is one.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.authorities,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        // As for libpq, an empty value is none.
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        true
    }
}

/// Splits a connection string into what the driver reads, and the parameters of TLS.
pub(super) fn split(text: &str) -> (String, Parameters) {
    let mut parameters = Parameters::default();
    if let Some(Url { scheme, user, place, query }) = Url::of(text) {
        let query = without(query, |name, value| {
            parameters.take(name, &percent_decode_str(value).decode_utf8_lossy())
        });
        return (format!("{scheme}://{user}{place}{query}"), parameters);
    }
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while let Some((pair, name, value, behind)) = pair(rest) {
        if !parameters.take(name, &value) {
            kept.push_str(pair);
            kept.push(' ');
        }
        rest = behind;
    }
    // The rest, which does not parse, is left to the driver, which says so.
    kept.push_str(rest);
    (kept, parameters)
}

/// The connection string without a password, for the arguments of a program.
pub fn without_password(url: &ConnectionString) -> String {
    let text = url.as_str();
    if let Some(Url { scheme, user, place, query }) = Url::of(text) {
        let user = match user.strip_suffix('@') {
            Some(user) => format!("{}@", user.split(':').next().unwrap_or_default()),
            None => String::new(),
        };
        return format!("{scheme}://{user}{place}{}", without(query, |name, _| name == "password"));
    }
    let (mut kept, mut rest) = (Vec::new(), text.trim_start());
    while let Some((pair, name, _, behind)) = pair(rest) {
        if name != "password" {
            kept.push(pair);
        }
        rest = behind;
    }
    kept.join(" ")
}

/// A connection string with these parameters where it has none of its own, for libpq, which takes the last one of each name.
pub fn with_defaults(text: &str, defaults: &[(&str, u64)]) -> String {
    let pairs = |between: &str| {
        let pairs: Vec<String> = defaults.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(between)
    };
    let Some(Url { scheme, user, place, query }) = Url::of(text) else {
        return format!("{} {text}", pairs(" "));
    };
    let own = if query.is_empty() { String::new() } else { format!("&{query}") };
    format!("{scheme}://{user}{place}?{}{own}", pairs("&"))
}

/// The parts of a connection string that is a URL.
struct Url<'a> {
    scheme: &'a str,
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
        // As for the driver, all before the first `@` is the user and the password, whatever is in it.
        let (user, rest) = rest.split_at(rest.find('@').map_or(0, |at| at + 1));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        Some(Self { scheme, user, place, query })
    }
}

/// A URL's query, with its `?`, without the parameters of which `is_taken` says that they are taken out, by name and value.
fn without(query: &str, mut is_taken: impl FnMut(&str, &str) -> bool) -> String {
    let is_kept = |pair: &&str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        !pair.is_empty() && !is_taken(name, value)
    };
    let rest: Vec<&str> = query.split('&').filter(is_kept).collect();
    if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) }
}

/// The first pair of a list `name = value`, its name and its value, and what comes behind it. A value may be quoted, with
/// `'`, and `\` before a character takes it as it is.
fn pair(text: &str) -> Option<(&str, &str, String, &str)> {
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
    let rest = letters.as_str();
    Some((text[..text.len() - rest.len()].trim_end(), name.trim(), value, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_tls_are_taken_out_of_both_forms_of_a_connection_string() {
        let expected = Parameters {
            mode: Some("verify-full".to_owned()),
            authorities: Some("/etc/a file's/root.crt".to_owned()),
            ..Parameters::default()
        };
        let (rest, parameters) = split(
            "postgresql://me:se%26cret@db1,db2:5433/postern?sslmode=verify-full&application_name=x&sslrootcert=/etc/a%20file's/root.crt",
        );
        assert_eq!(rest, "postgresql://me:se%26cret@db1,db2:5433/postern?application_name=x");
        assert_eq!(parameters, expected);
        let (rest, parameters) = split(
            r"host=db user=me  password = 'it\'s \\' sslrootcert='/etc/a file\'s/root.crt' sslmode = verify-full dbname=postern",
        );
        assert_eq!(rest, r"host=db user=me password = 'it\'s \\' dbname=postern ");
        assert_eq!(parameters, expected);
        let (rest, parameters) = split("postgresql://me:pa/s?s=1@db/postern?sslmode=verify-full");
        assert_eq!(rest, "postgresql://me:pa/s?s=1@db/postern", "a password may have anything in it");
        assert_eq!(parameters.mode.as_deref(), Some("verify-full"));
        for untouched in ["postgresql://db/postern", "host=/run user=postern_server dbname=postern"] {
            let (rest, parameters) = split(untouched);
            assert_eq!(rest.trim_end(), untouched);
            assert_eq!(parameters, Parameters::default());
        }
    }

    #[test]
    fn a_password_is_taken_out_of_both_forms_of_a_connection_string() {
        for (with, without) in [
            (
                "postgresql://me:se%26cret@db1,db2:5433/postern?sslmode=require",
                "postgresql://me@db1,db2:5433/postern?sslmode=require",
            ),
            (
                "postgres://me@db/postern?password=secret&sslmode=require",
                "postgres://me@db/postern?sslmode=require",
            ),
            ("postgres://db?password=secret", "postgres://db"),
            (
                "postgresql://me:pa/s?s=1@db/postern?sslmode=require",
                "postgresql://me@db/postern?sslmode=require",
            ),
            ("postgresql:///postern?host=/run", "postgresql:///postern?host=/run"),
            (r"host='/run/it\'s' password = 'it\'s a' user=me", r"host='/run/it\'s' user=me"),
            ("host=/run user=me", "host=/run user=me"),
        ] {
            assert_eq!(without_password(&ConnectionString::new(with)), without);
        }
    }

    #[test]
    fn parameters_of_both_forms_of_a_connection_string_come_after_defaults_and_so_prevail() {
        for (own, with_defaults_of_ours) in [
            ("postgresql://me@db/postern?c=3", "postgresql://me@db/postern?a=1&b=2&c=3"),
            ("postgres://db", "postgres://db?a=1&b=2"),
            ("host=/run user=me", "a=1 b=2 host=/run user=me"),
        ] {
            assert_eq!(with_defaults(own, &[("a", 1), ("b", 2)]), with_defaults_of_ours);
        }
    }
}
