//! This device and its user's account: registration, reset, who it is, its tokens and mailboxes, name, and end.

use std::{io::IsTerminal as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use postern_client::{
    Client, ClientBuilder, Farewell, OwnerProof, RecoveryKey, StillIn, recovery_key_of, recovery_words,
    safe_text,
};
use postern_protocol::{
    admission::{Admission, IdToken, InviteCode},
    name::Domain,
};
use serde_json::json;

use super::{Global, note, read_stdin};
use crate::{
    output::{device_name, print_line, to_json},
    sign_in,
};

#[derive(Subcommand)]
pub enum Command {
    /// Register a new user with this as the first device
    #[command(
        long_about = "Register a new user with this as the first device. A server that does not let everybody \
                      in asks for an invite, or for a login at its identity provider: `register alice --sign-in` \
                      shows the address of the login page, to be opened in a browser on this machine. Where that is \
                      no use, `register alice --print-nonce` shows the nonce with which an ID token has to be \
                      asked for in another way, and `register alice --id-token FILE` brings the token."
    )]
    Register {
        /// alice, or alice@example.org
        name: String,
        /// Ask for a passphrase, under which this device's state is encrypted
        #[arg(long)]
        passphrase: bool,
        #[command(flatten)]
        proof: Proof,
    },
    /// Make an invite, by which somebody can register at this server
    MakeInvite,
    /// Begin anew as a user who lost all devices, with this as the first device
    #[command(
        long_about = "Begin anew as a user who lost all devices, with this as the first device. Reads the \
                      recovery key from stdin; where the server lets people in by a login, --sign-in does instead. \
                      Groups, contacts and messages of the lost devices are not here; contacts see that the \
                      identity was begun anew, and have to accept it."
    )]
    Reset {
        /// alice, or alice@example.org
        name: String,
        /// Ask for a passphrase, under which this device's state is encrypted
        #[arg(long)]
        passphrase: bool,
        #[command(flatten)]
        login: Login,
    },
    /// Show the recovery key, once; with --replace, make another one
    #[command(
        long_about = "Show the recovery key that was made on this device, as long as it was not shown before. With \
                      --replace, make another one in its place: by the old one, read from stdin, or, where the \
                      server lets people in by a login, by --sign-in. The old one is worth nothing then."
    )]
    RecoveryKey {
        /// Read the old key from stdin, and make another in its place
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        login: Login,
    },
    /// Take another name; reads the recovery key from stdin
    #[command(
        long_about = "Take another name at the same server. Reads the recovery key from stdin; where the server lets \
                      people in by a login, --sign-in does instead. Contacts and groups are told, and see the same \
                      user; nobody else gets the old name for a time."
    )]
    Rename {
        /// alice, or alice@example.org
        name: String,
        #[command(flatten)]
        login: Login,
    },
    /// Delete the account with everything that the server has of it; reads the recovery key from stdin
    #[command(
        long_about = "Delete the account with everything that the server has of it, and this device's state. Reads \
                      the recovery key from stdin; where the server lets people in by a login, --sign-in does \
                      instead. This device leaves all groups first, and tells contacts. Nothing brings the account \
                      back; its name is free for others."
    )]
    DeleteAccount {
        #[command(flatten)]
        login: Login,
    },
    /// Show which user and device this is
    Whoami,
    /// Show how many tokens are at hand
    Tokens {
        /// Fetch a batch of so many first
        #[arg(long, value_name = "NUMBER", value_parser = ["1", "10", "100"])]
        fetch: Option<String>,
    },
    /// Renew the keys of this device's mailboxes
    RenewMailboxes,
    /// Accept that the root of a domain changed, as its operator told you in another way
    AcceptRoot {
        /// The domain [default: this user's]
        domain: Option<Domain>,
    },
    /// Accept that the homeserver of another domain has new keys, as a friend there or its operator told you in another way
    AcceptHomeserver {
        /// The domain
        domain: Domain,
    },
    /// Delete this device's mailboxes and keys, at the server and here
    #[command(
        long_about = "Delete this device's mailboxes and keys, at the server and here. Your other devices are told: the \
                      first one that receives it removes this one from your devices and from your groups. If none of \
                      them can be told, `devices remove` on one of them does the same."
    )]
    LogOut,
}

/// The proof by which a server lets somebody in.
#[derive(Args)]
pub struct Proof {
    /// The code of an invite
    #[arg(long, value_name = "CODE", conflicts_with_all = ["sign_in", "id_token", "print_nonce"], allow_hyphen_values = true)]
    invite: Option<InviteCode>,
    #[command(flatten)]
    login: Login,
}

/// A login at the server's identity provider.
#[derive(Args)]
#[group(multiple = false)]
pub struct Login {
    /// Log in at the server's identity provider, in a browser on this machine
    #[arg(long)]
    sign_in: bool,
    /// A file with an ID token of the identity provider
    #[arg(long, value_name = "FILE")]
    id_token: Option<PathBuf>,
    /// Show the nonce that such an ID token has to have, and do nothing else yet
    #[arg(long)]
    print_nonce: bool,
}

impl Proof {
    async fn admission(&self, builder: &ClientBuilder, name: &str) -> anyhow::Result<Admission> {
        if let Some(code) = &self.invite {
            return Ok(Admission::Invite(code.clone()));
        }
        if self.login.sign_in {
            let nonce = builder.registration_nonce(name).await?;
            let token = sign_in::id_token(builder, nonce, sign_in::Login::AnySession).await?;
            return Ok(Admission::IdToken(token));
        }
        Ok(self.login.given_in_file()?.map_or(Admission::Open, Admission::IdToken))
    }
}

/// The proof that an account's owner shows.
enum Shown {
    RecoveryKey(RecoveryKey),
    IdToken(IdToken),
    /// Nothing yet: the nonce was asked for.
    Nonce,
}

impl Login {
    fn is_asked_for(&self) -> bool {
        self.sign_in || self.print_nonce || self.id_token.is_some()
    }

    /// The ID token in the file that was named.
    fn given_in_file(&self) -> anyhow::Result<Option<IdToken>> {
        let Some(file) = &self.id_token else { return Ok(None) };
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Some(text.trim().parse()?))
    }

    /// The owner's proof, which is the recovery key unless a login was asked for; `nonce` is that of the ID token.
    async fn proof(
        &self,
        global: &Global,
        builder: &ClientBuilder,
        nonce: impl AsyncFnOnce() -> postern_client::Result<String>,
    ) -> anyhow::Result<Shown> {
        if self.print_nonce {
            print_nonce(global, nonce().await?, "with the time of the login (max_age), ")?;
            return Ok(Shown::Nonce);
        }
        if self.sign_in {
            return Ok(Shown::IdToken(
                sign_in::id_token(builder, nonce().await?, sign_in::Login::Anew).await?,
            ));
        }
        Ok(match self.given_in_file()? {
            Some(token) => Shown::IdToken(token),
            None => Shown::RecoveryKey(read_recovery_key()?),
        })
    }
}

impl Shown {
    /// The proof; none if only the nonce was asked for.
    fn proof(&self) -> Option<OwnerProof<'_>> {
        match self {
            Self::RecoveryKey(key) => Some(key.into()),
            Self::IdToken(token) => Some(token.into()),
            Self::Nonce => None,
        }
    }
}

fn print_nonce(global: &Global, nonce: String, how: &str) -> anyhow::Result<()> {
    note(&format!("Ask for an ID token with this nonce, {how}and bring it with --id-token:"));
    let line = if global.json { to_json(&json!({ "nonce": nonce })) } else { nonce };
    Ok(print_line(&line)?)
}

pub async fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Register { name, proof, passphrase } if proof.login.print_nonce => {
            let nonce = global.new_builder(passphrase)?.registration_nonce(&name).await?;
            print_nonce(global, nonce, "")
        }
        Command::Register { name, proof, passphrase } => {
            let builder = global.new_builder(passphrase)?;
            let admission = proof.admission(&builder, &name).await?;
            note("Registering: keys, tokens, mailboxes …");
            let client = builder.admission(admission).register(&name).await?;
            let Some(key) = client.recovery_key()? else { return whoami(&client, global.json) };
            if global.json {
                let words = recovery_words(&key);
                let (user, device, server) = (client.user(), client.client_key(), client.server());
                let line = json!({ "user": user, "device": device, "server": server, "recovery_key": words });
                print_line(&to_json(&line))?;
                return Ok(client.forget_recovery_key()?);
            }
            whoami(&client, false)?;
            show_recovery_key(&client, &key, false)
        }
        Command::MakeInvite => {
            let (code, not_after) = global.open()?.make_invite().await?;
            let days = not_after.saturating_sub(now()).div_ceil(24 * 60 * 60);
            note(&format!("Good for one registration, and for {days} days: `register NAME --invite {code}`"));
            let (code, not_after) = (code.to_string(), not_after);
            let line = match global.json {
                true => to_json(&json!({ "invite": code, "not_after": not_after })),
                false => code,
            };
            Ok(print_line(&line)?)
        }
        Command::Reset { name, passphrase, login } => {
            let builder = global.new_builder(passphrase)?;
            let shown = login.proof(global, &builder, async || builder.reset_nonce(&name).await).await?;
            let Some(proof) = shown.proof() else { return Ok(()) };
            note("Beginning anew: keys, tokens, mailboxes …");
            let client = builder.reset(&name, proof).await?;
            note(
                "The lost devices are nothing to anybody any more. Groups, contacts and messages are not here: ask to be \
                 invited again. Contacts are told that your identity was begun anew.",
            );
            whoami(&client, global.json)
        }
        Command::RecoveryKey { replace, login } => {
            anyhow::ensure!(
                replace || !login.is_asked_for(),
                "a login makes another recovery key: with --replace"
            );
            let client = global.open()?;
            let key = if replace {
                let at = at_server_of(global, &client);
                let shown = login.proof(global, &at, async || client.recovery_key_nonce()).await?;
                let Some(proof) = shown.proof() else { return Ok(()) };
                client.replace_recovery_key(proof).await?
            } else {
                client.recovery_key()?.context(
                    "the recovery key was shown already; `recovery-key --replace` makes another one",
                )?
            };
            show_recovery_key(&client, &key, global.json)
        }
        Command::Rename { name, login } => {
            let client = global.open()?;
            let at = at_server_of(global, &client);
            let shown = login.proof(global, &at, async || client.rename_nonce(&name)).await?;
            let Some(proof) = shown.proof() else { return Ok(()) };
            whoami(&client.rename(&name, proof).await?, global.json)
        }
        Command::DeleteAccount { login } => {
            let client = global.open()?;
            let at = at_server_of(global, &client);
            let shown = login.proof(global, &at, async || client.deletion_nonce()).await?;
            let Some(proof) = shown.proof() else { return Ok(()) };
            let still_in = client.delete_account(proof).await?;
            drop(client);
            for StillIn { group, title, reason } in still_in {
                let name = if title.is_empty() { group.to_base64url() } else { title };
                note(&format!("Not wholly out of the group {name}: {reason}"));
            }
            remove_state(global)?;
            note("The server has nothing left of the account, and nothing is left here.");
            Ok(())
        }
        Command::Whoami => whoami(&global.open()?, global.json),
        Command::Tokens { fetch } => {
            let client = global.open()?;
            if let Some(number) = fetch {
                client.wallet().fetch(number.parse()?).await?;
            }
            let count = client.wallet().count()?;
            let line = if global.json { to_json(&json!({ "tokens": count })) } else { count.to_string() };
            Ok(print_line(&line)?)
        }
        Command::RenewMailboxes => {
            global.open()?.renew_mailbox_keys().await?;
            note("Keys of the mailboxes renewed.");
            Ok(())
        }
        Command::AcceptRoot { domain } => {
            let client = global.open()?;
            let domain = domain.as_ref().unwrap_or_else(|| client.user().domain());
            client.accept_root(domain)?;
            note("The root that the server shows next is the one from then on.");
            Ok(())
        }
        Command::AcceptHomeserver { domain } => {
            global.open()?.accept_homeserver(&domain)?;
            note("The keys that the homeserver shows next are the ones from then on.");
            Ok(())
        }
        Command::LogOut => {
            let client = global.open()?;
            let device = device_name(&client.client_key());
            let farewell = client.log_out().await.inspect_err(|error| {
                if error.is_passing() {
                    note(&format!(
                        "This device is not logged out yet. `log-out` goes on once the server can be reached. If you cannot \
                         wait, delete {} and remove the device on another one: `devices remove {device}`.",
                        global.state.display()
                    ));
                }
            })?;
            drop(client);
            remove_state(global)?;
            note("This device has nothing left at the server, and nothing here.");
            match farewell {
                Farewell::Told { .. } => {
                    note("Your other devices were told: the first one that receives it removes this one.");
                }
                Farewell::Last => note("You have no other device in use: `reset` begins anew with one."),
                Farewell::Removed => {}
                Farewell::Untold { reason } => note(&format!(
                    "Your other devices could not be told: {}. Remove this one there: `devices remove {device}`.",
                    safe_text(&reason)
                )),
            }
            Ok(())
        }
    }
}

/// A builder that knows the server of a client that is there already.
fn at_server_of(global: &Global, client: &Client) -> ClientBuilder {
    Client::builder(&global.state).server(client.server())
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn remove_state(global: &Global) -> anyhow::Result<()> {
    std::fs::remove_dir_all(&global.state)
        .with_context(|| format!("cannot delete {}", global.state.display()))
}

/// The 24 words, from stdin; a terminal does not show them.
fn read_recovery_key() -> anyhow::Result<RecoveryKey> {
    let words = if std::io::stdin().is_terminal() {
        rpassword::prompt_password("Recovery key (24 words): ").context("cannot read the recovery key")?
    } else {
        read_stdin("the recovery key")?
    };
    Ok(recovery_key_of(&words)?)
}

/// Shows the recovery key that was made here, and has the client forget it.
fn show_recovery_key(client: &Client, key: &RecoveryKey, json: bool) -> anyhow::Result<()> {
    let words = recovery_words(key);
    let line =
        if json { to_json(&json!({ "recovery_key": words })) } else { format!("Recovery key: {words}") };
    print_line(&line)?;
    note(
        "Write these 24 words down and keep them safe: they are not shown again. Whoever has them can take the account \
         over; without them nobody can if all devices are lost.",
    );
    Ok(client.forget_recovery_key()?)
}

/// Shows which user and device a client is.
pub fn whoami(client: &Client, json: bool) -> anyhow::Result<()> {
    let (user, server, device) = (client.user(), client.server(), client.client_key());
    let line = if json {
        to_json(&json!({ "user": user, "device": device, "server": server }))
    } else {
        format!("{user} on {server}, device {}", device_name(&device))
    };
    Ok(print_line(&line)?)
}
