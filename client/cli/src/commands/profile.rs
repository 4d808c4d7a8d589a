//! Profiles: what users show of themselves.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, builder::BoolishValueParser};
use postern_client::{ForContacts, ProfileChange, UserProfile, safe_line, safe_text};
use postern_protocol::name::UserName;
use serde_json::json;

use super::{Global, note};
use crate::output::{print_line, to_json};

#[derive(Subcommand)]
pub enum Command {
    /// Show or change profiles
    #[command(subcommand)]
    Profile(Profile),
}

#[derive(Subcommand)]
pub enum Profile {
    /// Show a user's profile, or your own
    Show {
        /// bob@example.org
        user: Option<UserName>,
        /// Write the picture to this file
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
    },
    /// Change your own profile; what is not given stays
    Set {
        /// The name that everybody sees
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The text that everybody sees
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// A picture: PNG, JPEG or WebP; an empty path takes it away
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
        /// The name that contacts and groups see
        #[arg(long, value_name = "NAME")]
        contact_name: Option<String>,
        /// The text that contacts and groups see
        #[arg(long, value_name = "TEXT")]
        contact_text: Option<String>,
        /// Whether everybody can look you up, or contacts and members of your groups only
        #[arg(long, value_name = "yes|no", value_parser = BoolishValueParser::new())]
        discoverable: Option<bool>,
    },
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    let Command::Profile(command) = command;
    let client = global.open()?;
    match command {
        Profile::Show { user, picture } => {
            let user = user.unwrap_or_else(|| client.user().clone());
            client.look_up(&user).await?;
            let profile = client.profile(&user)?;
            if let Some(path) = picture {
                let picture = client.picture(&user).await?.context("the profile has no picture")?;
                std::fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
            }
            if global.json {
                return Ok(print_line(&to_json(&json!({ "user": user, "profile": profile })))?);
            }
            show(&user, &profile)
        }
        Profile::Set { name, text, picture, contact_name, contact_text, discoverable } => {
            let picture = picture
                .map(|path| match path.as_os_str().is_empty() {
                    true => Ok(Vec::new()),
                    false => std::fs::read(&path).with_context(|| format!("cannot read {}", path.display())),
                })
                .transpose()?;
            let for_contacts = (contact_name.is_some() || contact_text.is_some()).then(|| {
                let old = client.profile(client.user()).ok().and_then(|profile| profile.for_contacts);
                let old = old.unwrap_or_default();
                ForContacts {
                    display_name: contact_name.unwrap_or(old.display_name),
                    text: contact_text.unwrap_or(old.text),
                }
            });
            let change = ProfileChange { display_name: name, text, picture, for_contacts, discoverable };
            client.change_profile(&change).await?;
            note("The profile is changed.");
            Ok(())
        }
    }
}

fn show(user: &UserName, profile: &UserProfile) -> anyhow::Result<()> {
    print_line(&format!("{user}: {}", safe_line(&profile.display_name)))?;
    if !profile.text.is_empty() {
        print_line(&safe_text(&profile.text))?;
    }
    if let Some(picture) = profile.picture {
        print_line(&format!("a picture of {} bytes", picture.bytes))?;
    }
    if !profile.discoverable {
        print_line("only contacts and members of groups can look this user up")?;
    }
    if let Some(part) = &profile.for_contacts {
        print_line(&format!("to contacts: {}", safe_line(&part.display_name)))?;
        if !part.text.is_empty() {
            print_line(&safe_text(&part.text))?;
        }
    }
    Ok(())
}
