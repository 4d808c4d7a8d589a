//! The dialogue of a setup: the settings as file, flags and answers give them, and the questions for those that nobody gave.

use std::{
    fs,
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use postern_protocol::name::Domain;

use crate::{
    cli::registration::Registration,
    config::{Config, ConnectionString, Network, ProxySource},
    database::Way,
    keys::master_key,
    say::print,
    tls,
};

/// The address at which a server with a certificate of its own listens.
const PUBLIC: &str = "[::]:443";
/// The answer that leaves the policy of registration to the database.
const KEPT: &str = "same";
/// The address of metrics: this machine's only.
const METRICS: &str = "127.0.0.1:9464";

/// The settings as they will be, and which of them are not to be asked for.
pub struct Answers {
    pub values: toml::Table,
    given: toml::Table,
    /// Whether the file was no homeserver's before.
    is_new: bool,
    /// A superuser's connection string, for this once: it is not kept.
    pub admin_url: Option<ConnectionString>,
    pub registration: Option<Registration>,
}

/// The value at a place such as `tls.certificate`.
pub fn at<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
        None => table.get(key),
    }
}

/// A section without a value says nothing.
pub fn without_empty_sections(mut values: toml::Table) -> toml::Table {
    values.retain(|_, value| value.as_table().is_none_or(|section| !section.is_empty()));
    values
}

impl Answers {
    /// The file's values, and over them those that were given.
    pub fn new(file: &toml::Table, mut given: toml::Table, registration: Option<Registration>) -> Self {
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
    pub fn complete(&mut self, path: &Path) -> anyhow::Result<()> {
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
pub struct Questions<R>(pub R);

impl<R: BufRead> Questions<R> {
    pub fn ask(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        print(
            "An empty line takes what is in brackets. `postern setup --help` has a flag for each answer.\n",
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
                Err(error) => print(format_args!("  These are no certificate and its key: {error:#}")),
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
        if answers.registration.is_none() {
            let question = "Who may register: everybody, those with an invite, or those with a login at an identity \
                            provider (open, invite, oidc)";
            // One that is there may have another policy by now, in its database.
            let name = match answers.is_new {
                true => self.choice(question, "invite", &["open", "invite", "oidc"])?,
                false => {
                    let question = format!("{question}; {KEPT}: as it is");
                    self.choice(&question, KEPT, &[KEPT, "open", "invite", "oidc"])?
                }
            };
            if name != KEPT {
                answers.registration =
                    Some(Registration::from_str(&name, false).map_err(anyhow::Error::msg)?);
            }
        }
        if answers.registration == Some(Registration::Oidc) {
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
                Some(default) => write!(io::stdout(), "{question} [{default}]: ")?,
                None => write!(io::stdout(), "{question}: ")?,
            }
            io::stdout().flush()?;
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                print("");
                bail!("the answers ended before this one: give it by a flag, or --non-interactive");
            }
            let answer = match (line.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match parse(answer) {
                Ok(value) => return Ok(value),
                Err(error) => print(format_args!("  That is no answer: {error:#}")),
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
        let there = "domain = 'example.org'\nembedded = true";
        let (values, registration) = asked("\n\n\n\n\n\n\n\n", "", there).unwrap();
        assert!(!values.contains_key("metrics"), "{values:?}");
        assert_eq!(registration, None, "who may register there stays as it is");
        let (_, registration) = asked("\n\n\n\n\n\n\nopen\n", "", there).unwrap();
        assert_eq!(registration, Some(Registration::Open));
        // A new one has no policy that could stay.
        let (_, registration) = asked("Example.ORG\n\n\n\n\n\n\nsame\nopen\n", "", "").unwrap();
        assert_eq!(registration, Some(Registration::Open));
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
}
