//! The package's units, as far as a setup fits them: which files they let the server see, and which directory they let it
//! write to.

use std::{fs, path::Path};

use anyhow::{Context, bail};

use crate::{
    config::{self, Config},
    files,
    say::print,
};

/// The places of the package's unit.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system/postern.service", "/lib/systemd/system/postern.service"];
/// The first line of a part of a unit that setup wrote.
const BY_SETUP: &str =
    "# By `postern setup`: the data directory is not where the package's unit expects it.\n";
/// Directories that the unit hides from the server.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// Whether the package's unit is there.
pub fn are_there() -> bool {
    UNITS.iter().any(|unit| Path::new(unit).exists())
}

/// Refuses files that the package's unit does not let the server see.
pub fn expect_visible(config: &Config) -> anyhow::Result<()> {
    let key = config.master_key_file();
    let data_dir = config.embedded.then(|| config.data_dir.clone());
    for file in [&config.tls.certificate, &config.tls.key, &key, &data_dir].into_iter().flatten() {
        if let Some(hidden) = HIDDEN.iter().find(|dir| file.starts_with(dir)) {
            bail!(
                "the package's unit does not let the server look into {hidden}: put {} elsewhere, into /etc/postern for one",
                file.display()
            );
        }
    }
    Ok(())
}

/// Lets the package's units write to the data directory where that is not in the place that they allow; where it is, they do
/// not wait for the disk of an earlier one.
pub fn fit(config: &Config) -> anyhow::Result<()> {
    let text = drop_in(&config.data_dir);
    for unit in ["postern.service", "postern-backup.service"] {
        let dir = Path::new("/etc/systemd/system").join(format!("{unit}.d"));
        let file = dir.join("places.conf");
        if !config.embedded || config.data_dir.starts_with(config::STATE) {
            if fs::read_to_string(&file).is_ok_and(|present| present.starts_with(BY_SETUP)) {
                fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
                print(format_args!(
                    "removed  {}: the data directory is not elsewhere any more",
                    file.display()
                ));
            }
            continue;
        }
        let write = || fs::create_dir_all(&dir).and_then(|()| files::replace(&file, text.as_bytes()));
        write().with_context(|| format!("cannot write {}", file.display()))?;
        print(format_args!(
            "wrote    {}: the unit lets the server write to its data directory",
            file.display()
        ));
    }
    // Without systemd the next boot reads them.
    let _reloaded = std::process::Command::new("systemctl").arg("daemon-reload").status();
    Ok(())
}

/// The part of a unit that makes a directory one of the server's.
fn drop_in(dir: &Path) -> String {
    let dir = dir.display().to_string().replace('\\', r"\\").replace('"', r#"\""#).replace('%', "%%");
    format!("{BY_SETUP}[Unit]\nRequiresMountsFor=\"{dir}\"\n[Service]\nReadWritePaths=\"{dir}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_elsewhere_is_let_into_the_unit_and_a_hidden_file_is_refused() {
        let text = drop_in(Path::new("/srv/50% of it"));
        assert!(text.contains("ReadWritePaths=\"/srv/50%% of it\"\n"), "{text}");
        assert!(text.contains("RequiresMountsFor=\"/srv/50%% of it\"\n"), "{text}");
        let mut config = Config { domain: "a.example".to_owned(), ..Config::default() };
        expect_visible(&config).unwrap();
        config.tls.certificate = Some("/home/alice/cert.pem".into());
        let error = expect_visible(&config).unwrap_err().to_string();
        assert!(error.contains("look into /home"), "{error}");
        let hidden = Config {
            domain: "a.example".to_owned(),
            embedded: true,
            data_dir: "/home/alice/data".into(),
            master_key_file: Some("/etc/postern/master.key".into()),
            ..Config::default()
        };
        let error = expect_visible(&hidden).unwrap_err().to_string();
        assert!(error.contains("put /home/alice/data elsewhere"), "{error}");
    }
}
