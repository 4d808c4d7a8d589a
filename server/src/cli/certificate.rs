//! A look at the server's certificates (OPS-8): at its own as clients and other servers will take it, and at the one for
//! PostgreSQL.

use std::{os::unix::fs::MetadataExt, path::Path};

use super::check::{Problem, problem};
use crate::{config::Config, database::Way, tls};

/// Days before its end from which on a certificate is worth a note.
pub const ENDING: u64 = 14;

/// The name by which clients know this server.
pub fn host(config: &Config) -> String {
    tls::host(&config.base_url(), &config.domain)
}

/// Looks at the certificate, and returns the days for which it is still valid for clients and other servers.
///
/// # Errors
/// The problem with it, and how to mend that.
pub fn look(config: &Config, certificate: &Path, key: &Path) -> Result<u64, Problem> {
    let files = "a certificate with those that lead to an authority, and its key, both in PEM, which the server's user can read";
    tls::server_config(
        &std::fs::read(certificate)
            .map_err(|error| problem(format!("{}: {error}", certificate.display()), files))?,
        &std::fs::read(key).map_err(|error| problem(format!("{}: {error}", key.display()), files))?,
    )
    .map_err(|error| problem(format!("{error:#}"), files))?;
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode() & 0o777);
    if mode & 0o007 != 0 {
        let what = format!("{} has mode {mode:03o}: everybody on this machine can read it", key.display());
        return Err(problem(what, format!("chmod o= {}", key.display())));
    }
    let mut authorities = tls::system_authorities();
    if let Some(file) = &config.federation.trusted_roots {
        let own = tls::authorities(file).map_err(|error| {
            problem(format!("{error:#}"), "federation.trusted_roots: a file of certificates in PEM")
        })?;
        authorities.extend(own);
    }
    let chain =
        std::fs::read(certificate).map_err(anyhow::Error::from).and_then(|pem| tls::certificates(&pem));
    let chain = chain.map_err(|error| problem(format!("{error:#}"), files))?;
    let seconds = tls::examine(&chain, &host(config), tls::roots(authorities)).map_err(|error| {
        let mend = match error {
            tls::Unacceptable::Name(_) => "a certificate for the host of base_url, which is https:// and the home domain if it is not set",
            tls::Unacceptable::Ended(_) => "renew it: servers take the new file over",
            tls::Unacceptable::Chain => "put the intermediate certificates into the same file, behind the server's; for an authority of your own, name it in federation.trusted_roots here and at your neighbours",
            tls::Unacceptable::NotYet | tls::Unacceptable::Other(_) => "another certificate, or the right time on this machine",
        };
        problem(format!("{}: {error}", certificate.display()), mend)
    })?;
    Ok(seconds / (24 * 60 * 60))
}

/// Looks at the certificate that servers show to PostgreSQL, and returns the days for which it is still valid; none if there
/// is none, or its files are of no use, which a look at the database tells.
///
/// # Errors
/// It is not valid now, and how to mend that.
pub fn look_at_postgresqls(config: &Config) -> Option<Result<u64, Problem>> {
    let certificate = Way::of(config.database.url.as_ref()?).ok()?.certificate()?;
    let mend =
        "another certificate and key in the files of sslcert and sslkey, or the right time on this machine";
    let left = tls::left(&certificate).map_err(|error| problem(format!("sslcert: {error}"), mend));
    Some(left.map(|seconds| seconds / (24 * 60 * 60)))
}
