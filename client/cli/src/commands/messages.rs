//! Saying something, and reading what others say.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Subcommand;
use postern_client::{Client, Error, Event, safe_text};
use postern_protocol::problem::ProblemType;

use super::{Global, note, read_stdin};
use crate::output::tell;

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pauses before a server is tried again that cannot be reached: 1, 2, 4, 8, 16 seconds, then
/// 30 each time.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(SHORTEST_PAUSE)
    .with_factor(2.0)
    .with_max_delay(LONGEST_PAUSE)
    .without_max_times();
/// How often in a row `follow --until-idle` tries again.
const PATIENCE: usize = 5;

#[derive(Subcommand)]
pub enum Command {
    /// Send a message; without text, what stdin holds
    Send {
        /// Title or id of the group
        #[arg(allow_hyphen_values = true)]
        group: String,
        text: Option<String>,
    },
    /// Print messages as they come
    Follow {
        /// End when nothing came in for so many seconds
        #[arg(long, num_args = 0..=1, default_missing_value = "2", value_name = "SECONDS")]
        until_idle: Option<u64>,
        /// Print the messages that are there and end
        #[arg(long, conflicts_with = "until_idle")]
        once: bool,
    },
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let client = global.open()?;
    match command {
        Command::Send { group, text } => {
            let group = client.group(&group)?;
            let text = match text {
                Some(text) => text,
                None => read_stdin("the message")?.trim_end().to_owned(),
            };
            anyhow::ensure!(!text.is_empty(), "the message is empty: give a text, or write one to stdin");
            let number = group.keep(&text)?;
            if let Err(error) = group.deliver_own(Some(number)).await {
                match group.unsent()? {
                    0 => {}
                    1 => note("The message is kept: the next `send` or `follow` sends it."),
                    kept => note(&format!(
                        "{kept} messages are kept: the next `send` or `follow` sends them, in order."
                    )),
                }
                return Err(error.into());
            }
            for (_, event) in client.pending_events()? {
                if let Event::Undelivered { group: found, members } = &event
                    && found == group.id()
                {
                    note(&format!("{members} of the members' devices did not get it."));
                }
            }
            Ok(())
        }
        Command::Follow { until_idle, once } => {
            let idle = if once { Some(0) } else { until_idle };
            follow(&client, idle.map(Duration::from_secs), global.json).await
        }
    }
}

async fn follow(client: &Client, idle: Option<Duration>, json: bool) -> anyhow::Result<()> {
    // Events that were not told before come first, whether the server can be reached or not.
    tell(client, json)?;
    if idle.is_some_and(|idle| idle.is_zero()) {
        client.receive(Duration::ZERO).await?;
        tell(client, json)?;
        return Ok(());
    }
    let mut follower = client.follower();
    let mut pauses = PAUSES.build().enumerate();
    let mut quiet_since = Instant::now();
    // It is quiet once all that waited was read, however long that takes.
    let mut is_read = idle.is_none();
    loop {
        let taken = if is_read {
            let wait = idle.map_or(Duration::MAX, |idle| idle.saturating_sub(quiet_since.elapsed()));
            if wait.is_zero() {
                return Ok(());
            }
            follower.next(wait).await
        } else {
            client.receive(Duration::ZERO).await.map(|()| true)
        };
        match taken {
            Ok(came_in) => {
                is_read = true;
                pauses = PAUSES.build().enumerate();
                if came_in {
                    quiet_since = Instant::now();
                }
            }
            Err(error) if error.is_passing() || is_allowance(&error) => {
                let Some((failures, pause)) = pauses.next() else { return Err(error.into()) };
                let error_text = safe_text(&error.to_string());
                note(&format!("{error_text}. Trying again in {} s.", pause.as_secs()));
                if idle.is_some() && failures >= PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(pause).await;
                follower = client.follower();
                is_read = idle.is_none();
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
