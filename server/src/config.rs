//! The configuration: an operator's settings and their defaults. There are three layers, of which the later wins: a
//! TOML file, environment variables (`POSTERN_…`), command line flags. The last two have one definition ([`Settings`]),
//! so every setting has all three spellings and `--help` shows them. The master key itself is not part of it (see
//! [`crate::keys::master_key`]).

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{
    Args, ValueEnum,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use figment::{Figment, providers::Serialized};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::keys::master_key;

/// Stands for all origins in [`Config::allowed_origins`].
pub const ANY_ORIGIN: &str = "*";

/// The least buffer that an HTTP/1 connection works with.
const LEAST_HEADER_BYTES: u64 = 8192;

/// The configuration of one server process, complete and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The home domain: the part of this server's user names after `@`, in lower case.
    pub domain: String,
    /// Address and port of the HTTP server. With port 0 the system chooses a free port.
    pub listen: SocketAddr,
    /// The origins whose pages in browsers may call the server (CORS), such as `https://chat.example.org`; `*` for any.
    pub allowed_origins: Vec<String>,
    /// The file with the master key. Without it the key comes from the environment, or with `embedded` from the data
    /// directory.
    pub master_key_file: Option<PathBuf>,
    /// The file with the key that is to take the master key's place. It need not exist before that.
    pub next_master_key_file: Option<PathBuf>,
    pub database: DatabaseConfig,
    /// Run a private PostgreSQL cluster in `data_dir` instead of connecting to `database`.
    pub embedded: bool,
    pub data_dir: PathBuf,
    /// The directory with postern.so, postern.control and postern--*.sql for the private cluster.
    pub extension_dir: PathBuf,
    pub limits: Limits,
    pub proxy: ProxyConfig,
    pub push: PushConfig,
    pub oidc: OidcConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Connection string for the role `postern_server`.
    pub url: Option<ConnectionString>,
    /// Connection string for a superuser: only `migrate` and `master-key change` use it.
    pub admin_url: Option<ConnectionString>,
    /// Connections for requests; one for chores and one that listens come on top.
    pub pool_size: usize,
    /// Time that a request waits for a connection, in seconds.
    pub wait_seconds: u64,
    /// Time that PostgreSQL works on a statement, in seconds.
    pub statement_timeout_seconds: u64,
    /// Bytes that a request writes, all copies counted, from which on it is a heavy one.
    pub heavy_bytes: u64,
    /// Time that PostgreSQL works on the statement of a heavy request, in seconds.
    pub heavy_statement_timeout_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Longest `wait` of a long-poll, in seconds.
    pub long_poll_max_seconds: u64,
    /// Time that a connection may take to send a request's header, from its first byte on, in seconds.
    pub header_timeout_seconds: u64,
    /// Largest header of a request, in bytes.
    pub max_header_bytes: u64,
    /// Time that a request's body may take, in seconds.
    pub body_timeout_seconds: u64,
    /// Bytes that a body must bring in each second, and that a peer must read of its answers, on average over ten.
    pub body_bytes_per_second: u64,
    /// Memory for the bodies of all requests at a time, in bytes.
    pub bodies_bytes: u64,
    /// Memory for answers that are not read yet, in bytes.
    pub answers_bytes: u64,
    /// Time that a connection may wait without a request, in seconds.
    pub idle_timeout_seconds: u64,
    /// Most connections at a time. Without it, they follow from the limit of open files.
    pub max_connections: Option<usize>,
    /// Most connections of one source at a time. Without it, a quarter of all.
    pub max_connections_per_source: Option<usize>,
    /// Requests under way at a time on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Time without a word after which an HTTP/2 client is asked for a sign of life, and that it has for it, in seconds.
    pub http2_ping_seconds: u64,
    /// Time that a shutdown waits for requests under way, in seconds.
    pub shutdown_grace_seconds: u64,
    /// Requests whose groups, KeyPackages or tokens are computed at once.
    pub compute_threads: usize,
    /// Time that such a request waits for its turn, in seconds.
    pub compute_wait_seconds: u64,
    /// Spent tokens that the process remembers, and as many others that it has seen.
    pub remembered_tokens: usize,
}

/// Proxies in front of the server, and how they name the source of a request. Nobody else is believed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// The networks that the proxies connect from.
    pub addresses: Vec<Network>,
    /// The way in which all of them name a request's source.
    pub source: Option<ProxySource>,
}

/// The way in which a proxy names the source of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ProxySource {
    /// The PROXY protocol, version 2, ahead of each connection
    ProxyProtocol,
    /// The header Forwarded (RFC 7239)
    Forwarded,
    /// The header X-Forwarded-For
    XForwardedFor,
}

/// A network in CIDR notation, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// Web Push (QS-10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// The contact for push services, a `mailto:` or `https:` URI (RFC 8292 §2.1). Without it the server sends no
    /// pushes.
    pub contact: Option<String>,
    /// Whether pushes may go to addresses that are not public, and by HTTP without TLS.
    pub local_endpoints: bool,
    /// Pushes under way at once to hosts that answered promptly the last time, and as many to others.
    pub at_once: usize,
    /// Pushes under way at once to one host.
    pub at_once_per_host: usize,
}

/// The operator's identity provider (OpenID Connect, AS-1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcConfig {
    /// The URL of the issuer. Without it there is no identity provider.
    pub issuer: Option<String>,
    /// The client id that ID tokens are for: a public client of the provider's, without a secret.
    pub client_id: Option<String>,
    /// Age up to which ID tokens are taken, and, as an owner's proof, logins, in seconds.
    pub max_age_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A `tracing` filter: `info`, `postern_server=debug,info`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// A connection string for PostgreSQL. It may hold a password, so its `Debug` shows nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionString(String);

impl ConnectionString {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionString(…)")
    }
}

impl std::str::FromStr for ConnectionString {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl std::str::FromStr for Network {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(network) => Ok(Self(network)),
            Err(_) => text.parse::<IpAddr>().map(|address| Self(address.into())),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(Network(network): Network) -> Self {
        network.to_string()
    }
}

impl ProxyConfig {
    /// Whether a proxy has this address.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|Network(network)| network.contains(&address))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)),
            allowed_origins: vec![ANY_ORIGIN.to_owned()],
            master_key_file: None,
            next_master_key_file: None,
            database: DatabaseConfig::default(),
            embedded: false,
            data_dir: default_data_dir(),
            extension_dir: default_extension_dir(),
            limits: Limits::default(),
            proxy: ProxyConfig::default(),
            push: PushConfig::default(),
            oidc: OidcConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { contact: None, local_endpoints: false, at_once: 64, at_once_per_host: 32 }
    }
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self { issuer: None, client_id: None, max_age_seconds: 15 * 60 }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        // A few connections keep the database's cores and disk busy; more only add contention.
        Self {
            url: None,
            admin_url: None,
            pool_size: 2 * cores() + 4,
            wait_seconds: 5,
            statement_timeout_seconds: 5,
            heavy_bytes: 8 * 1024 * 1024,
            heavy_statement_timeout_seconds: 30,
        }
    }
}

impl DatabaseConfig {
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    pub fn statement_timeout(&self) -> Duration {
        Duration::from_secs(self.statement_timeout_seconds)
    }

    pub fn heavy_statement_timeout(&self) -> Duration {
        Duration::from_secs(self.heavy_statement_timeout_seconds)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A commit with a sparse tree of 5,000 members is under half of this.
            max_body_bytes: 1024 * 1024,
            long_poll_max_seconds: 60,
            header_timeout_seconds: 10,
            max_header_bytes: 16 * 1024,
            body_timeout_seconds: 120,
            body_bytes_per_second: 1024,
            bodies_bytes: 64 * 1024 * 1024,
            answers_bytes: 256 * 1024 * 1024,
            idle_timeout_seconds: 60,
            max_connections: None,
            max_connections_per_source: None,
            http2_streams: 100,
            http2_ping_seconds: 20,
            shutdown_grace_seconds: 10,
            compute_threads: cores(),
            compute_wait_seconds: 5,
            // Some 20 bytes each.
            remembered_tokens: 100_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Limits {
    pub fn long_poll_max(&self) -> Duration {
        Duration::from_secs(self.long_poll_max_seconds)
    }

    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_seconds)
    }

    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    pub fn http2_ping(&self) -> Duration {
        Duration::from_secs(self.http2_ping_seconds)
    }

    pub fn compute_wait(&self) -> Duration {
        Duration::from_secs(self.compute_wait_seconds)
    }

    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_seconds)
    }
}

impl Config {
    /// The configuration file that counts: the one that was named, else `./postern.toml` if it exists.
    pub fn file(settings: &Settings) -> Option<PathBuf> {
        let default = Path::new("postern.toml");
        settings.config.clone().or_else(|| default.exists().then(|| default.to_owned()))
    }

    /// Merges defaults, file and settings, and checks what can be checked without the database.
    pub fn load(settings: &Settings) -> anyhow::Result<Self> {
        let mut layers = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = Self::file(settings) {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
            let file = parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            // The file is read on its own first, so that a mistake is reported with its file and key.
            Figment::from(Serialized::defaults(&file))
                .extract::<Config>()
                .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), describe(error)))?;
            layers = layers.merge(Serialized::defaults(&file));
        }
        let config: Config = layers
            .merge(Serialized::defaults(settings))
            .extract()
            .map_err(|error| anyhow::anyhow!("{}", describe(error)))?;
        config.validated()
    }

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

    fn validated(mut self) -> anyhow::Result<Self> {
        if self.domain.is_empty() {
            bail!(
                "the home domain is not set: give --domain NAME, POSTERN_DOMAIN=NAME or `domain = \"NAME\"` in postern.toml"
            );
        }
        self.domain.make_ascii_lowercase();
        for (name, value) in [
            ("database.pool_size", self.database.pool_size as u64),
            ("database.wait_seconds", self.database.wait_seconds),
            ("database.statement_timeout_seconds", self.database.statement_timeout_seconds),
            ("database.heavy_statement_timeout_seconds", self.database.heavy_statement_timeout_seconds),
            ("push.at_once", self.push.at_once as u64),
            ("push.at_once_per_host", self.push.at_once_per_host as u64),
            ("limits.max_body_bytes", self.limits.max_body_bytes),
            ("limits.header_timeout_seconds", self.limits.header_timeout_seconds),
            ("limits.body_timeout_seconds", self.limits.body_timeout_seconds),
            ("limits.answers_bytes", self.limits.answers_bytes),
            ("limits.idle_timeout_seconds", self.limits.idle_timeout_seconds),
            ("limits.max_connections", self.limits.max_connections.unwrap_or(1) as u64),
            ("limits.max_connections_per_source", self.limits.max_connections_per_source.unwrap_or(1) as u64),
            ("limits.http2_streams", self.limits.http2_streams.into()),
            ("limits.http2_ping_seconds", self.limits.http2_ping_seconds),
            ("limits.compute_threads", self.limits.compute_threads as u64),
        ] {
            if value == 0 {
                bail!("{name} is 0: it must be at least 1");
            }
        }
        if self.limits.max_header_bytes < LEAST_HEADER_BYTES {
            bail!("limits.max_header_bytes must be at least {LEAST_HEADER_BYTES}");
        }
        if self.limits.bodies_bytes < self.limits.max_body_bytes {
            bail!(
                "limits.bodies_bytes must be at least limits.max_body_bytes, so that the largest body fits"
            );
        }
        if self.proxy.addresses.is_empty() != self.proxy.source.is_none() {
            bail!("proxy.addresses and proxy.source go together: set both, or neither");
        }
        if let Some(text) = self.allowed_origins.iter().find(|text| *text != ANY_ORIGIN && !is_origin(text)) {
            bail!("allowed_origins: {text} is no origin: one looks like https://chat.example.org");
        }
        if let Some(contact) = &self.push.contact
            && !(contact.starts_with("mailto:") || contact.starts_with("https:"))
        {
            bail!("push.contact must be a mailto: or https: URI");
        }
        if self.oidc.issuer.is_some() != self.oidc.client_id.is_some() {
            bail!("oidc.issuer and oidc.client_id go together: set both, or neither");
        }
        if self.oidc.issuer.as_deref().is_some_and(|issuer| !is_issuer(issuer)) {
            bail!("oidc.issuer must be an https: URL (http: on this machine only)");
        }
        Ok(self)
    }
}

/// Whether a text is the URL of an issuer whose keys nobody on the way can replace.
fn is_issuer(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    })
}

/// Whether a text is an origin as browsers write it: scheme, host, and a port that is not the scheme's own. The scheme
/// may be one of an app, such as `capacitor:`.
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        url.host_str().is_some_and(|host| text == format!("{}://{host}{port}", url.scheme()))
    })
}

/// Reads TOML. An error names the line and not its text, in which there may be a password.
fn parse(text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })
}

/// figment's message with the key's full name, and without figment's profiles.
fn describe(error: figment::Error) -> String {
    error
        .into_iter()
        .map(|error| match error.path.is_empty() {
            true => error.kind.to_string(),
            false => format!("`{}`: {}", error.path.join("."), error.kind),
        })
        .collect::<Vec<_>>()
        .join("; ")
}

fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/postern");
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

/// The layers above the file: flags, and an environment variable for each. Only settings that were given are
/// serialised.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct Settings {
    /// Configuration file (TOML) [default: ./postern.toml if it exists]
    #[arg(long, value_name = "FILE", env = "POSTERN_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Home domain: the part of user names after the @. The database remembers the first one, and it never changes
    #[arg(long, value_name = "NAME", env = "POSTERN_DOMAIN", value_parser = NonEmptyStringValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,

    /// Address and port to listen on; with port 0 the system chooses a free port [default: 127.0.0.1:8008]
    #[arg(long, value_name = "ADDRESS:PORT", env = "POSTERN_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,

    /// Origins whose pages in browsers may call the server, such as https://chat.example.org, separated by commas; * is
    /// any [default: *]
    #[arg(long, value_name = "ORIGINS", env = "POSTERN_ALLOWED_ORIGINS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<String>>,

    /// File with the master key: 32 bytes as hex or base64, readable by its owner only. Instead of the file, the key
    /// itself may be in POSTERN_MASTER_KEY [default: none; with --embedded <data-dir>/master.key, made at the first
    /// start]
    #[arg(long, value_name = "FILE", env = "POSTERN_MASTER_KEY_FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_file: Option<PathBuf>,

    /// File with the key that is to take the master key's place, from `postern master-key change` on; it need not exist
    /// before [default: none; with --embedded <data-dir>/next-master.key]
    #[arg(long, value_name = "FILE", env = "POSTERN_NEXT_MASTER_KEY_FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_master_key_file: Option<PathBuf>,

    /// Run a private PostgreSQL cluster in the data directory, started and stopped with this command [default: false]
    #[arg(long, env = "POSTERN_EMBEDDED", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "true|false", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<bool>,

    /// Data directory for --embedded [default: /var/lib/postern as root, else ~/.local/share/postern]
    #[arg(long, value_name = "DIR", env = "POSTERN_DATA_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,

    /// Directory with the files of the PostgreSQL extension, for --embedded [default: extension/ next to this program]
    #[arg(long, value_name = "DIR", env = "POSTERN_EXTENSION_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_dir: Option<PathBuf>,

    #[command(flatten)]
    pub database: DatabaseSettings,

    #[command(flatten)]
    pub limits: LimitSettings,

    #[command(flatten)]
    pub proxy: ProxySettings,

    #[command(flatten)]
    pub push: PushSettings,

    #[command(flatten)]
    pub oidc: OidcSettings,

    #[command(flatten)]
    pub log: LogSettings,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// Connection string for the role postern_server, as a URL or a key=value list [default: none; with --embedded the
    /// private cluster]
    #[arg(long = "database-url", value_name = "URL", env = "POSTERN_DATABASE_URL", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ConnectionString>,

    /// Connection string for a superuser; only migrate and master-key change use it [default: none; with --embedded the
    /// private cluster]
    #[arg(
        long = "database-admin-url",
        value_name = "URL",
        env = "POSTERN_DATABASE_ADMIN_URL",
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_url: Option<ConnectionString>,

    /// Connections to the database for requests, a quarter of them for heavy ones; two more listen and do chores
    /// [default: 4, and 2 for each core]
    #[arg(long = "database-pool-size", value_name = "N", env = "POSTERN_DATABASE_POOL_SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<usize>,

    /// Time that a request waits for a connection to the database, in seconds [default: 5]
    #[arg(long = "database-wait-seconds", value_name = "SECONDS", env = "POSTERN_DATABASE_WAIT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,

    /// Time that PostgreSQL works on a statement before it gives up, in seconds [default: 5]
    #[arg(
        long = "database-statement-timeout-seconds",
        value_name = "SECONDS",
        env = "POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_timeout_seconds: Option<u64>,

    /// Bytes that a request writes, all copies counted, from which on it is a heavy one [default: 8388608]
    #[arg(long = "database-heavy-bytes", value_name = "BYTES", env = "POSTERN_DATABASE_HEAVY_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heavy_bytes: Option<u64>,

    /// Time that PostgreSQL works on the statement of a heavy request, in seconds [default: 30]
    #[arg(
        long = "database-heavy-statement-timeout-seconds",
        value_name = "SECONDS",
        env = "POSTERN_DATABASE_HEAVY_STATEMENT_TIMEOUT_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heavy_statement_timeout_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Largest request body, in bytes [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "POSTERN_MAX_BODY_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,

    /// Longest wait of a long-poll, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_LONG_POLL_MAX_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_poll_max_seconds: Option<u64>,

    /// Time that a connection may take to send the header of a request, from its first byte on, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_HEADER_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout_seconds: Option<u64>,

    /// Largest header of a request, in bytes [default: 16384]
    #[arg(long, value_name = "BYTES", env = "POSTERN_MAX_HEADER_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_header_bytes: Option<u64>,

    /// Time that the body of a request may take, in seconds [default: 120]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_BODY_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_timeout_seconds: Option<u64>,

    /// Bytes that the body of a request must bring, and that the peer must read of answers, in each second, on average
    /// over ten seconds [default: 1024]
    #[arg(long, value_name = "BYTES", env = "POSTERN_BODY_BYTES_PER_SECOND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_per_second: Option<u64>,

    /// Memory for the bodies of all requests at a time, of which one source gets a quarter, in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "POSTERN_BODIES_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bodies_bytes: Option<u64>,

    /// Memory for answers that are not read yet, in bytes; beyond it, the connection goes that leaves most of them unread
    /// [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "POSTERN_ANSWERS_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_bytes: Option<u64>,

    /// Time that a connection may wait without a request, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_IDLE_TIMEOUT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,

    /// Most connections at a time; beyond it, the one goes that has waited longest without a request [default: the
    /// limit of open files less 128, 32768 at most]
    #[arg(long, value_name = "N", env = "POSTERN_MAX_CONNECTIONS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<usize>,

    /// Most connections of one source at a time [default: a quarter of all]
    #[arg(long, value_name = "N", env = "POSTERN_MAX_CONNECTIONS_PER_SOURCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_source: Option<usize>,

    /// Requests under way at a time on one HTTP/2 connection [default: 100]
    #[arg(long, value_name = "N", env = "POSTERN_HTTP2_STREAMS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_streams: Option<u32>,

    /// Time without a word after which an HTTP/2 client is asked for a sign of life, in seconds; it has as long for it
    /// [default: 20]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_HTTP2_PING_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_ping_seconds: Option<u64>,

    /// Time that a shutdown waits for requests under way, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_SHUTDOWN_GRACE_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_grace_seconds: Option<u64>,

    /// Requests whose groups, KeyPackages or tokens are computed at once [default: one for each core]
    #[arg(long, value_name = "N", env = "POSTERN_COMPUTE_THREADS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_threads: Option<usize>,

    /// Time that such a request waits for its turn, in seconds; then the answer is 503 [default: 5]
    #[arg(long, value_name = "SECONDS", env = "POSTERN_COMPUTE_WAIT_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_wait_seconds: Option<u64>,

    /// Spent tokens that the process remembers, so that their requests end at the door, and as many others that it has
    /// seen [default: 100000]
    #[arg(long, value_name = "N", env = "POSTERN_REMEMBERED_TOKENS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered_tokens: Option<usize>,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Proxies")]
pub struct ProxySettings {
    /// Addresses or networks of the proxies in front of this server, with commas between them. They are believed about
    /// where a request comes from, which limits count [default: none]
    #[arg(
        long = "proxy-addresses",
        value_name = "NETWORKS",
        env = "POSTERN_PROXY_ADDRESSES",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Network>>,

    /// How the proxies say where a request comes from [default: none]
    #[arg(long = "proxy-source", value_enum, env = "POSTERN_PROXY_SOURCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ProxySource>,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Web Push")]
pub struct PushSettings {
    /// Contact for push services, a mailto: or https: URI such as mailto:postmaster@example.org [default: none, and the
    /// server sends no pushes]
    #[arg(long = "push-contact", value_name = "URI", env = "POSTERN_PUSH_CONTACT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,

    /// Send pushes also to addresses that are not public, and without TLS: for a push service of your own [default:
    /// false]
    #[arg(long = "push-local-endpoints", env = "POSTERN_PUSH_LOCAL_ENDPOINTS", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "true|false", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_endpoints: Option<bool>,

    /// Pushes under way at once to hosts that answered promptly the last time, and as many to others [default: 64]
    #[arg(long = "push-at-once", value_name = "N", env = "POSTERN_PUSH_AT_ONCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,

    /// Pushes under way at once to one host [default: 32]
    #[arg(long = "push-at-once-per-host", value_name = "N", env = "POSTERN_PUSH_AT_ONCE_PER_HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once_per_host: Option<usize>,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Identity provider")]
pub struct OidcSettings {
    /// Issuer of ID tokens (OpenID Connect) by which users log in to register: its URL, such as
    /// https://login.example.org [default: none]
    #[arg(long = "oidc-issuer", value_name = "URL", env = "POSTERN_OIDC_ISSUER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,

    /// Client id that the ID tokens are for: a public client, with the redirect URI http://127.0.0.1/ on any port
    /// [default: none]
    #[arg(long = "oidc-client-id", value_name = "ID", env = "POSTERN_OIDC_CLIENT_ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,

    /// Age up to which an ID token is taken, and, as an owner's proof, its login, in seconds [default: 900]
    #[arg(long = "oidc-max-age-seconds", value_name = "SECONDS", env = "POSTERN_OIDC_MAX_AGE_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// Filter of the log on stderr, such as info or postern_server=debug,info [default: info]
    #[arg(long = "log-filter", value_name = "FILTER", env = "POSTERN_LOG_FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,

    /// Form of the log lines [default: text]
    #[arg(long = "log-format", value_enum, env = "POSTERN_LOG_FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}
