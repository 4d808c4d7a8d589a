//! The commands and their arguments, by what they are about.

mod account;
mod contacts;
mod devices;
mod groups;
mod history;
mod messages;
mod passphrase;
mod profile;
mod push;

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use postern_client::{Client, ClientBuilder};
use postern_protocol::name::Domain;

const EXAMPLES: &str = "\
Examples:
  export POSTERN_SERVER=http://127.0.0.1:8008
  postern-client --state alice register alice
  postern-client --state alice create-group climbing
  postern-client --state alice invite climbing bob@example.localhost
  postern-client --state alice send climbing 'See you at six'
  postern-client --state alice follow
  postern-client --state bob   contacts accept alice@example.localhost

  A second device: the first command shows a code for the second one.
  postern-client --state alice  link
  postern-client --state laptop link 305718-river-orange

Exit status: 0 done, 1 refused or failed, 2 wrong arguments, 75 the server cannot be reached or
is not ready: try again later. Set POSTERN_LOG=debug to see more.";

/// A messenger for Postern: end-to-end encrypted groups from the command line.
#[derive(Parser)]
#[command(name = "postern-client", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// The directory in which this client keeps its keys and messages; one for each device
    #[arg(long, global = true, env = "POSTERN_STATE", default_value_os_t = default_state(), value_name = "DIR")]
    state: PathBuf,
    /// The server's address; by default the one given to `register`, `link` or `link-request`
    #[arg(long, global = true, env = "POSTERN_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The domain of a neighbour whose homeserver relays what this client asks its own one: that sees no address of it then
    #[arg(long, global = true, env = "POSTERN_RELAY", value_name = "DOMAIN")]
    relay: Option<Domain>,
    /// The file with the passphrase of an encrypted state, in its first line; else POSTERN_PASSPHRASE has it, or it is
    /// asked for
    #[arg(long, global = true, env = "POSTERN_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// How many messages and events of each group are kept on this device, for `history`; 0 keeps none
    #[arg(long, global = true, env = "POSTERN_HISTORY", default_value_t = 10_000, value_name = "NUMBER")]
    keep_history: u64,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Accept everyone that asks to be a contact, as a bot does
    #[arg(long, global = true)]
    accept_contacts: bool,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Account(account::Command),
    #[command(flatten)]
    Devices(devices::Command),
    #[command(flatten)]
    Groups(groups::Command),
    #[command(flatten)]
    Invitations(contacts::Invitation),
    /// Other users: who may add you to groups, and who is who
    Contacts {
        #[command(subcommand)]
        command: Option<contacts::Command>,
    },
    #[command(flatten)]
    Messages(messages::Command),
    /// Show what was said and done in a group, as far as this device keeps it
    History(history::Command),
    /// Encrypt this device's state, or not any more
    #[command(subcommand)]
    Passphrase(passphrase::Command),
    #[command(flatten)]
    Profile(profile::Command),
    #[command(flatten)]
    Push(push::Command),
}

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Account(command) => account::run(&global, command).await,
        Command::Devices(command) => devices::run(&global, command).await,
        Command::Groups(command) => groups::run(&global, command).await,
        Command::Invitations(command) => contacts::run_invitation(&global, command).await,
        Command::Contacts { command } => contacts::run(&global, command.unwrap_or_default()).await,
        Command::Messages(command) => messages::run(&global, command).await,
        Command::Profile(command) => profile::run(&global, command).await,
        Command::History(command) => history::run(&global, &command),
        Command::Passphrase(command) => passphrase::run(&global, command),
        Command::Push(command) => push::run(&global, command).await,
    }
}

impl Global {
    /// The builder of this client, with the passphrase that its state needs.
    fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let builder = Client::builder(&self.state)
            .accept_contacts(self.accept_contacts)
            .keep_history(self.keep_history);
        let builder = match &self.server {
            Some(server) => builder.server(server),
            None => builder,
        };
        let builder = match &self.relay {
            Some(relay) => builder.relay(relay.clone()),
            None => builder,
        };
        Ok(match passphrase::of(self, &builder)? {
            Some(passphrase) => builder.passphrase(passphrase),
            None => builder,
        })
    }

    /// The builder of a new client, which asks for a passphrase if it is to.
    fn new_builder(&self, ask: bool) -> anyhow::Result<ClientBuilder> {
        let builder = self.builder()?;
        Ok(match passphrase::of_new(self, &builder, ask)? {
            Some(passphrase) => builder.passphrase(passphrase),
            None => builder,
        })
    }

    fn open(&self) -> anyhow::Result<Client> {
        Ok(self.builder()?.open()?)
    }
}

fn read_stdin(what: &str) -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        note(&format!("Enter {what}, then Ctrl-D:"));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).with_context(|| format!("cannot read {what}"))?;
    Ok(text)
}

/// Progress goes to stderr: stdout is for what programs read.
pub fn note(text: &str) {
    eprintln!("{text}");
}

fn default_state() -> PathBuf {
    let home = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state")));
    home.unwrap_or_default().join("postern-client")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_arguments_are_sound() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn an_id_may_begin_with_a_hyphen() {
        for line in [
            "devices remove -jkLmN2p",
            "devices name -jkLmN2p laptop",
            "members -jkLmN2p",
            "send -jkLmN2p hello",
            "history -jkLmN2p",
            "remove -jkLmN2p --yes --member -xY",
        ] {
            let words = ["postern-client"].into_iter().chain(line.split(' '));
            super::Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
