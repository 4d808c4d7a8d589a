//! Adding a device to a user, in three steps on two devices.

use clap::Subcommand;
use postern_client::{LinkGrant, LinkRequest};
use postern_protocol::name::UserName;

use super::{Global, account::whoami, note, read_stdin};
use crate::output::print_line;

#[derive(Subcommand)]
pub enum Command {
    /// On a new device: print a request to be added to a user
    LinkRequest {
        /// alice@example.org
        user: UserName,
    },
    /// On a device you have: read such a request from stdin, add the device, print the grant
    LinkApprove,
    /// On the new device: read the grant from stdin and finish
    LinkComplete,
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::LinkRequest { user } => {
            let request = global.builder().request_link(&user)?;
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
            note("Completing: tokens, mailboxes …");
            let client = global.builder().complete_link(&grant).await?;
            whoami(&client, global.json)?;
        }
    }
    Ok(())
}
