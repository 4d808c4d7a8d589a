//! The configuration: an operator's settings and their defaults. There are three layers, of which the later wins: a
//! TOML file, environment variables (`POSTERN_…`), command line flags. The last two have one definition ([`Settings`]),
//! so every setting has all three spellings and `--help` shows them. The master key itself is not part of it (see
//! [`crate::keys::master_key`]).
//!
//! Each section of the file has a module, with its values, their defaults, flags and checks. [`load`] puts the layers
//! together, [`file`](mod@file) writes a file.

mod database;
mod federation;
pub mod file;
mod limits;
mod load;
mod log;
mod metrics;
mod oidc;
mod proxy;
mod push;
mod settings;
mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::bail;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use url::Url;

pub use database::{ConnectionString, DatabaseConfig};
pub use federation::{FederationConfig, HostAddress};
pub use limits::Limits;
pub use load::{FILE_NAME, expect_own, installed_file, read_file};
pub use log::{LogConfig, LogFormat};
pub use metrics::MetricsConfig;
pub use oidc::OidcConfig;
pub use proxy::{Network, ProxyConfig, ProxySource};
pub use push::PushConfig;
pub use settings::Settings;
pub use tls::TlsConfig;

use crate::keys::master_key;

/// Stands for all origins in [`Config::allowed_origins`].
pub const ANY_ORIGIN: &str = "*";
/// The variable in which systemd names a unit's StateDirectory=.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// The state directory of the package's unit.
pub const STATE: &str = "/var/lib/postern";

/// The configuration of one server process, complete and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The home domain: the part of this server's user names after `@`, in lower case.
    pub domain: String,
    /// Address and port of the HTTP server. With port 0 the system chooses a free port.
    pub listen: SocketAddr,
    /// The URL at which clients and other servers reach this one, without a path. Without it, `https://` and the home
    /// domain.
    pub base_url: Option<String>,
    /// The origins whose pages in browsers may call the server (CORS), such as `https://chat.example.org`; `*` for any.
    pub allowed_origins: Vec<String>,
    /// The file with the master key. Without it the key comes from the environment, or with `embedded` from the data
    /// directory.
    pub master_key_file: Option<PathBuf>,
    /// The file with the key that is to take the master key's place. It need not exist before that.
    pub next_master_key_file: Option<PathBuf>,
    /// The file that remembers a mark of the database, so that one which is put back to an earlier state is noticed.
    pub witness_file: Option<PathBuf>,
    pub database: DatabaseConfig,
    /// Run a private PostgreSQL cluster in `data_dir` instead of connecting to `database`.
    pub embedded: bool,
    /// Make the private cluster if there is none in `data_dir`. `postern setup` writes false: a cluster that is missing
    /// later is on a disk that is not mounted, and no new homeserver.
    pub create_cluster: bool,
    pub data_dir: PathBuf,
    /// The directory with postern.so, postern.control and postern--*.sql for the private cluster.
    pub extension_dir: PathBuf,
    pub limits: Limits,
    pub tls: TlsConfig,
    pub proxy: ProxyConfig,
    pub federation: FederationConfig,
    pub push: PushConfig,
    pub oidc: OidcConfig,
    pub metrics: MetricsConfig,
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)),
            base_url: None,
            allowed_origins: vec![ANY_ORIGIN.to_owned()],
            master_key_file: None,
            next_master_key_file: None,
            witness_file: None,
            database: DatabaseConfig::default(),
            embedded: false,
            create_cluster: true,
            data_dir: default_data_dir(),
            extension_dir: default_extension_dir(),
            limits: Limits::default(),
            tls: TlsConfig::default(),
            proxy: ProxyConfig::default(),
            federation: FederationConfig::default(),
            push: PushConfig::default(),
            oidc: OidcConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// The master key's file: the one that is configured, else with `embedded` one in the data directory, unless the
    /// environment has the key.
    pub fn master_key_file(&self) -> Option<PathBuf> {
        let own = self.embedded && std::env::var_os(master_key::ENVIRONMENT).is_none();
        self.master_key_file.clone().or_else(|| own.then(|| self.data_dir.join("master.key")))
    }

    /// The file with the key that is to take the master key's place: the one that is configured, else with `embedded`
    /// one in the data directory.
    pub fn next_master_key_file(&self) -> Option<PathBuf> {
        let own = || self.embedded.then(|| self.data_dir.join("next-master.key"));
        self.next_master_key_file.clone().or_else(own)
    }

    /// The witness's file: the one that is configured, else one in the data directory of a private cluster, in the state
    /// directory that systemd gives a unit, in that of the package's unit, or next to the master key. A server without any of
    /// these has none.
    pub fn witness_file(&self) -> Option<PathBuf> {
        let own = || self.embedded.then(|| self.data_dir.clone());
        let of_unit = || {
            // Several are separated by colons.
            let dirs = std::env::var_os(STATE_DIRECTORY);
            let of_process =
                dirs.and_then(|dirs| std::env::split_paths(&dirs).next()).filter(|dir| dir.is_absolute());
            // A command by hand looks where the server of the package's unit does.
            let of_package = || installed_file().map(|_| PathBuf::from(STATE)).filter(|dir| dir.is_dir());
            of_process.or_else(of_package)
        };
        let beside_key = || Some(self.master_key_file()?.parent()?.to_owned());
        let place = || own().or_else(of_unit).or_else(beside_key).map(|dir| dir.join("witness"));
        self.witness_file.clone().or_else(place)
    }

    /// The URL at which clients and other servers reach this one, without a path or a final slash.
    pub fn base_url(&self) -> String {
        self.base_url.clone().unwrap_or_else(|| format!("https://{}", self.domain))
    }

    fn validated(mut self) -> anyhow::Result<Self> {
        if self.domain.is_empty() {
            bail!(
                "the home domain is not set: run `postern setup`, or give --domain NAME, POSTERN_DOMAIN=NAME or `domain = \"NAME\"` in postern.toml"
            );
        }
        self.domain.make_ascii_lowercase();
        let sections = [
            self.database.positive(),
            self.federation.positive(),
            self.metrics.positive(),
            self.push.positive(),
            self.limits.positive(),
        ];
        if let Some((name, _)) = sections.concat().into_iter().find(|(_, value)| *value == 0) {
            bail!("{name} is 0: it must be at least 1");
        }
        self.limits.check()?;
        self.federation.check()?;
        self.tls.check()?;
        if let Some(base_url) = &mut self.base_url {
            *base_url = base_url.trim_end_matches('/').to_owned();
            if !base_url.starts_with("https://") || !is_origin(base_url) {
                bail!("base_url is no https: URL without a path: one looks like https://chat.example.org");
            }
        }
        self.proxy.check()?;
        if let Some(text) = self.allowed_origins.iter().find(|text| *text != ANY_ORIGIN && !is_origin(text)) {
            bail!("allowed_origins: {text} is no origin: one looks like https://chat.example.org");
        }
        self.push.check()?;
        self.oidc.check()?;
        Ok(self)
    }
}

/// Whether a text is an origin as browsers write it: scheme, host, and a port that is not the scheme's own. The scheme
/// may be one of an app, such as `capacitor:`.
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        url.host_str().is_some_and(|host| text == format!("{}://{host}{port}", url.scheme()))
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn default_data_dir() -> PathBuf {
    if Uid::effective().is_root() {
        return PathBuf::from(STATE);
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    std::env::var_os("XDG_DATA_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_default()
        .join("postern")
}

fn default_extension_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("extension")))
        .unwrap_or_else(|| PathBuf::from("extension"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration of a file with this text and a domain.
    pub fn of(text: &str) -> anyhow::Result<Config> {
        let file = toml::from_str(&format!("domain = 'a.example'\n{text}")).expect("it is TOML");
        Config::from_layers(&file, &Settings::default())
    }

    /// The reason why such a file is refused.
    pub fn refusal(text: &str) -> String {
        of(text).expect_err(text).to_string()
    }

    #[test]
    fn a_homeserver_has_a_domain_and_a_url_without_a_path() {
        let without = Config::from_layers(&toml::Table::new(), &Settings::default()).unwrap_err();
        assert!(without.to_string().starts_with("the home domain is not set: "), "{without}");
        let config = of("base_url = 'https://chat.a.example/'").unwrap();
        assert_eq!(config.base_url(), "https://chat.a.example");
        assert_eq!(of("").unwrap().base_url(), "https://a.example");
        for url in ["http://chat.a.example", "https://chat.a.example/path", "chat.a.example"] {
            assert!(
                refusal(&format!("base_url = '{url}'")).starts_with("base_url is no https: URL"),
                "{url}"
            );
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for (text, is_one) in [
            ("https://chat.example.org", true),
            ("http://localhost:8080", true),
            ("capacitor://localhost", true),
            ("https://chat.example.org/", false),
            ("https://chat.example.org:443", false),
            ("chat.example.org", false),
        ] {
            assert_eq!(is_origin(text), is_one, "{text}");
        }
        assert!(refusal("allowed_origins = ['*', 'here']").contains("here is no origin"));
    }

    #[test]
    fn a_private_cluster_has_its_keys_in_the_data_directory() {
        let config = of("embedded = true\ndata_dir = '/data'").unwrap();
        assert_eq!(config.next_master_key_file(), Some(PathBuf::from("/data/next-master.key")));
        assert_eq!(of("").unwrap().next_master_key_file(), None);
    }
}
