//! The operator's settings of a private cluster (`ALTER SYSTEM`) in a backup, and what a restore says of them. The cluster that a
//! restore makes has them from its end on: while it is under way nobody's time limit is in its way, and nothing is archived.

use anyhow::Context;
use postern_cluster::TakenOver;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::{database::DatabaseError, say::say};

/// The setting that a cluster without standbys cannot have: each commit would wait for them.
const STANDBYS: &str = "synchronous_standby_names";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnSettings(Vec<OwnSetting>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OwnSetting {
    name: String,
    value: String,
}

impl OwnSettings {
    /// Reads them as a superuser.
    pub async fn of(client: &Client) -> anyhow::Result<Self> {
        let row = client.query_one(READ, &[]).await.map_err(DatabaseError::from)?;
        serde_json::from_str(row.get(0)).context("the settings of the private cluster cannot be read")
    }

    /// The settings that a restore takes over, each with its name and value.
    pub fn to_take_over(&self) -> impl Iterator<Item = (&str, &str)> {
        let taken = self.0.iter().filter(|setting| setting.name != STANDBYS);
        taken.map(|setting| (setting.name.as_str(), setting.value.as_str()))
    }

    /// The standbys that commits wait for.
    fn standbys(&self) -> Option<&str> {
        let set = self.0.iter().rfind(|setting| setting.name == STANDBYS)?;
        (!set.value.is_empty()).then_some(set.value.as_str())
    }

    /// The names of those that a restore takes over, in a list.
    fn names(&self) -> String {
        self.to_take_over().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }
}

/// Says what became of settings: those of the backup that was named, and, in a private cluster (`taken`), those that waited there.
pub fn tell(settings: Option<&OwnSettings>, taken: Option<&TakenOver>) {
    let Some(taken) = taken else {
        let names = settings.map(OwnSettings::names).unwrap_or_default();
        let set = if names.is_empty() { names } else { format!(" The backup's cluster had set {names}.") };
        say(format!(
            "settings of the whole PostgreSQL (ALTER SYSTEM, postgresql.conf) are yours to make, a restore makes none.{set}"
        ));
        return;
    };
    if let Some(standbys) = settings.and_then(OwnSettings::standbys) {
        say(format!(
            "left out: the setting {STANDBYS} = {standbys:?} of the backup's private cluster: each commit would wait for standbys, which this one does not have yet. Make it again once they follow"
        ));
    }
    if settings.is_none() && matches!(taken, TakenOver::Nothing) {
        say(
            "settings of the PostgreSQL that was backed up (ALTER SYSTEM, postgresql.conf) are not in the backup: make those again that this one needs",
        );
    }
    tell_taken(taken);
}

/// Says what became of the settings that waited in a private cluster. After an interrupted restore they may be those of another
/// backup than the one that was named.
pub fn tell_taken(taken: &TakenOver) {
    match taken {
        TakenOver::Nothing => {}
        TakenOver::All { names } => say(format!(
            "settings of the private cluster (ALTER SYSTEM) were taken over as they were: {names}. Look at them before the server starts: sizes fitted another machine, places and commands may be another's, and WAL of this cluster goes into a directory of its own, with a new base backup"
        )),
        TakenOver::Refused { names, file, error } => say(format!(
            "left out: the settings of the private cluster (ALTER SYSTEM), with which PostgreSQL does not start here: {names}. They are in {}: make those again that fit this machine; if that is for another reason (a full disk), put them back. {error:#}",
            file.display()
        )),
    }
}

/// They are read from the file, so that those count that wait for a restart. A standby's way to its primary is no cluster's that a
/// restore makes, and has a password in it.
const READ: &str = "
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', f.name, 'value', f.setting) ORDER BY f.seqno), '[]')::text
      FROM pg_file_settings f
     WHERE f.sourcefile LIKE '%/postgresql.auto.conf' AND f.name IS NOT NULL AND f.setting IS NOT NULL
       AND f.name !~ '^(primary_|recovery_(target|end|min))'
       AND f.name NOT IN ('restore_command', 'archive_cleanup_command')";
