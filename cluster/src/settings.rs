//! Settings and access rules, which belong to this version of the program and are written anew at each start.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, ensure};
use nix::sys::sysinfo::sysinfo;

use crate::{ADMIN, DATABASE, SERVER, user::ClusterUser};

/// The line by which PostgreSQL's own configuration file takes ours in.
const INCLUDE: &str = "include 'postern.conf' # written anew at each start; ALTER SYSTEM overrides it";

/// The roles whose members log in under their own names. PostgreSQL counts no superuser among them who was not made a member.
const OPERATORS: &str = "+postern_operator,+postern_monitor,+postern_backup";

/// A control group's limit: a number of bytes, or `max`.
const MEMORY_LIMIT: &str = "/sys/fs/cgroup/memory.max";
/// PostgreSQL's default, and the most that leaves a larger machine room for other things.
const SHARED_BUFFERS_MEGABYTES: (u64, u64) = (128, 8192);

#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// None: as fits the machine.
    pub shared_buffers_megabytes: Option<u64>,
    /// Lines of postgresql.conf that win over ours.
    pub further: Vec<String>,
}

/// Lets PostgreSQL's own configuration file take ours in, which has to be written before the next start.
pub fn include(data: &Path) -> anyhow::Result<()> {
    let path = data.join("postgresql.conf");
    let include = || {
        let mut file = OpenOptions::new().append(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path)?;
        writeln!(file, "\n{INCLUDE}")?;
        file.sync_all()
    };
    include().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes them into one of PostgreSQL's data directories.
pub fn write(settings: &Settings, data: &Path, sockets: &Path, user: &ClusterUser) -> anyhow::Result<()> {
    let text = format!(
        "listen_addresses = ''\n\
         unix_socket_directories = {sockets}\n\
         # The directory decides whom the socket is open to. It is closed until an operator opens it.\n\
         unix_socket_permissions = 0777\n\
         shared_preload_libraries = 'postern'\n\
         max_worker_processes = 32\n\
         # PostgreSQL's default is 128 MB, however large the machine.\n\
         shared_buffers = {shared_buffers}MB\n\
         # Messages that were acknowledged are to be gone soon, and their room used again.\n\
         autovacuum_naptime = 10\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         # Every statement is one short function call.\n\
         jit = off\n\
         # PRIV-4: neither statements nor values go to the log.\n\
         log_statement = 'none'\n\
         log_min_error_statement = panic\n\
         log_min_duration_statement = -1\n\
         log_parameter_max_length = 0\n\
         log_parameter_max_length_on_error = 0\n\
         log_error_verbosity = terse\n\
         debug_print_plan = off\n\
         {further}\n",
        shared_buffers = settings.shared_buffers_megabytes.map_or_else(shared_buffers_megabytes, Ok)?,
        // A list: the one entry in double quotes, the whole in single ones.
        sockets = quoted(&format!("\"{}\"", sockets.display().to_string().replace('"', "\"\""))),
        further = settings.further.join("\n"),
    );
    // The first rule that fits a role counts, and no other: whatever else they are members of, only the map's users become
    // our two roles.
    let rules = format!(
        "# Written anew at each start.\n\
         local all {ADMIN} peer map=postern\n\
         local replication {ADMIN} peer map=postern\n\
         local {DATABASE} {SERVER} peer map=postern\n\
         # As the system user of the same name.\n\
         local {DATABASE} {OPERATORS} peer\n"
    );
    // Root could become the cluster's user, so it need not.
    let names = [user.name(), "root"];
    let map: String = names
        .iter()
        .flat_map(|name| [ADMIN, SERVER].map(|role| format!("postern \"{name}\" {role}\n")))
        .collect();
    for (name, text) in [("postern.conf", text), ("pg_hba.conf", rules), ("pg_ident.conf", map)] {
        user.write(&data.join(name), &text)?;
    }
    Ok(())
}

/// A quarter of the memory, as PostgreSQL's manual advises.
fn shared_buffers_megabytes() -> anyhow::Result<u64> {
    let installed = sysinfo()?.ram_total();
    let limit = fs::read_to_string(MEMORY_LIMIT).ok().and_then(|limit| limit.trim().parse().ok());
    let quarter = installed.min(limit.unwrap_or(u64::MAX)) / 4 / (1024 * 1024);
    let (least, most) = SHARED_BUFFERS_MEGABYTES;
    Ok(quarter.clamp(least, most))
}

/// The lines of a configuration file with these settings, each with its name and value.
///
/// # Errors
/// A name is none of a setting.
pub fn lines<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, value) in settings {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
        ensure!(!name.is_empty() && name.bytes().all(is_name), "{name:?} is no name of a setting");
        text.push_str(&format!("{name} = {}\n", quoted(value).replace('\n', r"\n")));
    }
    Ok(text)
}

/// The names of the settings in such lines, in a list.
pub fn names(lines: &str) -> String {
    let names = lines.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    names.collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_survive_settings() {
        assert_eq!(quoted(r"a'\b"), r"'a''\\b'");
    }

    #[test]
    fn a_setting_is_one_line_whatever_its_value() {
        let settings = [("archive_command", "cp '%p'\nx"), ("a.b$c", "")];
        let lines_of_both = lines(settings.into_iter()).unwrap();
        assert_eq!(lines_of_both, "archive_command = 'cp ''%p''\\nx'\na.b$c = ''\n");
        assert_eq!(names(&lines_of_both), "archive_command, a.b$c");
        assert!(lines([("a = 1\nb", "")].into_iter()).is_err());
    }
}
