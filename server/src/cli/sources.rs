//! The sources of a configuration, for `postern check`: its file, and which variables and flags were given.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command, parser::ValueSource};

use super::registration;
use crate::{
    config::{Config, Settings},
    keys::master_key,
};

pub struct Sources {
    pub file: Option<PathBuf>,
    pub environment: Vec<String>,
    pub flags: Vec<String>,
    /// Environment variables named `POSTERN_…` that mean nothing to this program.
    pub unknown_environment: Vec<String>,
}

impl Sources {
    /// The sources of a configuration that is a file and nothing else.
    pub fn of_file(path: &Path) -> Self {
        let file = Some(path.to_owned());
        Self { file, environment: vec![], flags: vec![], unknown_environment: vec![] }
    }

    /// The sources of a command's configuration.
    pub fn of(settings: &Settings, program: &Command, command: Option<(&str, &ArgMatches)>) -> Self {
        let mut sources = Self {
            file: Config::file(settings),
            environment: vec![],
            flags: vec![],
            unknown_environment: vec![],
        };
        let Some((definition, matches)) =
            command.and_then(|(name, matches)| Some((program.find_subcommand(name)?, matches)))
        else {
            return sources;
        };
        let mut known = vec![master_key::ENVIRONMENT.to_owned(), registration::ENVIRONMENT.to_owned()];
        for argument in definition.get_arguments() {
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            known.extend(variable.clone());
            match matches.value_source(argument.get_id().as_str()) {
                Some(ValueSource::EnvVariable) => sources.environment.extend(variable),
                Some(ValueSource::CommandLine) => {
                    sources.flags.push(format!("--{}", argument.get_long().unwrap_or_default()));
                }
                _ => {}
            }
        }
        sources.unknown_environment = std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("POSTERN_") && !known.contains(name))
            .collect();
        sources
    }
}
