//! `postern setup`: from nothing to a server that can start. It asks, or takes flags; writes the configuration file;
//! makes the master key and brings the database to this program's state; sets who may register; runs `postern check`;
//! and says what is left to do. Done again with the same answers it changes nothing.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufRead, ErrorKind, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::{Uid, User};
use postern_cluster::{ClusterOptions, PrivateCluster};
use postern_protocol::name::Domain;

use super::{
    check, private_cluster,
    registration::{self, Registration},
    sources::Sources,
    user::{PACKAGE_USER, go_on_as},
};
use crate::{
    config::{self, Config, ConnectionString, Network, ProxySource, Settings, file},
    database::{self, Database, Way},
    keys::{MasterKey, MasterKeys, master_key},
    tls,
};

pub const EXAMPLES: &str = "\
Examples:
  postern setup                                          asks, and proposes what most want
  postern setup --non-interactive --domain example.org --proxy-addresses 127.0.0.1 --proxy-source x-forwarded-for \\
      --registration invite                              a private PostgreSQL, behind a proxy on this machine
  postern setup --non-interactive --domain example.org --tls-certificate cert.pem --tls-key key.pem
  postern setup --print --domain example.org > postern.toml
                                                         only the file, with every setting and its default

Every setting that is given by a flag or a variable of the environment goes into the file. The file that is there already
answers all else; --force lets setup replace what it says.";

/// The places of the package's unit.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system/postern.service", "/lib/systemd/system/postern.service"];
/// The first line of a part of a unit that setup wrote.
const BY_SETUP: &str =
    "# By `postern setup`: the data directory is not where the package's unit expects it.\n";
/// Directories that the unit hides from the server.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];
/// The file in a data directory that says that the setup of its cluster has not come to its end, although the configuration
/// tells of one.
const UNDONE: &str = "setup";

/// The address at which a server with a certificate of its own listens.
const PUBLIC: &str = "[::]:443";
/// The address of metrics: this machine's only.
const METRICS: &str = "127.0.0.1:9464";

#[derive(Args)]
pub struct Setup {
    /// Who may register: everybody, those with an invite, or those with a login at your identity provider (then with
    /// --oidc-issuer and --oidc-client-id); POSTERN_REGISTRATION says it, too [default: as the database has it; for a new
    /// homeserver those with an invite]
    #[arg(long, value_enum)]
    registration: Option<Registration>,

    /// Ask nothing: what no flag says stays as it is in the file, or has its default
    #[arg(long)]
    non_interactive: bool,

    /// Replace a file that says something else, which is kept next to the new one, as .old (.old2, …)
    #[arg(long)]
    force: bool,

    /// Make an empty private cluster where the one is missing that the file tells of: another homeserver of the same domain
    #[arg(long)]
    new_cluster: bool,

    /// System user that runs the server [default: postern if there is one and this is root, else the present one]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Print the file, and do nothing else
    #[arg(long, conflicts_with_all = ["registration", "force", "new_cluster", "user"])]
    print: bool,

    // Behind the others, which would stand under its last heading.
    #[command(flatten)]
    settings: Settings,
}

/// Returns whether all is well.
pub async fn run(setup: Setup) -> anyhow::Result<bool> {
    let given = toml::Table::try_from(&setup.settings)?;
    if setup.print {
        print!("{}", file::text(&given));
        return Ok(true);
    }
    let path = place(&setup.settings)?;
    let before = match fs::exists(&path).with_context(|| path.display().to_string())? {
        true => without_empty_sections(config::read_file(&path)?),
        false => toml::Table::new(),
    };
    let registration = match setup.registration {
        Some(given) => Some(given),
        None => Registration::of_environment()?,
    };
    let mut answers = Answers::new(&before, given, registration);
    if !setup.non_interactive {
        Questions(io::stdin().lock()).ask(&mut answers)?;
    }
    answers.complete(&path)?;
    let config = Config::from_layers(&answers.values, &Settings::default())?;
    config.domain.parse::<Domain>().with_context(|| format!("{} is no home domain", config.domain))?;
    ensure!(
        answers.registration != Some(Registration::Oidc) || config.oidc.issuer.is_some(),
        "for the policy oidc give --oidc-issuer and --oidc-client-id"
    );

    expect_cluster(&config, &before, setup.new_cluster)?;
    let user = server_user(setup.user.as_deref())?;
    let has_unit = user.is_some() && UNITS.iter().any(|unit| Path::new(unit).exists());
    if has_unit {
        expect_visible(&config)?;
    }
    write(&path, &before, &answers.values, user.as_ref(), setup.force)?;
    if has_unit {
        fit_units(&config)?;
    }
    if config.embedded {
        prepare(&config.data_dir, user.as_ref())?;
    } else if let Some(key) = config.master_key_file() {
        make_master_key(&key, user.as_ref())?;
    }
    if let Some(user) = &user {
        go_on_as(user)?;
    }
    let again = "the configuration is written; once this is mended, run `postern setup` again";
    let brought =
        bring_up(config.clone(), answers.admin_url, &path, answers.registration).await.context(again)?;
    say_what_is_left(&config, &path, user.as_ref(), brought.registration);
    Ok(brought.well)
}

/// The file to write: the one that is named, else the one of this installation, else `./postern.toml`.
fn place(settings: &Settings) -> anyhow::Result<PathBuf> {
    let named = settings.config.clone().or_else(config::installed_file);
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| PathBuf::from(config::FILE_NAME));
    if !is_named && path.exists() {
        config::expect_own(&path)?;
    }
    std::path::absolute(&path).with_context(|| path.display().to_string())
}

/// Refuses to set a homeserver up where the file says that there is one, and its private cluster is missing.
fn expect_cluster(config: &Config, before: &toml::Table, new_cluster: bool) -> anyhow::Result<()> {
    let was_made = at(before, "create_cluster").and_then(toml::Value::as_bool) == Some(false);
    let is_there = || ClusterOptions::new(&config.data_dir, &config.extension_dir).cluster_exists();
    ensure!(
        !config.embedded || !was_made || new_cluster || is_there() || config.data_dir.join(UNDONE).exists(),
        "the file tells of a private cluster in {}, and there is none: is its disk mounted? If it is not to come back, --new-cluster makes an empty one",
        config.data_dir.display()
    );
    Ok(())
}

/// Refuses to serve or to migrate a private cluster before the setup that makes it has come to its end: both would leave a
/// database that everybody may register at, whatever setup was told.
///
/// # Errors
/// There is such a cluster, or is to be one.
pub fn expect_done(config: &Config) -> anyhow::Result<()> {
    let mark = config.data_dir.join(UNDONE);
    ensure!(
        !config.embedded || !mark.exists(),
        "`postern setup` did not come to its end in {}: run it again, with the same answers. For a homeserver without it, remove {}",
        config.data_dir.display(),
        mark.display()
    );
    Ok(())
}

/// Refuses files that the package's unit does not let the server see.
fn expect_visible(config: &Config) -> anyhow::Result<()> {
    let key = config.master_key_file();
    let data_dir = config.embedded.then(|| config.data_dir.clone());
    for file in [&config.tls.certificate, &config.tls.key, &key, &data_dir].into_iter().flatten() {
        if let Some(hidden) = HIDDEN.iter().find(|dir| file.starts_with(dir)) {
            bail!(
                "the package's unit does not let the server look into {hidden}: put {} elsewhere, into /etc/postern for one",
                file.display()
            );
        }
    }
    Ok(())
}

/// Lets the package's units write to the data directory where that is not in the place that they allow; where it is, they do
/// not wait for the disk of an earlier one.
fn fit_units(config: &Config) -> anyhow::Result<()> {
    let text = drop_in(&config.data_dir);
    for unit in ["postern.service", "postern-backup.service"] {
        let dir = Path::new("/etc/systemd/system").join(format!("{unit}.d"));
        let file = dir.join("places.conf");
        if !config.embedded || config.data_dir.starts_with(config::STATE) {
            if fs::read_to_string(&file).is_ok_and(|present| present.starts_with(BY_SETUP)) {
                fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
                println!("removed  {}: the data directory is not elsewhere any more", file.display());
            }
            continue;
        }
        let write = || fs::create_dir_all(&dir).and_then(|()| fs::write(&file, &text));
        write().with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote    {}: the unit lets the server write to its data directory", file.display());
    }
    // Without systemd the next boot reads them.
    let _reloaded = std::process::Command::new("systemctl").arg("daemon-reload").status();
    Ok(())
}

/// The part of a unit that makes a directory one of the server's.
fn drop_in(dir: &Path) -> String {
    let dir = dir.display().to_string().replace('\\', r"\\").replace('"', r#"\""#).replace('%', "%%");
    format!("{BY_SETUP}[Unit]\nRequiresMountsFor=\"{dir}\"\n[Service]\nReadWritePaths=\"{dir}\"\n")
}

/// The user that runs the server, if it is another one than this process's.
fn server_user(named: Option<&str>) -> anyhow::Result<Option<User>> {
    let user = match named {
        Some(name) => Some(User::from_name(name)?.with_context(|| format!("there is no user {name}"))?),
        None if Uid::effective().is_root() => User::from_name(PACKAGE_USER)?,
        None => None,
    };
    let user = user.filter(|user| user.uid != Uid::effective());
    if let Some(user) = &user {
        ensure!(Uid::effective().is_root(), "only root can set up a server that runs as {}", user.name);
    }
    Ok(user)
}

/// The settings as they will be, and which of them are not to be asked for.
struct Answers {
    values: toml::Table,
    given: toml::Table,
    /// Whether the file was no homeserver's before.
    is_new: bool,
    /// A superuser's connection string, for this once: it is not kept.
    admin_url: Option<ConnectionString>,
    registration: Option<Registration>,
}

/// The value at a place such as `tls.certificate`.
fn at<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
        None => table.get(key),
    }
}

/// A section without a value says nothing.
fn without_empty_sections(mut values: toml::Table) -> toml::Table {
    values.retain(|_, value| value.as_table().is_none_or(|section| !section.is_empty()));
    values
}

impl Answers {
    /// The file's values, and over them those that were given.
    fn new(file: &toml::Table, mut given: toml::Table, registration: Option<Registration>) -> Self {
        let mut values = file.clone();
        let database = given.get_mut("database").and_then(toml::Value::as_table_mut);
        let admin_url = database.and_then(|database| database.remove("admin_url"));
        let admin_url = admin_url.and_then(|url| url.as_str().map(ConnectionString::new));
        for (name, value) in &given {
            match (values.get_mut(name).and_then(toml::Value::as_table_mut), value.as_table()) {
                (Some(section), Some(given)) => section.extend(given.clone()),
                _ => drop(values.insert(name.clone(), value.clone())),
            }
        }
        Self { values, given, is_new: !file.contains_key("domain"), admin_url, registration }
    }

    fn is_given(&self, key: &str) -> bool {
        at(&self.given, key).is_some()
    }

    fn text(&self, key: &str) -> Option<&str> {
        at(&self.values, key)?.as_str()
    }

    fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        match key.split_once('.') {
            Some((section, name)) => {
                let section = self.values.entry(section).or_insert_with(|| toml::Table::new().into());
                if let Some(section) = section.as_table_mut() {
                    section.insert(name.to_owned(), value.into());
                }
            }
            None => drop(self.values.insert(key.to_owned(), value.into())),
        }
    }

    fn remove(&mut self, key: &str) -> Option<toml::Value> {
        match key.split_once('.') {
            Some((section, name)) => self.values.get_mut(section)?.as_table_mut()?.remove(name),
            None => self.values.remove(key),
        }
    }

    /// Adds what follows from the answers.
    fn complete(&mut self, path: &Path) -> anyhow::Result<()> {
        let own = self.is_given("database.url") && !self.is_given("embedded");
        if own {
            self.remove("embedded");
            self.remove("create_cluster");
        }
        let has_database = at(&self.values, "database.url").is_some();
        if !has_database && at(&self.values, "embedded").is_none() {
            self.set("embedded", true);
        }
        let embedded = at(&self.values, "embedded").and_then(toml::Value::as_bool).unwrap_or_default();
        ensure!(
            !(embedded && has_database),
            "choose one PostgreSQL: embedded = true is a private one, database.url names your own"
        );
        if embedded && at(&self.values, "data_dir").is_none() {
            // Another user's default may be another one.
            self.set("data_dir", Config::default().data_dir.display().to_string());
        }
        if embedded && at(&self.values, "create_cluster").is_none() {
            self.set("create_cluster", false);
        }
        let key_elsewhere = at(&self.values, "master_key_file").is_some()
            || std::env::var_os(master_key::ENVIRONMENT).is_some();
        if !embedded && !key_elsewhere {
            self.set("master_key_file", path.with_file_name("master.key").display().to_string());
        }
        if self.text("tls.certificate").is_some() && at(&self.values, "listen").is_none() {
            self.set("listen", PUBLIC);
        }
        // Later its operator may have done without.
        if self.is_new && at(&self.values, "metrics.listen").is_none() {
            self.set("metrics.listen", METRICS);
        }
        self.values = without_empty_sections(std::mem::take(&mut self.values));
        Ok(())
    }
}

/// Asks on standard output, and reads the answers, a line each.
struct Questions<R>(R);

impl<R: BufRead> Questions<R> {
    fn ask(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        println!(
            "An empty line takes what is in brackets. `postern setup --help` has a flag for each answer.\n"
        );
        if !answers.is_given("domain") {
            let before = answers.text("domain").map(str::to_owned);
            let question = "Home domain, the part of user names after the @; it never changes";
            let domain = self.question(question, before.as_deref(), |text| {
                Ok(text.to_ascii_lowercase().parse::<Domain>()?)
            })?;
            answers.set("domain", domain.as_str());
        }
        self.ask_for_database(answers)?;
        self.ask_for_tls(answers)?;
        self.ask_for_registration(answers)
    }

    fn ask_for_database(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        if answers.is_given("embedded") || answers.is_given("database.url") {
            return Ok(());
        }
        let before = if answers.text("database.url").is_some() { "own" } else { "private" };
        let question = "PostgreSQL: a private one that the server runs itself, or your own (private, own)";
        if self.choice(question, before, &["private", "own"])? == "private" {
            answers.remove("database.url");
            answers.remove("database.admin_url");
            answers.set("embedded", true);
            return Ok(());
        }
        answers.remove("embedded");
        answers.remove("create_cluster");
        let before = answers.text("database.url").map(str::to_owned);
        let before = before.as_deref().unwrap_or("host=/run/postgresql user=postern_server dbname=postern");
        let url =
            self.question("Connection string for the role postern_server", Some(before), connection_string)?;
        answers.set("database.url", url);
        if answers.admin_url.is_none() {
            let question = "Connection string for a superuser, which makes the tables now and is not kept; \
                            none: you run `postern migrate` yourself";
            let admin = self.question(question, Some("none"), |text| match text {
                "none" => Ok(None),
                text => connection_string(text).map(Some),
            })?;
            answers.admin_url = admin.map(ConnectionString::new);
        }
        Ok(())
    }

    fn ask_for_tls(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        let known = ["tls.certificate", "tls.key", "proxy.addresses", "proxy.source"];
        if known.iter().any(|key| answers.is_given(key)) {
            return Ok(());
        }
        if !answers.is_given("base_url") {
            let domain = answers.text("domain").unwrap_or_default().to_owned();
            let before = answers.text("base_url").map(|url| url.trim_start_matches("https://").to_owned());
            let question = "Host at which clients and other servers reach it";
            let host = self.question(question, Some(before.as_deref().unwrap_or(&domain)), |text| {
                Ok(text.to_ascii_lowercase().parse::<Domain>()?)
            })?;
            match host.as_str() == domain {
                true => drop(answers.remove("base_url")),
                false => answers.set("base_url", format!("https://{}", host.as_str())),
            }
        }
        let before = if answers.text("tls.certificate").is_some() { "files" } else { "proxy" };
        let question = "TLS: a proxy does it, or the server with a certificate in files (proxy, files)";
        if self.choice(question, before, &["proxy", "files"])? == "files" {
            self.ask_for_certificate(answers)
        } else {
            self.ask_for_proxy(answers)
        }
    }

    fn ask_for_certificate(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        answers.remove("proxy.addresses");
        answers.remove("proxy.source");
        let before = |answers: &Answers, key| answers.text(key).map(str::to_owned);
        let file = |text: &str| {
            let path = std::path::absolute(text)?;
            fs::read(&path).with_context(|| path.display().to_string())?;
            anyhow::Ok(path)
        };
        loop {
            let question = "File with the certificate and those that lead to an authority (PEM)";
            let certificate = self.question(question, before(answers, "tls.certificate").as_deref(), file)?;
            let question = "File with its private key (PEM)";
            let key = self.question(question, before(answers, "tls.key").as_deref(), file)?;
            match tls::server_config(&fs::read(&certificate)?, &fs::read(&key)?) {
                Ok(_) => {
                    answers.set("tls.certificate", certificate.display().to_string());
                    answers.set("tls.key", key.display().to_string());
                    break;
                }
                Err(error) => println!("  These are no certificate and its key: {error:#}"),
            }
        }
        self.ask_for_listen(answers, PUBLIC)
    }

    fn ask_for_proxy(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        answers.remove("tls.certificate");
        answers.remove("tls.key");
        let question = "Address or network of the proxy";
        let network = self.question(question, Some("127.0.0.1"), |text| Ok(text.parse::<Network>()?))?;
        let names = ProxySource::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
        let options: Vec<_> = names.iter().map(String::as_str).collect();
        let question = format!("How it says where a request comes from ({})", names.join(", "));
        let source = self.choice(&question, "x-forwarded-for", &options)?;
        answers.set("proxy.addresses", vec![String::from(network)]);
        answers.set("proxy.source", source);
        self.ask_for_listen(answers, &Config::default().listen.to_string())
    }

    fn ask_for_listen(&mut self, answers: &mut Answers, default: &str) -> anyhow::Result<()> {
        if !answers.is_given("listen") {
            let before = answers.text("listen").unwrap_or(default).to_owned();
            let parse = |text: &str| {
                text.parse::<SocketAddr>()
                    .context("an address and a port, such as 127.0.0.1:8008 or [::]:443")
            };
            let listen = self.question("Address and port to listen on", Some(&before), parse)?;
            answers.set("listen", listen.to_string());
        }
        Ok(())
    }

    fn ask_for_registration(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        let registration = match answers.registration {
            Some(given) => given,
            None => {
                let question = "Who may register: everybody, those with an invite, or those with a login at an identity \
                                provider (open, invite, oidc)";
                let name = self.choice(question, "invite", &["open", "invite", "oidc"])?;
                Registration::from_str(&name, false).map_err(anyhow::Error::msg)?
            }
        };
        answers.registration = Some(registration);
        if registration == Registration::Oidc {
            for (key, question) in [
                ("oidc.issuer", "URL of the identity provider (OpenID Connect issuer)"),
                ("oidc.client_id", "Client id that it has for Postern"),
            ] {
                if !answers.is_given(key) {
                    let before = answers.text(key).map(str::to_owned);
                    let answer = self.question(question, before.as_deref(), |text| Ok(text.to_owned()))?;
                    answers.set(key, answer);
                }
            }
        }
        Ok(())
    }

    fn choice(&mut self, question: &str, default: &str, options: &[&str]) -> anyhow::Result<String> {
        self.question(question, Some(default), |text| {
            let option = options.iter().find(|option| **option == text);
            option
                .map(|option| (*option).to_owned())
                .with_context(|| format!("one of {}", options.join(", ")))
        })
    }

    /// Asks until an answer passes.
    fn question<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        parse: impl Fn(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        loop {
            match default {
                Some(default) => print!("{question} [{default}]: "),
                None => print!("{question}: "),
            }
            io::stdout().flush()?;
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                println!();
                bail!("the answers ended before this one: give it by a flag, or --non-interactive");
            }
            let answer = match (line.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match parse(answer) {
                Ok(value) => return Ok(value),
                Err(error) => println!("  That is no answer: {error:#}"),
            }
        }
    }
}

fn connection_string(text: &str) -> anyhow::Result<String> {
    ensure!(
        !text.is_empty(),
        "a URL, or a list such as host=/run/postgresql user=postern_server dbname=postern"
    );
    Way::of(&ConnectionString::new(text))?;
    Ok(text.to_owned())
}

/// Writes the file, unless it says the same already. It may hold a password: root and the server's user can read it.
fn write(
    path: &Path,
    before: &toml::Table,
    values: &toml::Table,
    user: Option<&User>,
    force: bool,
) -> anyhow::Result<()> {
    let unwritable = || format!("cannot write {}", path.display());
    let exists = path.exists();
    if exists && before == values {
        println!("kept     {}: it says so already", path.display());
        return Ok(());
    }
    // One without a domain is no server's yet, as a package brings it.
    ensure!(
        force || !before.contains_key("domain"),
        "{} is there, and says something else: change it by hand, or replace it with --force",
        path.display()
    );
    let is_by_hand = || fs::read_to_string(path).is_ok_and(|present| present != file::text(before));
    if exists && (before.contains_key("domain") || is_by_hand()) {
        let old = keep(path).with_context(unwritable)?;
        println!("kept     {}: the file that was there before", old.display());
    }
    let dir = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).with_context(unwritable)?;
    let new = path.with_added_extension("new");
    let replace = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(file::text(values).as_bytes())?;
        if let Some(user) = user {
            fchown(&file, None, Some(user.gid.as_raw()))?;
            file.set_permissions(Permissions::from_mode(0o640))?;
        }
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(dir)?.sync_all()
    };
    replace().with_context(unwritable)?;
    match user {
        Some(user) => println!("wrote    {}: root and {} can read it", path.display(), user.name),
        None => println!("wrote    {}: only its owner can read it", path.display()),
    }
    Ok(())
}

/// Gives the file another name, `.old` or the first of `.old2`, `.old3`, … that is free, and returns that. It keeps its own,
/// until another file takes it: there is a configuration at any time.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let old = path.with_added_extension(match number {
            1 => "old".to_owned(),
            number => format!("old{number}"),
        });
        match fs::hard_link(path, &old) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            linked => return linked.map(|()| old),
        }
    }
}

/// Makes the data directory for another user.
fn prepare(data_dir: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let Some(user) = user else { return Ok(()) };
    if let Ok(present) = fs::metadata(data_dir) {
        ensure!(
            present.uid() == user.uid.as_raw(),
            "{} belongs to another user than {}: name its owner with --user, or choose another --data-dir",
            data_dir.display(),
            user.name
        );
        return Ok(());
    }
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        chown(data_dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
    };
    make().with_context(|| format!("cannot make the data directory {}", data_dir.display()))
}

fn make_master_key(file: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let is_new = !file.exists();
    if is_new {
        MasterKey::from_file_or_new_of(file, user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))?;
    }
    // One that is there, and that only root can read, is of no use to the server.
    let is_roots = fs::metadata(file).is_ok_and(|file| file.uid() == 0 && file.mode() & 0o077 == 0);
    if let Some(user) = user.filter(|_| is_roots) {
        chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to user {}", file.display(), user.name))?;
    }
    if is_new {
        println!("wrote    {}: the master key", file.display());
    }
    Ok(())
}

/// The homeserver as it was brought up.
struct Brought {
    /// Whether no check found a problem.
    well: bool,
    registration: Admits,
}

/// The policy of registration after a setup.
#[derive(Clone, Copy)]
enum Admits {
    /// It is this one, which setup has set.
    Set(Registration),
    /// It is the one that the database had.
    Kept,
    /// It is to be this one: without a superuser's connection the operator migrates, and sets it so.
    Wanted(Registration),
}

/// Brings the database to what this program and the answers ask for, and checks everything.
async fn bring_up(
    mut config: Config,
    admin_url: Option<ConnectionString>,
    path: &Path,
    registration: Option<Registration>,
) -> anyhow::Result<Brought> {
    // For all later starts the file rules that out.
    config.create_cluster = true;
    let undone = config.data_dir.join(UNDONE);
    if config.embedded && !ClusterOptions::new(&config.data_dir, &config.extension_dir).cluster_exists() {
        PrivateCluster::prepare(&config.data_dir)?;
        let write =
            || File::create(&undone)?.sync_all().and_then(|()| File::open(&config.data_dir)?.sync_all());
        write().with_context(|| format!("cannot write {}", undone.display()))?;
    }
    let cluster = private_cluster::start(&mut config, PrivateCluster::start_or_join).await?;
    let brought = async {
        // As the questions propose: strangers find a homeserver sooner than its operator closes it.
        let wanted = registration.unwrap_or(Registration::Invite);
        let registration = match admin_url.as_ref().or(config.database.admin_url.as_ref()) {
            Some(url) => {
                let choice = if registration.is_some() { wanted.for_any() } else { wanted.for_new() };
                let report = database::migrate::run(url, Some(choice)).await?;
                println!("postern: {report}");
                if report.has_set_registration() { Admits::Set(wanted) } else { Admits::Kept }
            }
            None => Admits::Wanted(wanted),
        };
        if config.embedded
            && let Some(key) = config.master_key_file()
            && let Some(url) = &config.database.url
            && !MasterKeys::database_has_one(&Database::new(url, &config.database)?).await?
        {
            make_master_key(&key, None)?;
        }
        if config.embedded && undone.exists() {
            fs::remove_file(&undone).with_context(|| format!("cannot remove {}", undone.display()))?;
        }
        // The cluster runs, and is joined.
        let settings = Settings { config: Some(path.to_owned()), ..Settings::default() };
        let well = check::run(&settings, false, &Sources::of_file(path)).await;
        anyhow::Ok(Brought { well, registration })
    }
    .await;
    private_cluster::stop(cluster).await?;
    brought
}

fn say_what_is_left(config: &Config, path: &Path, user: Option<&User>, registration: Admits) {
    println!("\nWhat is left to do:");
    if let Admits::Wanted(policy) = registration {
        println!(
            "  {}={} postern migrate --config {} --database-admin-url URL",
            registration::ENVIRONMENT,
            policy.name(),
            path.display()
        );
        println!(
            "                                       before the first start of all: makes the tables, and sets who may register"
        );
    }
    let has_unit = UNITS.iter().any(|unit| Path::new(unit).exists());
    match user {
        Some(_) if has_unit => {
            println!("  systemctl enable --now postern       starts the server, now and with the machine");
        }
        Some(user) => {
            println!("  runuser -u {} -- postern serve --config {}", user.name, path.display());
        }
        None => println!("  postern serve --config {}", path.display()),
    }
    if user.is_some() && has_unit {
        println!("  systemctl enable --now postern-backup.timer");
        println!("                                       makes a backup each day");
    } else {
        println!("  postern backup DIRECTORY --config {}", path.display());
        println!(
            "                                       makes a backup each day, where a timer of yours starts it"
        );
    }
    if let Some(key) = config.master_key_file() {
        println!("  keep a copy of {} elsewhere: without it no backup is of use", key.display());
    }
    if let Some(metrics) = config.metrics.listen {
        println!("  let Prometheus scrape http://{metrics}/metrics: docs/operate/monitor.md");
    }
    if config.tls.certificate.is_none() {
        println!("  let a proxy hand {} on to http://{}", config.base_url(), config.listen);
    }
    let how = match registration {
        Admits::Set(Registration::Invite) | Admits::Wanted(Registration::Invite) => {
            // A superuser's connection that was given to setup is not in the file.
            let is_known = config.embedded || config.database.admin_url.is_some();
            let admin_url = if is_known { "" } else { " --database-admin-url URL" };
            println!(
                "  postern psql --config {}{admin_url} -- -c 'SELECT operator.make_invites(number => 2)'",
                path.display()
            );
            println!(
                "                                       makes invites, each for a person to register with"
            );
            " --invite CODE"
        }
        Admits::Set(Registration::Oidc) | Admits::Wanted(Registration::Oidc) => " --sign-in",
        Admits::Set(Registration::Open) | Admits::Wanted(Registration::Open) | Admits::Kept => "",
    };
    println!("  postern-client --server {} register NAME{how}", config.base_url());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(answers: &str, given: &str, file: &str) -> anyhow::Result<(toml::Table, Option<Registration>)> {
        let table = |text| toml::from_str::<toml::Table>(text).unwrap();
        let mut all = Answers::new(&table(file), table(given), None);
        Questions(answers.as_bytes()).ask(&mut all)?;
        all.complete(Path::new("/etc/postern/postern.toml"))?;
        Ok((all.values, all.registration))
    }

    #[test]
    fn empty_answers_give_a_private_cluster_behind_a_proxy_of_this_machine() {
        let (values, registration) = asked("Example.ORG\n\n\n\n\n\n\n\n", "", "data_dir = '/data'").unwrap();
        let expected = "domain = 'example.org'\nembedded = true\ncreate_cluster = false\ndata_dir = '/data'\nlisten = '127.0.0.1:8008'\n\
                        [proxy]\naddresses = ['127.0.0.1/32']\nsource = 'x-forwarded-for'\n\
                        [metrics]\nlisten = '127.0.0.1:9464'";
        assert_eq!(values, toml::from_str(expected).unwrap());
        assert_eq!(registration, Some(Registration::Invite));
        // One that is there, and shows none, goes on so.
        let (values, _) = asked("\n\n\n\n\n\n\n\n", "", "domain = 'example.org'\nembedded = true").unwrap();
        assert!(!values.contains_key("metrics"), "{values:?}");
    }

    #[test]
    fn what_is_no_answer_is_asked_for_again_and_the_end_is_no_answer() {
        let (values, _) = asked("no\nnodots\na.example\n\n\n\nnowhere\n::1\n\n\n\n", "", "").unwrap();
        assert_eq!(values["domain"].as_str(), Some("a.example"));
        assert_eq!(values["proxy"]["addresses"][0].as_str(), Some("::1/128"));
        let error = asked("a.example\n", "", "").unwrap_err();
        assert!(error.to_string().contains("--non-interactive"), "{error}");
    }

    #[test]
    fn what_a_flag_says_is_not_asked_for_and_a_superuser_is_not_kept() {
        let given = "domain = 'a.example'\n[database]\nurl = 'host=/run'\nadmin_url = 'host=/run user=postgres'\n\
                     [proxy]\naddresses = ['127.0.0.1/32']\nsource = 'forwarded'";
        let (values, registration) =
            asked("oidc\nhttps://login.example\nid\n", given, "embedded = true").unwrap();
        let expected = "domain = 'a.example'\nmaster_key_file = '/etc/postern/master.key'\n\
                        [database]\nurl = 'host=/run'\n[proxy]\naddresses = ['127.0.0.1/32']\nsource = 'forwarded'\n\
                        [oidc]\nissuer = 'https://login.example'\nclient_id = 'id'\n\
                        [metrics]\nlisten = '127.0.0.1:9464'";
        assert_eq!(values, toml::from_str(expected).unwrap());
        assert_eq!(registration, Some(Registration::Oidc));
    }

    #[test]
    fn a_data_directory_elsewhere_is_let_into_the_unit_and_a_hidden_file_is_refused() {
        let text = drop_in(Path::new("/srv/50% of it"));
        assert!(text.contains("ReadWritePaths=\"/srv/50%% of it\"\n"), "{text}");
        assert!(text.contains("RequiresMountsFor=\"/srv/50%% of it\"\n"), "{text}");
        let mut config = Config { domain: "a.example".to_owned(), ..Config::default() };
        expect_visible(&config).unwrap();
        config.tls.certificate = Some("/home/alice/cert.pem".into());
        let error = expect_visible(&config).unwrap_err().to_string();
        assert!(error.contains("look into /home"), "{error}");
        let hidden = Config {
            domain: "a.example".to_owned(),
            embedded: true,
            data_dir: "/home/alice/data".into(),
            master_key_file: Some("/etc/postern/master.key".into()),
            ..Config::default()
        };
        let error = expect_visible(&hidden).unwrap_err().to_string();
        assert!(error.contains("put /home/alice/data elsewhere"), "{error}");
    }

    #[test]
    fn a_file_that_says_something_else_is_not_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postern.toml");
        let table = |text| toml::from_str::<toml::Table>(text).unwrap();
        let (one, other) = (table("domain = 'a.example'"), table("domain = 'b.example'"));
        let packaged = table("embedded = true\ndata_dir = '/var/lib/postern'");
        fs::write(&path, file::text(&packaged)).unwrap();
        write(&path, &packaged, &one, None, false).expect("nobody has set anything in it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::read_to_string(&path).unwrap();
        write(&path, &one, &one, None, false).expect("it is the same");
        let error = write(&path, &one, &other, None, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
        write(&path, &one, &other, None, true).unwrap();
        assert_eq!(without_empty_sections(config::read_file(&path).unwrap()), other);
        assert_eq!(fs::read_to_string(path.with_added_extension("old")).unwrap(), written);
        // A comment by hand is worth as much as a value.
        let by_hand = format!("{}# mine\n", file::text(&packaged));
        fs::write(&path, &by_hand).unwrap();
        write(&path, &packaged, &one, None, false).expect("it is no server's yet");
        assert_eq!(fs::read_to_string(path.with_added_extension("old2")).unwrap(), by_hand);
        assert_eq!(
            fs::read_to_string(path.with_added_extension("old")).unwrap(),
            written,
            "the first one stays"
        );
    }
}
