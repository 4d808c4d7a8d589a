//! `postern setup`: from nothing to a server that can start. It asks, or takes flags (`dialogue`); makes the place of a
//! private cluster; writes the configuration file (`configuration`), and fits the package's units to it (`units`); makes the
//! master key, brings the database to this program's state, with the policy of registration, and runs `postern check`
//! (`bring_up`); and says what is left to do. Done again with the same answers it changes nothing.

mod bring_up;
mod configuration;
mod dialogue;
mod units;

use std::{fs, io, path::Path};

use anyhow::{Context, ensure};
use clap::Args;
use nix::unistd::{Uid, User};
use postern_protocol::name::Domain;

use self::{
    bring_up::{Admits, bring_up, expect_cluster, make_master_key, prepare},
    dialogue::{Answers, Questions, without_empty_sections},
};
use super::{
    registration::{self, Registration},
    user::{PACKAGE_USER, go_on_as},
};
use crate::{
    config::{self, Config, Settings, file},
    say::{give, print},
};
pub use bring_up::{end, expect_done};

pub const EXAMPLES: &str = "\
Examples:
  postern setup                                          asks, and proposes what is there, or what most want
  postern setup --non-interactive --domain example.org --proxy-addresses 127.0.0.1 --proxy-source x-forwarded-for \\
      --registration invite                              a private PostgreSQL, behind a proxy on this machine
  postern setup --non-interactive --domain example.org --tls-certificate cert.pem --tls-key key.pem
  postern setup --print --domain example.org > postern.toml
                                                         only the file, with every setting and its default

Every setting that is given by a flag or a variable of the environment goes into the file. The file that is there already
answers all else; --force lets setup replace what it says.";

#[derive(Args)]
pub struct Setup {
    /// The people who may register: everybody, those with an invite, or those with a login at your identity provider (then with
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
        give(file::text(&given).trim_end())?;
        return Ok(true);
    }
    let path = configuration::place(&setup.settings)?;
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
    let has_unit = user.is_some() && units::are_there();
    if has_unit {
        units::expect_visible(&config)?;
    }
    configuration::expect_replaceable(&path, &before, &answers.values, setup.force)?;
    if config.embedded {
        prepare(&config, user.as_ref())?;
    }
    configuration::write(&path, &before, &answers.values, user.as_ref())?;
    if has_unit {
        units::fit(&config)?;
    }
    if !config.embedded
        && let Some(key) = config.master_key_file()
    {
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

fn say_what_is_left(config: &Config, path: &Path, user: Option<&User>, registration: Admits) {
    print("\nWhat is left to do:");
    if let Admits::Wanted(policy) = registration {
        print(format_args!(
            "  {}={} postern migrate --config {} --database-admin-url URL",
            registration::ENVIRONMENT,
            policy.name(),
            path.display()
        ));
        print(
            "                                       before the first start of all: makes the tables, and sets who may register",
        );
    }
    let has_unit = units::are_there();
    match user {
        Some(_) if has_unit => {
            print("  systemctl enable --now postern       starts the server, now and with the machine");
        }
        Some(user) => {
            print(format_args!("  runuser -u {} -- postern serve --config {}", user.name, path.display()));
        }
        None => print(format_args!("  postern serve --config {}", path.display())),
    }
    if user.is_some() && has_unit {
        print("  systemctl enable --now postern-backup.timer");
        print("                                       makes a backup each day");
    } else {
        print(format_args!("  postern backup DIRECTORY --config {}", path.display()));
        print(
            "                                       makes a backup each day, where a timer of yours starts it",
        );
    }
    if let Some(key) = config.master_key_file() {
        print(format_args!("  keep a copy of {} elsewhere: without it no backup is of use", key.display()));
    }
    if let Some(metrics) = config.metrics.listen {
        print(format_args!(
            "  let Prometheus scrape http://{metrics}/metrics: operate/monitor.md of the documentation"
        ));
    }
    if config.tls.certificate.is_none() {
        print(format_args!("  let a proxy hand {} on to http://{}", config.base_url(), config.listen));
    }
    let how = match registration {
        Admits::Set(Registration::Invite) | Admits::Wanted(Registration::Invite) => {
            // A superuser's connection that was given to setup is not in the file.
            let is_known = config.embedded || config.database.admin_url.is_some();
            let admin_url = if is_known { "" } else { " --database-admin-url URL" };
            print(format_args!(
                "  postern psql --config {}{admin_url} -- -c 'SELECT operator.make_invites(number => 2)'",
                path.display()
            ));
            print("                                       makes invites, each for a person to register with");
            " --invite CODE"
        }
        Admits::Set(Registration::Oidc) | Admits::Wanted(Registration::Oidc) => " --sign-in",
        Admits::Set(Registration::Open) | Admits::Wanted(Registration::Open) | Admits::Kept => "",
    };
    print(format_args!("  postern-client --server {} register NAME{how}", config.base_url()));
}
