//! This device: its registration, who it is, its tokens and mailboxes, and its end.

use anyhow::Context as _;
use clap::Subcommand;
use postern_client::Client;
use serde_json::json;

use super::{Global, note};
use crate::output::{device_name, print_line, to_json};

#[derive(Subcommand)]
pub enum Command {
    /// Register a new user with this as the first device
    Register {
        /// alice, or alice@example.org
        name: String,
        /// Ask for a passphrase, under which this device's state is encrypted
        #[arg(long)]
        passphrase: bool,
    },
    /// Show which user and device this is
    Whoami,
    /// Show how many tokens are at hand
    Tokens {
        /// Fetch a batch of so many first
        #[arg(long, value_name = "NUMBER", value_parser = ["1", "10", "100"])]
        fetch: Option<String>,
    },
    /// Renew the keys of this device's mailboxes
    RenewMailboxes,
    /// Delete this device's mailboxes and keys, at the server and here
    LogOut,
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Register { name, passphrase } => {
            let builder = global.new_builder(passphrase)?;
            note("Registering: keys, tokens, mailboxes …");
            let client = builder.register(&name).await?;
            whoami(&client, global.json)
        }
        Command::Whoami => whoami(&global.open()?, global.json),
        Command::Tokens { fetch } => {
            let client = global.open()?;
            if let Some(number) = fetch {
                client.wallet().fetch(number.parse()?).await?;
            }
            let count = client.wallet().count()?;
            let line = if global.json { to_json(&json!({ "tokens": count })) } else { count.to_string() };
            Ok(print_line(&line)?)
        }
        Command::RenewMailboxes => {
            global.open()?.renew_mailbox_keys().await?;
            note("Keys of the mailboxes renewed.");
            Ok(())
        }
        Command::LogOut => {
            let client = global.open()?;
            client.log_out().await?;
            drop(client);
            std::fs::remove_dir_all(&global.state)
                .with_context(|| format!("cannot delete {}", global.state.display()))?;
            note("This device has nothing left at the server, and nothing here.");
            Ok(())
        }
    }
}

/// Shows which user and device a client is.
pub fn whoami(client: &Client, json: bool) -> anyhow::Result<()> {
    let (user, server, device) = (client.user(), client.server(), client.client_key());
    let line = if json {
        to_json(&json!({ "user": user, "device": device, "server": server }))
    } else {
        format!("{user} on {server}, device {}", device_name(&device))
    };
    Ok(print_line(&line)?)
}
