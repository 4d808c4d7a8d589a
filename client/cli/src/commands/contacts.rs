//! Other users: adding them to groups, and keeping them from adding this one.

use std::time::{Duration, Instant};

use clap::Subcommand;
use postern_client::{Client, Group};
use postern_protocol::name::UserName;

use super::{Global, note};
use crate::output::tell;

#[derive(Subcommand)]
pub enum Command {
    /// Invite all devices of a user into a group
    #[command(long_about = "Invite all devices of a user into a group; by your own name, your own other \
                      devices. The first time, a device of the user answers when it is online \
                      (`follow`); the next `follow` or `invite` here adds all of them.")]
    Invite {
        /// Title or id of the group
        group: String,
        /// bob@example.org
        user: UserName,
        /// Receive for up to so many seconds until all devices are added
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Keep a user from adding you to further groups
    BlockUser {
        /// bob@example.org
        user: UserName,
    },
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let client = global.open()?;
    match command {
        Command::Invite { group, user, wait } => {
            let group = client.group(&group)?;
            invite(&client, &group, &user, Duration::from_secs(wait), global.json).await?;
        }
        Command::BlockUser { user } => {
            client.block_user(&user).await?;
            note(&format!("{user} cannot add you to groups any more."));
        }
    }
    Ok(())
}

async fn invite(
    client: &Client,
    group: &Group,
    user: &UserName,
    wait: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    let invited = group.invite(user).await?;
    let (mut members, all) = (invited.members, invited.members + invited.waiting);
    let mut follower = client.follower();
    while members < all {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        follower.next(left).await?;
        tell(client, json)?;
        let added = group.members()?;
        members = added.iter().filter(|member| member.user.as_ref() == Some(user)).count();
        if user == client.user() {
            members = members.saturating_sub(1);
        }
    }
    tell(client, json)?;
    let waiting = all.saturating_sub(members);
    if waiting > 0 {
        note(&format!(
            "{waiting} of {all} devices of {user} have not answered yet: `follow` adds them when they do."
        ));
    }
    Ok(())
}
