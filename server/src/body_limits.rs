//! Limits in the database of what comes in requests' bodies, next to the largest body that this process takes. What they
//! allow and the process does not let through is refused to everybody: a group that grew by them could not commit again
//! (DS-13).

use anyhow::bail;

use crate::{config::Limits, database::Database};

/// Bytes of a body (CBOR) without its largest part: keys, a GroupInfo, attributes.
const REST: u64 = 32 * 1024;

/// The largest part of a body that the process lets through.
pub fn largest_part(limits: &Limits) -> u64 {
    limits.max_body_bytes.saturating_sub(REST)
}

/// Checks that the process lets all through that the database's limits allow.
///
/// # Errors
/// A limit that is too large, with the setting that lets it through; a database that does not answer.
pub async fn check(database: &Database, limits: &Limits) -> anyhow::Result<()> {
    let rows = database.query("SELECT name, bytes FROM operator.body_limits()", &[]).await?;
    let mut least = 0;
    let mut names = Vec::new();
    for row in &rows {
        let bytes = u64::try_from(row.get::<_, i64>("bytes"))?;
        if bytes > largest_part(limits) {
            least = least.max(bytes + REST);
            names.push(format!("{} is {bytes}", row.get::<_, &str>("name")));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    bail!(
        "limits.max_body_bytes is {}, and what the limits in the database allow does not fit: {}. Set limits.max_body_bytes to {least} at least, or lower those",
        limits.max_body_bytes,
        names.join(", "),
    );
}
