//! Waking this device while it sleeps.

use anyhow::Context as _;
use clap::Subcommand;
use postern_client::Client;
use postern_protocol::{
    P256PublicKey, Payload, PushAuth,
    push::{PushSubscription, Urgency},
    qs::QueueKind,
};

use super::{Global, note};
use crate::output::{group_name, print_line};

#[derive(Subcommand)]
pub enum Command {
    /// Have this device woken by Web Push (RFC 8030) when something comes in
    Push {
        #[command(subcommand)]
        command: Push,
    },
    /// Keep a group's messages from waking this device
    Mute {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
    /// Let a group's messages wake this device again
    Unmute {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
}

#[derive(Subcommand)]
pub enum Push {
    /// Print the server's key, for which subscriptions are made (applicationServerKey)
    Key,
    /// Push to a subscription; take another one for each mailbox
    On {
        /// The URL of the push resource
        endpoint: String,
        /// The user agent's public key, as base64url
        p256dh: String,
        /// The user agent's authentication secret, as base64url
        auth: String,
        /// Wake for contact requests instead of groups
        #[arg(long)]
        contact: bool,
        /// The text of each push
        #[arg(long, default_value = "postern", value_name = "TEXT")]
        content: String,
    },
    /// Push nothing any more
    Off,
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let client = global.open()?;
    match command {
        Command::Push { command } => push(&client, command).await?,
        Command::Mute { group } => {
            let group = client.group(&group)?;
            group.set_push(None).await?;
            note(&format!("{} does not wake this device any more.", group_name(&client, group.id())?));
        }
        Command::Unmute { group } => {
            let group = client.group(&group)?;
            group.set_push(Some(Urgency::Normal)).await?;
            note(&format!("{} wakes this device.", group_name(&client, group.id())?));
        }
    }
    Ok(())
}

async fn push(client: &Client, command: Push) -> anyhow::Result<()> {
    match command {
        Push::Key => {
            let key = client.application_server_key().await?;
            let key = key.context("this server sends no pushes: its operator has not set it up for them")?;
            print_line(&key.to_base64url())?;
        }
        Push::On { endpoint, p256dh, auth, contact, content } => {
            let subscription = PushSubscription {
                endpoint,
                p256dh: P256PublicKey::from_base64url(&p256dh)
                    .context("p256dh is not a P-256 public key in base64url")?,
                auth: PushAuth::from_base64url(&auth).context("auth is not 16 bytes in base64url")?,
                content: Payload::new(content.into_bytes()),
            };
            let kind = if contact { QueueKind::Contact } else { QueueKind::Group };
            client.wake_by_push(kind, Some(subscription)).await?;
            note("This device is woken from now on.");
        }
        Push::Off => {
            for kind in [QueueKind::Group, QueueKind::Contact] {
                client.wake_by_push(kind, None).await?;
            }
            note("This device is not woken any more.");
        }
    }
    Ok(())
}
