//! How things are shown: one line each, as text for people or as JSON for programs. A line
//! counts as told only once it was written, so a closed pipe loses nothing.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use postern_client::{Client, Event, Member, Result};
use postern_protocol::{PublicKey, ds::GroupId};

/// Prints everything that was not told yet. Returns how many lines.
pub fn tell(client: &Client, json: bool) -> anyhow::Result<usize> {
    let events = client.pending_events()?;
    for (id, event) in &events {
        let line = if json { serde_json::to_string(event)? } else { describe(client, event)? };
        print_line(&line)?;
        client.forget_events(*id)?;
    }
    Ok(events.len())
}

pub fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A group's title, or the beginning of its id until the title is known.
pub fn group_name(client: &Client, id: &GroupId) -> Result<String> {
    let groups = client.groups()?;
    let title = groups.into_iter().find(|group| group.id == *id).map(|group| group.title);
    Ok(match title {
        Some(title) if !title.is_empty() => printable(&title),
        _ => short(id),
    })
}

pub fn short(id: &GroupId) -> String {
    id.to_base64url().chars().take(8).collect()
}

/// Enough of a device's key to tell it from a user's other devices.
pub fn device_name(client_key: &PublicKey) -> String {
    client_key.to_base64url().chars().take(8).collect()
}

/// Text of others, without what could move a terminal's cursor or change its colours.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        match character {
            '\n' => shown.push_str("\n    "),
            '\t' => shown.push('\t'),
            _ if character.is_control() => {
                let _ = write!(shown, "{}", character.escape_default());
            }
            _ => shown.push(character),
        }
        shown
    })
}

fn describe(client: &Client, event: &Event) -> Result<String> {
    let prefix = match event.group() {
        Some(group) => format!("[{}] ", group_name(client, group)?),
        None => String::new(),
    };
    let what = match event {
        Event::Message { sender, text, .. } => format!("{sender}: {}", printable(text)),
        Event::Joined { .. } => "you were added".to_owned(),
        Event::Titled { title, .. } => format!("the group is called {}", printable(title)),
        Event::Added { by, members, .. } => format!("{by} added {}", list(members)),
        Event::Removed { by, members, .. } => format!("{by} removed {}", list(members)),
        Event::Updated { by, .. } => format!("{by} renewed its keys"),
        Event::Left { by, .. } => format!("{by} removed you"),
        Event::ContactRequested { user, accepted: true } => {
            format!("{user} may add you to groups now")
        }
        Event::ContactRequested { user, .. } => {
            format!("{user} wanted to add you to a group, and was refused")
        }
        Event::ContactAnswered { user } => format!("{user} may be added to groups now"),
        Event::ContactUnreachable { user } => format!("a device of {user} cannot be reached"),
        Event::Expired { messages } => {
            format!("the server deleted {messages} messages that had waited too long for this device")
        }
        Event::Ignored { reason } => format!("ignored: {reason}"),
    };
    Ok(prefix + &what)
}

fn list(members: &[Member]) -> String {
    members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(printable("two\nlines"), "two\n    lines");
    }
}
