//! Groups: making them, looking at them, changing who is in them, leaving them.

use clap::Subcommand;
use postern_protocol::name::UserName;
use serde_json::json;

use super::{Global, note};
use crate::output::{device_name, group_name, print_line, printable, short};

#[derive(Subcommand)]
pub enum Command {
    /// Create a group; only its members learn the title
    CreateGroup { title: String },
    /// List groups
    Groups,
    /// List the devices in a group
    Members {
        /// Title or id of the group
        group: String,
    },
    /// Remove all devices of a user from a group (admins only)
    Remove {
        /// Title or id of the group
        group: String,
        /// bob@example.org
        user: UserName,
    },
    /// Renew this device's keys in a group
    Update {
        /// Title or id of the group
        group: String,
    },
    /// Leave a group; it takes effect with the next message or change of another member
    Leave {
        /// Title or id of the group
        group: String,
    },
    /// Come back into a group that this device cannot follow any more
    Rejoin {
        /// Title or id of the group
        group: String,
    },
    /// Leave a group without telling it, and receive nothing from it any more
    BlockGroup {
        /// Title or id of the group
        group: String,
    },
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::CreateGroup { title } => {
            let group = global.open()?.create_group(&title).await?;
            if global.json {
                print_line(&json!({ "group": group.id(), "title": title }).to_string())?;
            } else {
                print_line(&format!("Created {} ({})", printable(&title), short(group.id())))?;
            }
        }
        Command::Groups => {
            for group in global.open()?.groups()? {
                let line = if global.json {
                    json!({ "group": group.id, "title": group.title, "active": group.active }).to_string()
                } else {
                    let left = if group.active { "" } else { " (left)" };
                    format!("{} {}{left}", short(&group.id), printable(&group.title))
                };
                print_line(&line)?;
            }
        }
        Command::Members { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            for member in group.members()? {
                let admin = group.is_admin(&member.leaf_key)?;
                let own = member.client_key == Some(client.client_key());
                let line = if global.json {
                    json!({ "member": member, "admin": admin, "own": own }).to_string()
                } else {
                    let admin = if admin { ", admin" } else { "" };
                    let own = if own { ", this device" } else { "" };
                    let device = member.client_key.map(|key| device_name(&key)).unwrap_or_default();
                    format!("{member} {device}{admin}{own}")
                };
                print_line(&line)?;
            }
        }
        Command::Remove { group, user } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.remove(&user).await?;
            note(&format!("Removed {user} from {}.", group_name(&client, group.id())?));
        }
        Command::Update { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.update().await?;
            note(&format!("Keys renewed in {}.", group_name(&client, group.id())?));
        }
        Command::Leave { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.leave().await?;
            note(&format!("Leaving {}.", group_name(&client, group.id())?));
        }
        Command::Rejoin { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.rejoin().await?;
            note(&format!("Back in {}.", group_name(&client, group.id())?));
        }
        Command::BlockGroup { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.block().await?;
            note(&format!("Nothing comes from {} any more.", group_name(&client, group.id())?));
        }
    }
    Ok(())
}
