//! The user's devices: which there are, removing one, and adding one: over the server, or where that cannot be, in three
//! steps on two devices.

use clap::Subcommand;
use postern_client::{Audit, Client, Device, DeviceState, LinkCode, LinkGrant, LinkRequest, safe_line};
use postern_protocol::name::UserName;
use serde_json::json;

use super::{Global, account::whoami, note, read_stdin};
use crate::{
    output::{device_name, print_line, to_json},
    qr,
};

#[derive(Subcommand)]
pub enum Command {
    /// List your devices, name one, remove one, or check their history
    Devices {
        #[command(subcommand)]
        command: Option<DevicesCommand>,
    },
    /// Add a device: without a code, on a device you have; with the code that it shows, on the new one
    Link {
        /// 305718-river-orange, or what a QR picture of the other device says
        code: Option<LinkCode>,
        /// On the new device: ask for a passphrase, under which its state is encrypted
        #[arg(long, requires = "code")]
        passphrase: bool,
    },
    /// On a new device that cannot use `link`: print a request to be added to a user
    LinkRequest {
        /// alice@example.org
        user: UserName,
        /// Ask for a passphrase, under which this device's state is encrypted
        #[arg(long)]
        passphrase: bool,
    },
    /// On a device you have: read such a request from stdin, add the device, print the grant
    LinkApprove,
    /// On the new device: read the grant from stdin and finish
    LinkComplete,
}

#[derive(Subcommand)]
pub enum DevicesCommand {
    /// List your devices: this is the default
    List,
    /// Call a device something, for yourself
    Name {
        /// Its name, or the beginning of its key
        #[arg(allow_hyphen_values = true)]
        device: String,
        /// The new name; empty for none
        name: String,
    },
    /// Remove a device: nobody takes it for yours any more
    #[command(
        long_about = "Remove a device: nobody takes it for yours any more, and it is in your groups no more. A device that \
                      was added and never confirmed it is removed like this, too."
    )]
    Remove {
        /// Its name, or the beginning of its key
        #[arg(allow_hyphen_values = true)]
        device: String,
    },
    /// Check the whole history of your devices, or of another user's, back to the first one
    #[command(
        long_about = "Fetch the whole history of a user's devices, back to the first one and through every reset, and \
                      check that it leads to what this device was shown of it before. Other commands check what is new; \
                      this one finds out whether the server rewrote what is old."
    )]
    Audit {
        /// bob@example.org; by default yourself
        user: Option<UserName>,
    },
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Devices { command } => {
            let client = global.open()?;
            match command.unwrap_or(DevicesCommand::List) {
                DevicesCommand::List => list(&client, global.json).await?,
                DevicesCommand::Name { device, name } => {
                    client.name_device(&client.device(&device).await?.client_key, &name)?;
                }
                DevicesCommand::Audit { user } => {
                    let user = user.unwrap_or_else(|| client.user().clone());
                    print_line(&show_audit(&user, &client.audit(&user).await?, global.json))?;
                }
                DevicesCommand::Remove { device } => {
                    let device = client.device(&device).await?;
                    client.remove_device(&device.client_key).await?;
                    note(&format!("{} is not one of your devices any more.", called(&device)));
                }
            }
        }
        Command::Link { code: None, .. } => offer_link(&global.open()?, global.json).await?,
        Command::Link { code: Some(code), passphrase } => {
            let builder = global.new_builder(passphrase)?;
            note("Linking: keys, tokens, mailboxes …");
            let client = builder.link(&code).await?;
            whoami(&client, global.json)?;
        }
        Command::LinkRequest { user, passphrase } => {
            let request = global.new_builder(passphrase)?.request_link(&user)?;
            print_line(&request.to_text())?;
            note("Give this line to `postern-client link-approve` on a device you have.");
        }
        Command::LinkApprove => {
            let request = LinkRequest::from_text(&read_stdin("the new device's request")?)?;
            let grant = global.open()?.approve_link(&request).await?;
            print_line(&grant.to_text())?;
            note("Added. Give this line to `postern-client link-complete` on the new device.");
        }
        Command::LinkComplete => {
            let grant = LinkGrant::from_text(&read_stdin("the grant")?)?;
            let builder = global.builder()?;
            note("Completing: tokens, mailboxes …");
            let client = builder.complete_link(&grant).await?;
            whoami(&client, global.json)?;
        }
    }
    Ok(())
}

/// Shows the code of an offer, and waits for the new device.
async fn offer_link(client: &Client, json: bool) -> anyhow::Result<()> {
    let offer = client.offer_link().await?;
    match offer.code() {
        None => note("Another device has come already: going on with it."),
        Some(code) if json => {
            let uri = code.with_server(client.server());
            print_line(&to_json(
                &json!({ "code": code.to_string(), "uri": uri, "seconds": offer.ends_in() }),
            ))?;
        }
        Some(code) => {
            let minutes = offer.ends_in().div_ceil(60);
            note(&qr::picture(&code.with_server(client.server()))?);
            note(&format!("On the new device, within {minutes} minutes and with one try:"));
            print_line(&format!("postern-client --server {} link {code}", client.server()))?;
        }
    }
    let device = offer.finish().await?;
    let line = match json {
        true => to_json(&json!({ "added": device })),
        false => format!("added the device {}", device_name(&device)),
    };
    Ok(print_line(&line)?)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    for device in client.devices().await? {
        if json {
            print_line(&to_json(&serde_json::to_value(&device)?))?;
            continue;
        }
        let state = match device.state {
            DeviceState::Confirmed => "",
            DeviceState::Pending => ", was added and did not confirm it",
            DeviceState::Silent => ", was not in use for long: others do not see it",
        };
        let this = if device.this { ", this one" } else { "" };
        print_line(&format!("{}{state}{this}", called(&device)))?;
    }
    Ok(())
}

fn show_audit(user: &UserName, audit: &Audit, json: bool) -> String {
    let Audit { incarnations, commits, founder, eid } = audit;
    if json {
        return to_json(&json!({
            "user": user, "founder": founder, "resets": incarnations - 1, "changes": commits, "eid": eid,
        }));
    }
    let began = device_name(founder);
    format!("{user}: the history holds. Begun by {began}, resets: {}, changes: {commits}", incarnations - 1)
}

/// A device's name, if it has one, and the beginning of its key.
fn called(device: &Device) -> String {
    let key = device_name(&device.client_key);
    device.name.as_ref().map_or(key.clone(), |name| format!("{} ({key})", safe_line(name)))
}
