//! How things are shown: one line each, as text for people or as JSON for programs. A line
//! counts as told only once it was written, so a closed pipe loses nothing.

use std::io::{self, Write as _};

use postern_client::{Client, Event, Member, Result, safe_json, safe_line, safe_text};
use postern_protocol::{PublicKey, ds::GroupId, qs::QueueKind};

/// Prints everything that was not told yet. Returns how many lines.
pub fn tell(client: &Client, json: bool) -> anyhow::Result<usize> {
    let events = client.pending_events()?;
    for (id, event) in &events {
        let line = if json { safe_json(&serde_json::to_string(event)?) } else { describe(client, event)? };
        print_line(&line)?;
        client.forget_events(*id)?;
    }
    Ok(events.len())
}

/// Standard error for the log, whose lines hold what servers say.
#[derive(Default)]
pub struct SafeStderr;

impl io::Write for SafeStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let shown = text.split_inclusive('\n').map(|part| match part.strip_suffix('\n') {
            Some(whole) => safe_line(whole) + "\n",
            None => safe_line(part),
        });
        io::stderr().write_all(shown.collect::<String>().as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A JSON value on one line.
pub fn to_json(value: &serde_json::Value) -> String {
    safe_json(&value.to_string())
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
        Some(title) if !title.is_empty() => safe_line(&title),
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

/// An event in a line for people.
pub fn describe(client: &Client, event: &Event) -> Result<String> {
    let prefix = match event.group() {
        Some(group) => format!("[{}] ", group_name(client, group)?),
        None => String::new(),
    };
    let what = match event {
        Event::Message { sender, text, .. } => format!("{sender}: {}", safe_text(text)),
        Event::Joined { .. } => "you were added".to_owned(),
        Event::Titled { title, .. } => format!("the group is called {}", safe_line(title)),
        Event::Added { by, members, .. } => format!("{by} added {}", list(members)),
        Event::Removed { by, members, .. } => format!("{by} removed {}", list(members)),
        Event::Updated { by, .. } => format!("{by} renewed its keys"),
        Event::Left { by, .. } => format!("{by} removed you"),
        Event::ContactRequested { user, accepted: true, .. } => format!("{user} may add you to groups now"),
        Event::ContactRequested { user, verified: false, .. } => format!(
            "somebody who says to be {user} asks to add you to groups; the server does not confirm who it is"
        ),
        Event::ContactRequested { user, .. } => format!(
            "{user} asks to add you to groups: `contacts accept {user}`, or `contacts decline {user}`"
        ),
        Event::ContactAnswered { user } => format!("{user} may be added to groups now"),
        Event::ContactDeclined { user } => format!("{user} does not want to be added to groups"),
        Event::ContactDeleted { user } => format!("{user} deleted their account"),
        Event::ContactMissing { user } => format!(
            "the server knows no {user} any more: the account was deleted, or has another name, or hides from you"
        ),
        Event::ContactUnreachable { user } => format!("a device of {user} cannot be reached"),
        Event::IdentityReset { user, name: None } => format!(
            "{user} began anew with other devices. Make sure in another way that it is still the same person; \
             `contacts accept {user} --reset` accepts it"
        ),
        Event::IdentityReset { user, name: Some(name) } => format!(
            "{user} began anew with other devices, and these are called {name} now: none that you know says so. Make sure in \
             another way that it is still the same person; `contacts accept {name} --reset` accepts it, and `contacts verify \
             {name}` shows the safety number to compare"
        ),
        Event::IdentitySplit { user } => format!(
            "the server shows several histories of {user}'s devices: it, or somebody on the way, lies. Compare \
             with {user} in another way, and tell the operator"
        ),
        Event::IdentityHidden { user } => format!(
            "for a day the server has shown nothing of {user}'s devices that holds, though it is there: an older list than \
             before, say. It could keep back that a device was removed, and this device goes on with the list that it saw \
             last. Compare with {user} in another way, and ask the operator whether the server was restored to an earlier \
             state. Or this machine's clock is wrong: look at it first"
        ),
        Event::DeviceAdded { user, device } => format!("{user} has another device, {}", device_name(device)),
        Event::DeviceRemoved { user, device } => {
            format!("{user} has a device less, {}", device_name(device))
        }
        Event::Renamed { from, to } if to == client.user() => {
            format!("your name is {to} now, and no longer {from}")
        }
        Event::Renamed { from, to } => format!("{from} is called {to} now, and is the same user"),
        Event::DisplayName { user, display_name } | Event::MemberDisplayName { user, display_name, .. } => {
            format!("{user} calls itself {}", name_shown(display_name))
        }
        Event::Expired { messages } => {
            format!("the server deleted {messages} messages that had waited too long for this device")
        }
        Event::MailboxReplaced { kind } => format!(
            "the server has this device's {} mailbox no more, since nobody read it for long, or the server was restored: it has \
             another one now, and comes back into its groups",
            kind.as_str()
        ),
        Event::Restored { kind: QueueKind::Group } => {
            "the server was restored to an earlier state: messages of groups, and \
             changes of them, that came since may be missing. This device comes back into its groups"
                .to_owned()
        }
        Event::Restored { kind: QueueKind::Contact } => {
            "the server was restored to an earlier state: requests and answers of \
             contacts that came since may be missing"
                .to_owned()
        }
        Event::TitleProposed { by, title, .. } => {
            format!("{by}, who is no admin, calls the group {}", safe_line(title))
        }
        Event::AdminsChanged { by, admins, .. } => format!("{by} made these the admins: {}", list(admins)),
        Event::Unsent { text, reason, .. } => {
            format!("not sent: {}\n    ({})", safe_text(text), safe_line(reason))
        }
        Event::Unfounded { title, reason, .. } => {
            format!("the group {} was not created: {}", safe_line(title), safe_line(reason))
        }
        Event::StillIn { reason, .. } => format!("this device cannot leave: {}", safe_line(reason)),
        Event::NotShutOut { reason, .. } => format!(
            "a device that was removed from yours could not be shut out of this group, and may read on: {}. This device \
             tries again",
            safe_line(reason)
        ),
        Event::Undelivered { members, .. } => {
            format!("{members} of the members' devices did not get it: their mailboxes are full or gone")
        }
        Event::CannotFollow { by_hand: false, reason, .. } => {
            format!("this device cannot follow, and will come back by itself ({})", safe_line(reason))
        }
        Event::CannotFollow { reason, .. } => format!(
            "this device does not follow: {}. `rejoin` takes the group as the server has it, `refound` \
             founds another",
            safe_line(reason)
        ),
        Event::Returned { .. } => "this device is back; what was said meanwhile is lost to it".to_owned(),
        Event::Changed { added, removed, .. } => {
            format!("meanwhile came: {}; went: {}", list(added), list(removed))
        }
        Event::Strangers { strangers, admins, removed, coming_in, .. } => format!(
            "this device does not come {} by itself: it cannot tell who let in {}, and who made these admins: {}; went: {}. \
             `rejoin` accepts them, {}",
            if *coming_in { "to where your other devices are in the group" } else { "back" },
            list(strangers),
            list(admins),
            list(removed),
            if *coming_in {
                "`block-group` has this device stay out, and they may tell of them yet"
            } else {
                "`refound` founds another group"
            }
        ),
        Event::Untold { strangers, admins, .. } => format!(
            "another device of yours, which told of this group as it was before this one joined, did not know of {}, and of these \
             admins: {}. They may have come since. If that device does not show them, write nothing here: `block-group` has this \
             device leave, and another user who is an admin can add it again",
            list(strangers),
            list(admins)
        ),
        Event::Divided { epoch, .. } => format!(
            "another device of yours told of epoch {epoch} of a group that is not the one this device is in. If the server \
             was just put back to an earlier state, the devices come together again once both were in use. Else one of the two \
             groups is made up: compare the `members` on both devices, and write nothing where strangers are. `block-group` has \
             that device leave, and another user who is an admin can add it again; `refound` founds another group"
        ),
        Event::MemberReset { user, name: None, .. } => format!(
            "{user} began anew, with other devices: whoever it is counts as unknown until you accept it"
        ),
        Event::MemberReset { user, name: Some(name), .. } => format!(
            "{user} began anew, with other devices that are called {name} now: whoever it is counts as unknown until you \
             accept it"
        ),
        Event::MemberRenamed { user, name, .. } => format!("{user} is called {name} now"),
        Event::MemberGone { user, .. } => format!("{user} deleted the account"),
        Event::MemberMissing { user, .. } => format!(
            "the server has known no {user} for a month: the account ended, or has another name, or hides"
        ),
        Event::AdminsFound { admins, .. } => format!("you accepted as admins: {}", list(admins)),
        Event::Broken { reason, .. } => format!(
            "this device could not come back ({}). It goes on trying; `refound` founds the group anew",
            safe_line(reason)
        ),
        Event::KeysDiffer { keys } => format!(
            "the server shows you other keys than it shows to strangers: {}. It could tell you by them; nothing is \
             done with them",
            safe_line(keys)
        ),
        Event::KeysHidden { keys } => format!(
            "for a day the server has not let {} be compared with those that it shows others, though it is there. It could \
             show you other ones, and tell you by them: ask its operator in another way. Or this machine's clock is wrong: \
             look at it first",
            safe_line(keys)
        ),
        Event::KeysShown { keys } => format!("the server shows {} again, and they are good", safe_line(keys)),
        Event::RootChanged { domain } => format!(
            "the root of {domain} is another one than before, or gone. Ask its operator in another way, and take it with \
             `accept-root` then"
        ),
        Event::HomeserverKeysDiffer { domain } => format!(
            "the homeserver of {domain} shows keys that none of those before vouches for. Nothing is sent there. Ask a \
             friend there, or its operator, in another way, and take them with `accept-homeserver {domain}` then"
        ),
        Event::Lost { .. } => "the server had no room for something that was sent to this device".to_owned(),
        Event::Ignored { reason } => format!("ignored: {}", safe_line(reason)),
    };
    Ok(prefix + &what)
}

/// A display name, marked as one: what a person calls itself is no user name.
pub fn name_shown(display_name: &str) -> String {
    match safe_line(display_name) {
        name if name.is_empty() => "nothing any more".to_owned(),
        name => format!("\u{201c}{name}\u{201d}"),
    }
}

fn list(members: &[Member]) -> String {
    if members.is_empty() {
        return "nobody".to_owned();
    }
    members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
