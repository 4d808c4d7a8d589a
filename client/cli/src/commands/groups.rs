//! Groups: making them, looking at them, changing who is in them, leaving them.

use clap::Subcommand;
use postern_client::safe_line;
use postern_protocol::name::UserName;
use serde_json::json;

use super::{Global, note};
use crate::output::{device_name, group_name, print_line, short, tell, to_json};

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
    /// Come back into a group that this device cannot follow, without waiting until it does so by itself
    Rejoin {
        /// Title or id of the group
        group: String,
    },
    /// Found a group anew that nobody can follow, with its title and members, and leave the old one
    Refound {
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
                print_line(&to_json(&json!({ "group": group.id(), "title": title })))?;
            } else {
                print_line(&format!("Created {} ({})", safe_line(&title), short(group.id())))?;
            }
        }
        Command::Groups => {
            for group in global.open()?.groups()? {
                let line = if global.json {
                    to_json(&json!({ "group": group.id, "title": group.title, "active": group.active }))
                } else {
                    let left = if group.active { "" } else { " (left)" };
                    format!("{} {}{left}", short(&group.id), safe_line(&group.title))
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
                    to_json(&json!({ "member": member, "admin": admin, "own": own }))
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
            if let Err(error) = group.leave().await {
                if error.is_passing() {
                    note("The next `send` or `follow` goes on with leaving.");
                }
                return Err(error.into());
            }
            note(&format!("Leaving {}.", group_name(&client, group.id())?));
        }
        Command::Rejoin { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            group.rejoin().await?;
            note(&format!("Back in {}.", group_name(&client, group.id())?));
        }
        Command::Refound { group } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            let founded = group.refound().await?;
            tell(&client, global.json)?;
            for user in &founded.invited {
                note(&format!("Invited {user}."));
            }
            for (user, reason) in &founded.missing {
                note(&format!("{user} could not be invited: {}.", safe_line(reason)));
            }
            if founded.unknown > 0 {
                note(&format!(
                    "{} devices were not invited: whose they are is not confirmed.",
                    founded.unknown
                ));
            }
            let id = founded.group.id();
            if global.json {
                print_line(&to_json(&json!({ "group": id, "in_place_of": group.id() })))?;
            } else {
                print_line(&format!("Founded {} anew ({})", group_name(&client, id)?, short(id)))?;
            }
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
