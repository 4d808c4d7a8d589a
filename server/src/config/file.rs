//! The text of a configuration file. It is made from the definitions of the settings themselves, so it has each of them,
//! with its meaning and its true default. Those that are chosen are in force; the others are comments. It is the same on
//! every machine.

use clap::{Arg, Args, Command};
use figment::value::{Dict, Value};

use super::{Config, Settings};

const HEAD: &str = "\
# The configuration of Postern. Each setting is here, with its meaning and its default; a line that does not begin with
# a # is in force. A server reads this file when it starts; `postern check` says whether all is well. Variables of the
# environment and flags win over this file. operate/configure.md of the documentation tells more.
#
# Who may register, allowances, prices and limits of users and groups are in the database, where SQL changes them for
# every server at once.
";

/// Columns of a line of comment, without the sign and the blank that it begins with.
const COLUMNS: usize = 116;

/// Names of values that are written without quotes.
const NUMBERS: [&str; 3] = ["N", "SECONDS", "BYTES"];

/// The text of a file in which these values are in force.
pub fn text(values: &toml::Table) -> String {
    let defaults = defaults();
    let command = Settings::augment_args(Command::new("postern"));
    let mut text = HEAD.to_owned();
    let mut section = None;
    for argument in command.get_arguments() {
        let Some(key) = key(argument, &defaults) else { continue };
        if key.section != section {
            section = key.section;
            text += &section.map(|section| format!("\n[{section}]\n")).unwrap_or_default();
        }
        text += "\n";
        text += &entry(argument, &key, &defaults, values);
    }
    text
}

/// A setting's place in the file.
#[derive(Clone, Copy)]
struct Key<'a> {
    /// None: it is in none.
    section: Option<&'a str>,
    name: &'a str,
}

impl Key<'_> {
    fn default<'a>(&self, defaults: &'a Dict) -> Option<&'a Value> {
        let section = match self.section {
            Some(section) => defaults.get(section)?.as_dict()?,
            None => defaults,
        };
        section.get(self.name)
    }

    fn chosen<'a>(&self, values: &'a toml::Table) -> Option<&'a toml::Value> {
        let section = match self.section {
            Some(section) => values.get(section)?.as_table()?,
            None => values,
        };
        section.get(self.name)
    }
}

/// All settings with their defaults, also those without one.
fn defaults() -> Dict {
    let value = Value::serialize(Config::default()).expect("a configuration serialises");
    value.into_dict().expect("a configuration is a table")
}

/// The place of the setting that a flag sets: `--database-url` and `--max-body-bytes` stand for `database.url` and
/// `limits.max_body_bytes`. None for `--config`.
fn key<'a>(argument: &Arg, defaults: &'a Dict) -> Option<Key<'a>> {
    let flag = argument.get_long()?.replace('-', "_");
    let sections =
        || defaults.iter().filter_map(|(section, value)| Some((section.as_str(), value.as_dict()?.keys())));
    let whole = sections().find_map(|(section, mut names)| {
        let name = names.find(|name| flag == format!("{section}_{name}"))?;
        Some(Key { section: Some(section), name })
    });
    let top = || {
        let (name, _) = defaults.get_key_value(&flag).filter(|(_, value)| value.as_dict().is_none())?;
        Some(Key { section: None, name })
    };
    let bare = || {
        sections().find_map(|(section, mut names)| {
            Some(Key { section: Some(section), name: names.find(|name| **name == flag)? })
        })
    };
    top().or(whole).or_else(bare)
}

/// A setting's meaning, its default, and its line.
fn entry(argument: &Arg, key: &Key, defaults: &Dict, values: &toml::Table) -> String {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (about, default_text) = match help.rsplit_once(" [default: ") {
        Some((about, default)) => (about, default.strip_suffix(']')),
        None => (help.as_str(), None),
    };
    let default = key.default(defaults).and_then(|value| toml::Value::try_from(value).ok());
    // Where the default is another one on each machine, the line has a name in its place.
    let default = default.filter(|value| default_text == Some(plain(value).as_str()));
    let chosen = key.chosen(values);
    let mut prose = format!("{about}.");
    if default.is_none() || chosen.is_some() {
        prose +=
            &default_text.map_or(" There is no default.".to_owned(), |text| format!(" Default: {text}."));
    }
    let comment: String = wrapped(&prose).iter().map(|line| format!("# {line}\n")).collect();
    let line = match chosen {
        Some(value) => format!("{} = {value}", key.name),
        None => {
            let value =
                default.map_or_else(|| placeholder(argument, key, defaults), |value| value.to_string());
            format!("#{} = {value}", key.name)
        }
    };
    format!("{comment}{line}\n")
}

/// A value as `--help` writes it.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The name of a value, where there is no default to show.
fn placeholder(argument: &Arg, key: &Key, defaults: &Dict) -> String {
    let possible: Vec<_> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let name = match (argument.get_value_names(), possible.as_slice()) {
        (_, [_, ..]) => possible.join("|"),
        (Some([name, ..]), []) => name.to_string(),
        (_, []) => argument.get_id().to_string().to_uppercase(),
    };
    match key.default(defaults) {
        _ if NUMBERS.contains(&name.as_str()) => name,
        Some(Value::Array(..)) => format!("[\"{name}\"]"),
        _ => format!("\"{name}\""),
    }
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        match line.is_empty() {
            true => line.push_str(word),
            false if line.chars().count() + 1 + word.chars().count() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            false => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The lines that are commented out, by section, with whether the comment before them tells the default in words.
    fn commented(text: &str) -> Vec<(String, String, bool)> {
        let (mut section, mut comments) = (String::new(), String::new());
        let mut found = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
            }
            match line.strip_prefix('#') {
                Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => {
                    let in_words =
                        comments.contains(" Default: ") || comments.contains(" There is no default.");
                    found.push((section.clone(), setting.to_owned(), in_words));
                    comments.clear();
                }
                Some(comment) => comments += comment,
                None => comments.clear(),
            }
        }
        found
    }

    fn keys(dict: &Dict) -> BTreeSet<String> {
        let of = |(name, value): (&String, &Value)| match value.as_dict() {
            Some(section) => section.keys().map(|key| format!("{name}.{key}")).collect(),
            None => vec![name.clone()],
        };
        dict.iter().flat_map(of).collect()
    }

    #[test]
    fn the_file_has_every_setting_once_and_its_comments_tell_the_true_defaults() {
        let text = text(&toml::Table::new());
        let lines = commented(&text);
        let name = |(section, line, _): &(String, String, bool)| {
            let key = line.split(" = ").next().unwrap_or_default();
            if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
        };
        let named: Vec<_> = lines.iter().map(name).collect();
        assert_eq!(named.len(), named.iter().collect::<BTreeSet<_>>().len(), "{named:?}");
        assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), keys(&defaults()));

        // With all lines in force that show a default, the configuration is the same.
        let mut in_force = String::new();
        for (place, (section, line, in_words)) in lines.iter().enumerate() {
            if place == 0 || lines[place - 1].0 != *section {
                in_force += &if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            }
            in_force += &if *in_words { String::new() } else { format!("{line}\n") };
        }
        let file: toml::Table =
            toml::from_str(&in_force).unwrap_or_else(|error| panic!("{error}: {in_force}"));
        let settings = Settings { domain: Some("a.example".to_owned()), ..Settings::default() };
        let config = Config::from_layers(&file, &settings).unwrap();
        assert_eq!(config, Config { domain: "a.example".to_owned(), ..Config::default() });
        assert!(in_force.lines().count() > 20, "{in_force}");
    }

    #[test]
    fn what_is_chosen_is_in_force_and_nothing_else() {
        let chosen: toml::Table = toml::from_str(
            "domain = 'a.example'\nembedded = true\n[proxy]\naddresses = ['127.0.0.1/32', '::1/128']\n\
             source = 'forwarded'\n[database]\nurl = 'host=/run \"x\" password=a\\b'\n[limits]\nmax_body_bytes = 5",
        )
        .unwrap();
        let mut read: toml::Table = toml::from_str(&text(&chosen)).unwrap();
        read.retain(|_, value| value.as_table().is_none_or(|section| !section.is_empty()));
        assert_eq!(read, chosen);
    }

    #[test]
    fn the_file_is_the_same_on_every_machine() {
        let text = text(&toml::Table::new());
        for line in
            ["#pool_size = N", "#compute_threads = N", "#data_dir = \"DIR\"", "#extension_dir = \"DIR\""]
        {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn each_flag_sets_its_own_setting_and_no_two_share_one() {
        // Arguments of one id are one to clap, whatever their flags: it says so in debug builds only.
        let defaults = defaults();
        let command = Settings::augment_args(Command::new("postern"));
        let mut ids = BTreeSet::new();
        let mut places = BTreeSet::new();
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap_or_default();
            assert!(ids.insert(argument.get_id().clone()), "--{flag} has the id of another flag");
            match key(argument, &defaults) {
                Some(key) => {
                    assert!(places.insert((key.section, key.name)), "--{flag} sets what another flag sets");
                }
                None => assert_eq!(flag, "config", "no setting for it"),
            }
        }
    }
}
