//! This device: its registration, who it is, its tokens and mailboxes, and its end.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use postern_client::{Client, ClientBuilder};
use postern_protocol::admission::{Admission, IdToken, InviteCode};
use serde_json::json;

use super::{Global, note};
use crate::{
    output::{device_name, print_line, to_json},
    sign_in,
};

#[derive(Subcommand)]
pub enum Command {
    /// Register a new user with this as the first device
    #[command(
        long_about = "Register a new user with this as the first device. A server that does not let everybody \
                      in asks for an invite, or for a login at its identity provider: `register alice --sign-in` \
                      shows the address of the login page, to be opened in a browser on this machine. Where that is \
                      no use, `register alice --print-nonce` shows the nonce with which an ID token has to be \
                      asked for in another way, and `register alice --id-token FILE` brings the token."
    )]
    Register {
        /// alice, or alice@example.org
        name: String,
        #[command(flatten)]
        proof: Proof,
    },
    /// Make an invite, by which somebody can register at this server
    MakeInvite,
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

/// The proof by which a server lets somebody in.
#[derive(Args)]
#[group(multiple = false)]
pub struct Proof {
    /// The code of an invite
    #[arg(long, value_name = "CODE")]
    invite: Option<InviteCode>,
    /// Log in at the server's identity provider, in a browser on this machine
    #[arg(long)]
    sign_in: bool,
    /// A file with an ID token of the identity provider
    #[arg(long, value_name = "FILE")]
    id_token: Option<PathBuf>,
    /// Show the nonce that such an ID token has to have, and register nobody yet
    #[arg(long)]
    print_nonce: bool,
}

impl Proof {
    async fn admission(&self, builder: &ClientBuilder, name: &str) -> anyhow::Result<Admission> {
        if let Some(code) = &self.invite {
            return Ok(Admission::Invite(code.clone()));
        }
        if self.sign_in {
            return Ok(Admission::IdToken(sign_in::id_token(builder, name).await?));
        }
        let Some(file) = &self.id_token else { return Ok(Admission::Open) };
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Admission::IdToken(text.trim().parse::<IdToken>()?))
    }
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Register { name, proof } if proof.print_nonce => {
            let nonce = global.builder().registration_nonce(&name).await?;
            note("Ask for an ID token with this nonce, and bring it with --id-token:");
            let line = if global.json { to_json(&json!({ "nonce": nonce })) } else { nonce };
            Ok(print_line(&line)?)
        }
        Command::Register { name, proof } => {
            let builder = global.builder();
            let admission = proof.admission(&builder, &name).await?;
            note("Registering: keys, tokens, mailboxes …");
            let client = builder.admission(admission).register(&name).await?;
            whoami(&client, global.json)
        }
        Command::MakeInvite => {
            let (code, not_after) = global.open()?.make_invite().await?;
            let days = not_after.saturating_sub(now()).div_ceil(24 * 60 * 60);
            note(&format!("Good for one registration, and for {days} days: `register NAME --invite {code}`"));
            let (code, not_after) = (code.to_string(), not_after);
            let line = match global.json {
                true => to_json(&json!({ "invite": code, "not_after": not_after })),
                false => code,
            };
            Ok(print_line(&line)?)
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

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
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
