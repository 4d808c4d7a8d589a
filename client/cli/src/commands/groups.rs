//! Groups: making them, looking at them, changing who is in them, leaving them.

use std::io::IsTerminal as _;

use clap::Subcommand;
use postern_client::{Error, Group, Member, safe_line};
use postern_protocol::{PublicKey, name::UserName};
use serde_json::json;

use super::{Global, note};
use crate::output::{device_name, group_name, print_line, short, tell, to_json};

#[derive(Subcommand)]
pub enum Command {
    /// Create a group; only its members learn the title
    CreateGroup { title: String },
    /// List the groups that this device is in
    Groups,
    /// The group itself: its admins, its title, its end
    #[command(subcommand)]
    Group(GroupCommand),
    /// List the devices in a group, by the names that the server confirmed
    Members {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
    /// Remove a user from a group (admins only), after naming the devices that go
    Remove {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        /// bob@example.org
        #[arg(required_unless_present = "member")]
        user: Option<UserName>,
        /// Instead, a member whose name is not known: the key that `members` shows, or its beginning
        #[arg(long, value_name = "KEY", conflicts_with = "user", allow_hyphen_values = true)]
        member: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Renew this device's keys in a group
    Update {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
    /// Leave a group with all your devices; it takes effect with the next message or change of another member
    Leave {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
    /// Come back into a group that this device cannot follow, after naming members that it does not know
    Rejoin {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Found a group anew that nobody can follow, with its title and members, and leave the old one
    Refound {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
    /// Leave a group without telling it, and receive nothing from it any more; or do not come into one
    BlockGroup {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
    },
}

#[derive(Subcommand)]
pub enum GroupCommand {
    /// List the admins, make users admins, or admins members like others (admins only)
    Admins {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        /// bob@example.org
        #[arg(long, value_name = "USER")]
        add: Vec<UserName>,
        /// bob@example.org
        #[arg(long, value_name = "USER")]
        remove: Vec<UserName>,
    },
    /// Call the group something else (admins only)
    Rename {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        title: String,
    },
    /// Remove everyone and delete the group (admins only)
    Delete {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
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
                    format!("{}{admin}{own}", describe(&member))
                };
                print_line(&line)?;
            }
        }
        Command::Group(command) => run_group(global, command).await?,
        Command::Remove { group, user, member, yes } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            let removal = match (&user, member) {
                (Some(user), _) => group.removal(user)?,
                (None, member) => group.removal_of(&leaf_key(&group, &member.unwrap_or_default())?)?,
            };
            let name = group_name(&client, group.id())?;
            note(&format!("This removes from {name}:"));
            removal.members.iter().for_each(|member| note(&format!("  {}", describe(member))));
            confirm(yes)?;
            group.remove_all(&removal).await?;
            note(&format!("Removed {} devices from {name}.", removal.members.len()));
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
        Command::Rejoin { group, yes } => {
            let client = global.open()?;
            let group = client.group(&group)?;
            let mut done = group.rejoin().await;
            while let Err(Error::Strangers(differences)) = done {
                note("Nobody whom this device knows is known to have let these in:");
                differences.strangers.iter().for_each(|it| note(&format!("  {}", describe(it))));
                note("These are admins now:");
                differences.admins.iter().for_each(|it| note(&format!("  {}", describe(it))));
                confirm(yes)?;
                done = group.rejoin_accepting(&differences).await;
            }
            done?;
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

async fn run_group(global: &Global, command: GroupCommand) -> anyhow::Result<()> {
    let client = global.open()?;
    match command {
        GroupCommand::Admins { group, add, remove } => {
            let group = client.group(&group)?;
            for user in &add {
                group.name_admin(user).await?;
            }
            for user in &remove {
                group.dismiss_admin(user).await?;
            }
            for member in group.admins()? {
                let line =
                    if global.json { to_json(&json!({ "member": member })) } else { describe(&member) };
                print_line(&line)?;
            }
        }
        GroupCommand::Rename { group, title } => {
            let group = client.group(&group)?;
            group.rename(&title).await?;
            note(&format!("The group is called {}.", group_name(&client, group.id())?));
        }
        GroupCommand::Delete { group, yes } => {
            let group = client.group(&group)?;
            let name = group_name(&client, group.id())?;
            let own = client.client_key();
            note(&format!("This removes from {name}, and deletes it:"));
            let members = group.members()?.into_iter().filter(|member| member.client_key != Some(own));
            members.for_each(|member| note(&format!("  {}", describe(&member))));
            confirm(yes)?;
            group.delete().await?;
            note(&format!("Deleted {name}."));
        }
    }
    Ok(())
}

/// A member by its name and device, or where the name is not known, by its key in the group.
fn describe(member: &Member) -> String {
    match member.client_key {
        Some(client_key) => format!("{member} {}", device_name(&client_key)),
        None => format!("{member} {}", device_name(&member.leaf_key)),
    }
}

/// The key in the group of the one member that `members` shows by it, or by its client's.
fn leaf_key(group: &Group, beginning: &str) -> anyhow::Result<PublicKey> {
    let is_it = |key: PublicKey| !beginning.is_empty() && key.to_base64url().starts_with(beginning);
    let mut found = group.members()?;
    found.retain(|member| is_it(member.leaf_key) || member.client_key.is_some_and(is_it));
    match found.as_slice() {
        [member] => Ok(member.leaf_key),
        [] => anyhow::bail!("no member has the key {}", safe_line(beginning)),
        _ => anyhow::bail!("several members have keys that begin with {}", safe_line(beginning)),
    }
}

/// Asks at a terminal whether to go on; elsewhere `--yes` says so.
fn confirm(yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    anyhow::ensure!(std::io::stdin().is_terminal(), "nothing was changed: --yes goes on without asking");
    note("Go on? [y/N]");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    anyhow::ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was changed");
    Ok(())
}
