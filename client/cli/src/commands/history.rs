//! The history of a group, as this device keeps it.

use clap::Args;
use postern_client::{Client, HistoryEntry};
use serde_json::json;

use super::{Global, note};
use crate::output::{describe, print_line, to_json};

#[derive(Args)]
pub struct Command {
    /// Title or id of the group
    #[arg(allow_hyphen_values = true)]
    group: String,
    /// Show so many, the last ones
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    limit: u64,
    /// Delete all that is kept of this group on this device
    #[arg(long)]
    forget: bool,
    /// Keep nothing of this group from now on
    #[arg(long, conflicts_with = "on")]
    off: bool,
    /// Keep what comes in this group again
    #[arg(long)]
    on: bool,
}

pub fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    let client = global.open()?;
    let group = client.group(&command.group)?;
    if command.off || command.on {
        group.keep_history(command.on)?;
        note(if command.on { "The group's history is kept." } else { "Nothing more is kept of this group." });
    }
    if command.forget {
        group.forget_history()?;
        note("All that was kept of this group is deleted.");
    }
    if command.off || command.on || command.forget {
        return Ok(());
    }
    for entry in group.history(command.limit)? {
        print_line(&line(&client, &entry, global.json)?)?;
    }
    Ok(())
}

fn line(client: &Client, entry: &HistoryEntry, json: bool) -> anyhow::Result<String> {
    if !json {
        return Ok(format!("{} {}", entry.local_time, describe(client, &entry.event)?));
    }
    let mut event = serde_json::to_value(&entry.event)?;
    if let Some(fields) = event.as_object_mut() {
        fields.insert("time".to_owned(), json!(entry.time));
    }
    Ok(to_json(&event))
}
