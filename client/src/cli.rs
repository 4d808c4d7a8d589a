//! The commands and their arguments.

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use postern_client::{Client, Error, LinkGrant, LinkRequest, Options};
use postern_protocol::{
    P256PublicKey, Payload, PublicKey, PushAuth,
    ds::GroupId,
    name::UserName,
    problem::ProblemType,
    push::{PushSubscription, Urgency},
    qs::QueueKind,
};
use serde_json::json;

use crate::output::{group_name, print_line, printable, short, tell};

/// How long to wait before trying a server again that is away.
const RETRY: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];

const EXAMPLES: &str = "\
Examples:
  export POSTERN_SERVER=http://127.0.0.1:8008
  postern-client --state alice register alice
  postern-client --state alice create-group climbing
  postern-client --state alice invite climbing bob@example.localhost
  postern-client --state alice send climbing 'See you at six'
  postern-client --state alice follow

  A second device:
  postern-client --state laptop link-request alice@example.localhost > request
  postern-client --state alice  link-approve  < request > grant
  postern-client --state laptop link-complete < grant

Exit status: 0 done, 1 refused or failed, 2 wrong arguments, 75 the server is away: try
again later. Set POSTERN_LOG=debug to see more.";

/// A messenger for Postern: end-to-end encrypted groups from the command line.
#[derive(Parser)]
#[command(name = "postern-client", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Place {
    /// The directory this client keeps its keys and messages in; one for each device
    #[arg(long, global = true, env = "POSTERN_STATE", default_value_os_t = default_state(), value_name = "DIR")]
    state: PathBuf,
    /// The server's address; by default the one given to `register` and `link-request`
    #[arg(long, global = true, env = "POSTERN_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Refuse those who want to add this device to groups
    #[arg(long, global = true)]
    refuse_contacts: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Register a new user with this as the first device
    Register {
        /// alice, or alice@example.org
        name: String,
    },
    /// On a new device: print a request to be added to a user
    LinkRequest {
        /// alice@example.org
        user: UserName,
    },
    /// On a device you have: read such a request from stdin, add the device, print the grant
    LinkApprove,
    /// On the new device: read the grant from stdin and finish
    LinkComplete,
    /// Create a group; only its members learn the title
    CreateGroup { title: String },
    /// Invite all devices of a user into a group
    #[command(long_about = "Invite all devices of a user into a group, or your own other devices by \
                      your own name. The first time, a device of the user answers when it is \
                      online (`follow`); the next `follow` or `invite` here adds them all.")]
    Invite {
        /// Title or id of the group
        group: String,
        /// bob@example.org
        user: UserName,
        /// Receive for up to so many seconds until all devices are added
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
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
    /// Leave a group, with the next thing that somebody else does there
    Leave {
        /// Title or id of the group
        group: String,
    },
    /// Come back into a group that this device can follow no more
    Rejoin {
        /// Title or id of the group
        group: String,
    },
    /// Leave a group and take nothing from it any more
    BlockGroup {
        /// Title or id of the group
        group: String,
    },
    /// Keep a user from adding you to further groups
    BlockUser {
        /// bob@example.org
        user: UserName,
    },
    /// Have this device woken by Web Push (RFC 8030) when something comes
    Push {
        #[command(subcommand)]
        command: PushCommand,
    },
    /// Let a group's messages not wake this device
    Mute {
        /// Title or id of the group
        group: String,
    },
    /// Let a group's messages wake this device again
    Unmute {
        /// Title or id of the group
        group: String,
    },
    /// Renew the keys of this device's mailboxes
    RenewMailboxes,
    /// Delete this device's mailboxes and keys, at the server and here
    LogOut,
    /// Send a message; without text, what stdin holds
    Send {
        /// Title or id of the group
        group: String,
        text: Option<String>,
    },
    /// Print messages as they come
    Follow {
        /// End when nothing came in for so many seconds
        #[arg(long, num_args = 0..=1, default_missing_value = "2", value_name = "SECONDS")]
        until_idle: Option<u64>,
        /// Print what is there and end
        #[arg(long, conflicts_with = "until_idle")]
        once: bool,
    },
    /// Show who this device is
    Whoami,
    /// Show how many tokens are at hand
    Tokens {
        /// Fetch a batch first
        #[arg(long, value_name = "NUMBER", value_parser = ["1", "10", "100"])]
        fetch: Option<String>,
    },
}

#[derive(Subcommand)]
enum PushCommand {
    /// Print the server's key, which subscriptions are made for (applicationServerKey)
    Key,
    /// Push to a subscription; take another one for each mailbox
    On {
        /// The push resource's URL
        endpoint: String,
        /// The user agent's public key, as base64url
        p256dh: String,
        /// The user agent's authentication secret, as base64url
        auth: String,
        /// Wake for contact requests instead of groups
        #[arg(long)]
        contact: bool,
        /// What each push says
        #[arg(long, default_value = "postern", value_name = "TEXT")]
        content: String,
    },
    /// Push no more
    Off,
}

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { place, command } = cli;
    match command {
        Command::Register { name } => {
            let server = place.server()?;
            note("Registering: keys, tokens, mailboxes …");
            let client = Client::register_with(&place.state, server, &name, place.options()).await?;
            whoami(&client, place.json)?;
        }
        Command::LinkRequest { user } => {
            let request = Client::request_link(&place.state, place.server()?, &user)?;
            print_line(&request.to_text())?;
            note("Give this line to `postern-client link-approve` on a device you have.");
        }
        Command::LinkApprove => {
            let request = LinkRequest::from_text(&read_stdin("the new device's request")?)?;
            let grant = place.open()?.approve_link(&request).await?;
            print_line(&grant.to_text())?;
            note("Added. Give this line to `postern-client link-complete` on the new device.");
        }
        Command::LinkComplete => {
            let grant = LinkGrant::from_text(&read_stdin("the grant")?)?;
            note("Completing: tokens, mailboxes …");
            let client = Client::complete_link(&place.state, &grant).await?;
            whoami(&client, place.json)?;
        }
        Command::CreateGroup { title } => {
            let id = place.open()?.create_group(&title).await?;
            if place.json {
                print_line(&json!({ "group": id, "title": title }).to_string())?;
            } else {
                print_line(&format!("Created {} ({})", printable(&title), short(&id)))?;
            }
        }
        Command::Invite { group, user, wait } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            invite(&client, &group, &user, Duration::from_secs(wait), place.json).await?;
        }
        Command::Groups => {
            for group in place.open()?.groups()? {
                let line = if place.json {
                    json!({ "group": group.id, "title": group.title, "active": group.active }).to_string()
                } else {
                    let left = if group.active { "" } else { " (left)" };
                    format!("{} {}{left}", short(&group.id), printable(&group.title))
                };
                print_line(&line)?;
            }
        }
        Command::Members { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            for member in client.members(&group)? {
                let admin = client.is_admin(&group, &member.leaf_key)?;
                let own = member.client_key == Some(client.client_key());
                let line = if place.json {
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
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.remove(&group, &user).await?;
            note(&format!("Removed {user} from {}", group_name(&client, &group)?));
        }
        Command::Update { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.update(&group).await?;
            note(&format!("Keys renewed in {}", group_name(&client, &group)?));
        }
        Command::Leave { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.leave(&group).await?;
            note(&format!("Leaving {}", group_name(&client, &group)?));
        }
        Command::Rejoin { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.rejoin(&group).await?;
            note(&format!("Back in {}", group_name(&client, &group)?));
        }
        Command::BlockGroup { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.block_group(&group).await?;
            note(&format!("Nothing comes from {} any more", group_name(&client, &group)?));
        }
        Command::BlockUser { user } => {
            place.open()?.block_user(&user).await?;
            note(&format!("{user} cannot add you to groups any more"));
        }
        Command::Push { command } => push(&place.open()?, command).await?,
        Command::Mute { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.set_group_push(&group, None).await?;
            note(&format!("{} wakes this device no more", group_name(&client, &group)?));
        }
        Command::Unmute { group } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            client.set_group_push(&group, Some(Urgency::Normal)).await?;
            note(&format!("{} wakes this device", group_name(&client, &group)?));
        }
        Command::RenewMailboxes => {
            place.open()?.renew_mailbox_keys().await?;
            note("Keys of the mailboxes renewed");
        }
        Command::LogOut => {
            let client = place.open()?;
            client.log_out().await?;
            drop(client);
            std::fs::remove_dir_all(&place.state)
                .with_context(|| format!("cannot delete {}", place.state.display()))?;
            note("This device has nothing at the server any more, and nothing here.");
        }
        Command::Send { group, text } => {
            let client = place.open()?;
            let group = client.find_group(&group)?.id;
            let text = match text {
                Some(text) => text,
                None => read_stdin("the message")?.trim_end().to_owned(),
            };
            anyhow::ensure!(!text.is_empty(), "there is nothing to send");
            if let Err(error) = client.send(&group, &text).await {
                if client.outstanding(&group).is_ok_and(|outstanding| outstanding.is_some()) {
                    note("The message is kept: the next `send` or `follow` sends it.");
                }
                return Err(error.into());
            }
        }
        Command::Follow { until_idle, once } => {
            let client = place.open()?;
            let idle = if once { Some(0) } else { until_idle };
            follow(&client, idle.map(Duration::from_secs), place.json).await?;
        }
        Command::Whoami => whoami(&place.open()?, place.json)?,
        Command::Tokens { fetch } => {
            let client = place.open()?;
            if let Some(number) = fetch {
                client.wallet().fetch(number.parse()?).await?;
            }
            let count = client.wallet().count()?;
            let line = if place.json { json!({ "tokens": count }).to_string() } else { count.to_string() };
            print_line(&line)?;
        }
    }
    Ok(())
}

impl Place {
    fn options(&self) -> Options {
        Options { accept_contacts: !self.refuse_contacts, server: self.server.clone(), ..Options::default() }
    }

    fn open(&self) -> anyhow::Result<Client> {
        Ok(Client::open_with(&self.state, self.options())?)
    }

    fn server(&self) -> anyhow::Result<&str> {
        self.server.as_deref().context("name the server with --server URL or POSTERN_SERVER")
    }
}

async fn push(client: &Client, command: PushCommand) -> anyhow::Result<()> {
    match command {
        PushCommand::Key => {
            let key = client.application_server_key().await?.context("this server sends no pushes")?;
            print_line(&key.to_base64url())?;
        }
        PushCommand::On { endpoint, p256dh, auth, contact, content } => {
            let subscription = PushSubscription {
                endpoint,
                p256dh: P256PublicKey::from_base64url(&p256dh).context("p256dh is no such key")?,
                auth: PushAuth::from_base64url(&auth).context("auth is no such secret")?,
                content: Payload::new(content.into_bytes()),
            };
            let kind = if contact { QueueKind::Contact } else { QueueKind::Group };
            client.wake_by_push(kind, Some(subscription)).await?;
            note("This device is woken from now on.");
        }
        PushCommand::Off => {
            for kind in [QueueKind::Group, QueueKind::Contact] {
                client.wake_by_push(kind, None).await?;
            }
            note("This device is not woken any more.");
        }
    }
    Ok(())
}

async fn invite(
    client: &Client,
    group: &GroupId,
    user: &UserName,
    wait: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    let invited = client.invite(group, user).await?;
    let (mut members, all) = (invited.members, invited.members + invited.waiting);
    let mut follower = client.follower();
    while members < all {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        follower.next(left).await?;
        tell(client, json)?;
        let added = client.members(group)?;
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

async fn follow(client: &Client, idle: Option<Duration>, json: bool) -> anyhow::Result<()> {
    // What was not told before comes first, whether the server is there or not.
    tell(client, json)?;
    if idle.is_some_and(|idle| idle.is_zero()) {
        client.receive(Duration::ZERO).await?;
        tell(client, json)?;
        return Ok(());
    }
    let mut follower = client.follower();
    let mut failures = 0;
    let mut quiet_since = Instant::now();
    loop {
        let wait = match idle {
            None => Duration::MAX,
            Some(idle) => idle.saturating_sub(quiet_since.elapsed()),
        };
        if wait.is_zero() {
            return Ok(());
        }
        match follower.next(wait).await {
            Ok(came_in) => {
                failures = 0;
                if came_in {
                    quiet_since = Instant::now();
                }
            }
            Err(error) if error.is_passing() || is_allowance(&error) => {
                let pause = RETRY[failures.min(RETRY.len() - 1)];
                failures += 1;
                note(&format!("{error}. Trying again in {} s.", pause.as_secs()));
                if idle.is_some() && failures > RETRY.len() {
                    return Err(error.into());
                }
                tokio::time::sleep(pause).await;
                follower = client.follower();
            }
            Err(error) => {
                tell(client, json)?;
                return Err(error.into());
            }
        }
        tell(client, json)?;
    }
}

fn is_allowance(error: &Error) -> bool {
    error.problem() == Some(ProblemType::AllowanceUsedUp)
}

fn whoami(client: &Client, json: bool) -> anyhow::Result<()> {
    let (user, server, device) = (client.user(), client.server(), client.client_key());
    let line = if json {
        json!({ "user": user, "device": device, "server": server }).to_string()
    } else {
        format!("{user} on {server}, device {}", device_name(&device))
    };
    Ok(print_line(&line)?)
}

/// Enough of a device's key to tell it from a user's others.
fn device_name(client_key: &PublicKey) -> String {
    client_key.to_base64url().chars().take(8).collect()
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
fn note(text: &str) {
    eprintln!("{text}");
}

fn default_state() -> PathBuf {
    let home = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state")));
    home.unwrap_or_default().join("postern-client")
}
