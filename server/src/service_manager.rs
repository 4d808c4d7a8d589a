//! The service manager, systemd: word to the one that started this process, if it asks for it (sd_notify(3)), and what it
//! keeps for a service alone.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

/// The package's unit.
const UNIT: &str = "postern.service";
/// Where systemd keeps the credentials of services that run.
const CREDENTIALS: &str = "/run/credentials";

/// Whether systemd keeps a file for one service alone (systemd.exec(5), `LoadCredential=`).
pub fn is_credential(path: &Path) -> bool {
    let own = env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty());
    path.starts_with(CREDENTIALS) || own.is_some_and(|dir| path.starts_with(dir))
}

/// The credential that the package's unit names to the server in a variable. None where no systemd knows the unit, or the unit
/// names none, or it does not answer in seconds. The file is there while the service runs, for the service's user and root.
pub fn credential(variable: &str) -> Option<PathBuf> {
    let ask = ["-k", "1", "5", "systemctl", "show", "--property=Environment", UNIT];
    let told = Command::new("timeout").args(ask).output().ok()?;
    credential_in(str::from_utf8(&told.stdout).ok()?, variable)
}

/// The credential in what systemd tells of a unit's environment.
fn credential_in(told: &str, variable: &str) -> Option<PathBuf> {
    let variables = told.lines().find_map(|line| line.strip_prefix("Environment="))?;
    let value = variables.split(' ').find_map(|word| word.strip_prefix(variable)?.strip_prefix('='))?;
    Some(PathBuf::from(value)).filter(|path| path.starts_with(CREDENTIALS))
}

/// Says that the server answers from now on.
pub fn ready() {
    tell("READY=1");
}

/// Says that the server ends, which may take as long as its requests under way.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!("cannot tell the service manager {state}: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_a_credential_among_other_variables() {
        let found = |told| credential_in(told, "POSTERN_MASTER_KEY_FILE");
        let file = PathBuf::from("/run/credentials/postern.service/master.key");
        let told =
            "Environment=A=b POSTERN_MASTER_KEY_FILE=/run/credentials/postern.service/master.key \"C=d e\"\n";
        assert_eq!(found(told), Some(file));
        for told in [
            "",
            "Environment=\n",
            "Environment=POSTERN_MASTER_KEY_FILES=/run/credentials/postern.service/master.key",
            // A file that anybody may look at, who may look at all.
            "Environment=POSTERN_MASTER_KEY_FILE=/etc/postern/master.key",
        ] {
            assert_eq!(found(told), None, "{told}");
        }
    }
}
