//! Other users: adding them to groups, deciding on what they ask, and making sure of them.

use std::time::{Duration, Instant};

use clap::Subcommand;
use postern_client::{Client, Contact, Error, Group, ReceivedRequest, SafetyNumber};
use postern_protocol::name::UserName;
use serde_json::json;

use super::{Global, note};
use crate::{
    output::{print_line, tell, to_json},
    qr,
};

#[derive(Subcommand)]
pub enum Invitation {
    /// Invite all devices of a user into a group
    #[command(long_about = "Invite all devices of a user into a group; by your own name, your own other \
                      devices. The first time, the user is asked and decides (`contacts accept`); the next \
                      `follow` or `invite` here adds all of them then.")]
    Invite {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        /// bob@example.org
        user: UserName,
        /// Receive for up to so many seconds until all devices are added
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
}

#[derive(Subcommand, Default)]
pub enum Command {
    /// List your contacts
    #[default]
    List,
    /// List those that ask to be allowed to add you to groups
    Requests,
    /// Ask a user to be allowed to add them to groups, which `invite` does, too
    Ask {
        /// bob@example.org
        user: UserName,
    },
    /// Allow a user who asked to add you to groups
    Accept {
        /// bob@example.org
        user: UserName,
        /// Accept that the user began anew, without what you knew the user by: make sure in another way
        #[arg(long)]
        reset: bool,
    },
    /// Decline a user's request
    Decline {
        /// bob@example.org
        user: UserName,
        /// Do not tell the user
        #[arg(long)]
        silent: bool,
    },
    /// Keep a user from adding you to further groups, and from asking
    Block {
        /// bob@example.org
        user: UserName,
    },
    /// Let a user ask again that you blocked
    Unblock {
        /// bob@example.org
        user: UserName,
    },
    /// Show the number to compare with a user
    #[command(
        long_about = "Show the number that you and a user see if nobody stands between you. Compare it \
                      in another way: read it to each other, or let the other's client read the code. If \
                      it is the same, run this again with --confirm. It changes when one of you adds or \
                      removes a device: both look at about the same time."
    )]
    Verify {
        /// bob@example.org
        user: UserName,
        /// Remember that you compared the number that was shown last, and that it was the same
        #[arg(long)]
        confirm: bool,
        /// Compare with the code that the other user's client shows, as a camera read it
        #[arg(long, value_name = "CODE", conflicts_with = "confirm", allow_hyphen_values = true)]
        code: Option<String>,
    },
}

pub async fn run_invitation(global: &Global, command: Invitation) -> anyhow::Result<()> {
    let client = global.open()?;
    let Invitation::Invite { group, user, wait } = command;
    let group = client.group(&group)?;
    invite(&client, &group, &user, Duration::from_secs(wait), global.json).await
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let client = global.open()?;
    match command {
        Command::List => {
            for contact in client.contacts()? {
                print_line(&show_contact(&contact, global.json))?;
            }
        }
        Command::Requests => {
            for request in client.contact_requests()? {
                print_line(&show_request(&request, global.json))?;
            }
        }
        Command::Ask { user } => {
            client.ask_contact(&user).await?;
            note(&format!("{user} was asked. `follow` tells what {user} decides."));
        }
        Command::Accept { user, reset } => {
            let accepted = if reset { client.accept_reset(&user)? } else { None };
            let began_anew = accepted.is_some();
            let user = accepted.unwrap_or(user);
            if began_anew {
                note(&format!("{user} is taken for who the server says now."));
            }
            match client.accept_contact(&user).await {
                Err(Error::NoRequest(_)) if began_anew => {}
                accepted => {
                    accepted?;
                    note(&format!("{user} may add you to groups now."));
                }
            }
        }
        Command::Decline { user, silent } => {
            client.decline_contact(&user, silent).await?;
            note(&format!("{user} may not add you to groups."));
        }
        Command::Block { user } => {
            client.block_user(&user).await?;
            note(&format!("{user} cannot add you to groups any more."));
        }
        Command::Unblock { user } => {
            client.unblock_user(&user).await?;
            note(&format!("{user} may ask you again."));
        }
        Command::Verify { user, confirm: true, .. } => {
            client.confirm_safety_number(&user)?;
            note(&format!("{user} is verified."));
        }
        Command::Verify { user, code: Some(code), .. } => {
            client.compare_safety_code(&user, &code).await?;
            note(&format!("It fits: {user} is verified."));
        }
        Command::Verify { user, .. } => {
            let number = client.safety_number(&user).await?;
            print_line(&show_number(&user, &number, global.json)?)?;
        }
    }
    Ok(())
}

fn show_contact(contact: &Contact, json: bool) -> String {
    let facts = [
        ("may_be_added", "you may add them to groups", contact.may_be_added),
        ("may_add", "may add you to groups", contact.may_add),
        ("asked", "was asked", contact.asked),
        ("blocked", "blocked", contact.blocked),
        ("verified", "verified", contact.verified),
        ("reset", "began anew: make sure of them, then `contacts accept --reset`", contact.reset),
    ];
    if json {
        let mut value = json!({ "user": contact.user });
        for (name, _, holds) in facts {
            value[name] = holds.into();
        }
        return to_json(&value);
    }
    let facts: Vec<_> = facts.iter().filter(|(.., holds)| *holds).map(|(_, text, _)| *text).collect();
    format!("{}\t{}", contact.user, facts.join(", "))
}

fn show_request(request: &ReceivedRequest, json: bool) -> String {
    let ReceivedRequest { user, time, verified, declined } = request;
    if json {
        return to_json(&json!({ "user": user, "time": time, "verified": verified, "declined": declined }));
    }
    let state = match (verified, declined) {
        (false, _) => "not verified: anybody may have written this",
        (true, true) => "declined",
        (true, false) => "asks",
    };
    format!("{user}\t{state}")
}

fn show_number(user: &UserName, number: &SafetyNumber, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(to_json(&json!({ "user": user, "number": number.digits(), "code": number.code() })));
    }
    let picture = qr::picture(number.code())?;
    let groups: Vec<_> = number.digits().split(' ').collect();
    let lines: Vec<_> = groups.chunks(4).map(|line| line.join(" ")).collect();
    Ok(format!("{picture}\n{}\n{}", lines.join("\n"), number.code()))
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
