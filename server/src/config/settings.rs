//! The layers above the file.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use serde::Serialize;

use super::{
    database::DatabaseSettings, federation::FederationSettings, limits::LimitSettings, log::LogSettings,
    metrics::MetricsSettings, oidc::OidcSettings, proxy::ProxySettings, push::PushSettings, tls::TlsSettings,
};

/// The layers above the file: flags, and an environment variable for each. Only settings that were given are
/// serialised.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct Settings {
    /// Configuration file (TOML) [default: the package's, /etc/postern/postern.toml, if it exists, else ./postern.toml]
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

    /// URL at which clients and other servers reach this one, such as https://chat.example.org [default: https:// and the
    /// home domain]
    #[arg(long, value_name = "URL", env = "POSTERN_BASE_URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,

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

    /// File that remembers a mark of the database, so that the server notices when that is put back to an earlier state, as
    /// by a snapshot; it must not be put back with it [default: witness, in the data directory of --embedded, in systemd's
    /// state directory, or next to the master key]
    #[arg(long, value_name = "FILE", env = "POSTERN_WITNESS_FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness_file: Option<PathBuf>,

    /// Run a private PostgreSQL cluster in the data directory, started and stopped with this command [default: false]
    #[arg(long, env = "POSTERN_EMBEDDED", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "true|false", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<bool>,

    /// Make the private cluster if the data directory has none. `postern setup` writes false into the file: where a cluster
    /// is missing later, its disk is not mounted, and an empty one would be another homeserver [default: true]
    #[arg(long, env = "POSTERN_CREATE_CLUSTER", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "true|false", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_cluster: Option<bool>,

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
    pub tls: TlsSettings,

    #[command(flatten)]
    pub proxy: ProxySettings,

    #[command(flatten)]
    pub federation: FederationSettings,

    #[command(flatten)]
    pub push: PushSettings,

    #[command(flatten)]
    pub oidc: OidcSettings,

    #[command(flatten)]
    pub metrics: MetricsSettings,

    #[command(flatten)]
    pub log: LogSettings,
}
