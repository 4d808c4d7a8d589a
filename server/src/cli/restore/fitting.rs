//! A backup has to belong to this homeserver: to its domain and its master key, and to a release that this program knows. The
//! generation that begins has a greater number than any from before it.

use anyhow::{anyhow, bail, ensure};

use crate::{
    cli::manifest::{Manifest, State},
    clock,
    config::Config,
    database::{migrate, release::Version},
    keys::master_keys::Sources,
};

/// The second from which generations are counted: 2020-01-01, since 1970.
const EPOCH: u64 = 1_577_836_800;
const DAY: i64 = 24 * 60 * 60;

/// The second in which a backup was begun, as generations are counted.
fn second_of(manifest: &Manifest) -> anyhow::Result<i64> {
    Ok(i64::try_from(manifest.taken.saturating_sub(EPOCH))?)
}

/// Refuses a backup that does not belong to this configuration. Returns the least number of the generation to begin.
pub(super) fn expect_fitting(
    manifest: &Manifest,
    config: &Config,
    at_least: Option<i64>,
) -> anyhow::Result<i64> {
    let State { domain, migration, master_key, previous_master_key, .. } = &manifest.database;
    if let Some(domain) = domain {
        ensure!(
            *domain == config.domain,
            "the backup is of {domain}, and the configuration says {}: set the domain to that",
            config.domain
        );
    }
    let release = migrate::Release::of_this_process();
    let newer = manifest.postern.parse::<Version>().map_or(true, |version| version > release.version());
    ensure!(
        !newer && *migration <= release.newest_migration(),
        "the backup was taken by Postern {}, which is newer than this program: use that version, or a later one",
        manifest.postern
    );
    let second = second_of(manifest)?;
    ensure!(
        at_least.is_some() || clock::now() >= manifest.taken,
        "the backup was taken later than now, by this machine's clock: set that right first, or numbers are given out twice. If it is right, and was ahead then, --at-least {}",
        second + DAY
    );
    // Greater than any number that was given out before the backup, also where the clock was set back.
    let least = at_least.unwrap_or(0).max(second + 1);
    let Some(wanted) = master_key else { return Ok(least) };
    let sources = Sources::of(config);
    let place =
        config.master_key_file().map_or("POSTERN_MASTER_KEY".to_owned(), |file| file.display().to_string());
    let wants = format!("the backup is sealed under the master key with the id {wanted}");
    let key = sources.key().map_err(|error| anyhow!("{wants}: put that into {place} ({error})"))?;
    let held: Vec<String> = [Some(key), sources.next_key()?]
        .into_iter()
        .flatten()
        .map(|key| hex::encode(key.id().as_bytes()))
        .collect();
    ensure!(
        held.contains(wanted),
        "{wants}, and the one in {place} is another ({}): nothing in it would open",
        held.join(", ")
    );
    if let Some(previous) = previous_master_key
        && !held.contains(previous)
    {
        bail!(
            "the backup was taken while the master key changed, and needs the old one, too: the one with the id {previous}"
        );
    }
    Ok(least)
}
