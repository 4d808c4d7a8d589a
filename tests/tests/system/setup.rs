//! `postern setup`, and what a package and a service manager ask of the server (OPS-7).

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};
use postern_tests_kit::{Authority, Cluster, DataDir, HOME, PATIENCE, Server, eventually, in_tree, postern};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::UnixDatagram, process::Command, time::timeout};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The place of a file that setup has to write.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("there is a place for it");
    // PostgreSQL's user need not come here, but the server's own files are checked.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let file = dir.path().join("etc/postern.toml");
    (dir, file)
}

fn setup(file: &Path) -> Command {
    let ourselves = User::from_uid(Uid::effective()).expect("users can be read").expect("we have a name");
    let mut command = postern();
    command.arg("setup").arg("--config").arg(file).args(["--user", &ourselves.name]);
    command
}

async fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().await.expect("postern runs");
    (output.status.success(), text(&output))
}

#[tokio::test]
async fn setup_with_flags_makes_a_server_ready_and_again_changes_nothing() {
    let (dir, (_keep, file)) = (DataDir::fresh(), place());
    let flags = |command: &mut Command| {
        command.args(["--non-interactive", "--domain", HOME, "--registration", "invite", "--data-dir"]);
        command.arg(dir.path());
    };
    let (well, first) = {
        let mut command = setup(&file);
        flags(&mut command);
        said(&mut command).await
    };
    assert!(well, "{first}");
    for expected in [
        "wrote ",
        "ok       registration: invite",
        "ok       schema: up to date",
        "master.key",
        "makes a backup each day",
    ] {
        assert!(first.contains(expected), "{expected} in {first}");
    }
    assert_eq!(dir.postmaster(), None, "the private cluster is stopped again");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let written = fs::read_to_string(&file).unwrap();
    let key = fs::read(dir.path().join("master.key")).unwrap();

    let mut again = setup(&file);
    flags(&mut again);
    let (well, second) = said(&mut again).await;
    assert!(well && second.contains("it says so already"), "{second}");
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    assert_eq!(fs::read(dir.path().join("master.key")).unwrap(), key);

    let server = Server::embedded(&dir).arg("--config").arg(file.to_str().unwrap()).start().await;
    let health = reqwest::get(format!("{}/health", server.url())).await.expect("the server answers");
    assert!(health.status().is_success(), "{health:?}");
    let (well, joined) = said(setup(&file).arg("--non-interactive").args(["--registration", "open"])).await;
    assert!(well && joined.contains("ok       registration: open"), "beside a server that runs: {joined}");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_data_directory_that_is_gone_gives_no_other_homeserver() {
    let (dir, (_keep, file)) = (DataDir::fresh(), place());
    let flags = ["--non-interactive", "--domain", HOME, "--registration", "invite", "--data-dir"];
    let (well, text) = said(setup(&file).args(flags).arg(dir.path())).await;
    assert!(well, "{text}");
    // Next to it, and so on the same disk.
    let away = dir.path().with_added_extension("away");
    fs::rename(dir.path(), &away).unwrap();
    let config = file.to_str().expect("it is text");
    // The directory is away altogether; then there is the empty one that a disk should have been mounted on.
    for exists in [false, true] {
        if exists {
            fs::create_dir(dir.path()).unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        }
        let refusal = Server::embedded(&dir).arg("--config").arg(config).try_start().await.err();
        let refusal = refusal.expect("it ends");
        assert!(refusal.contains("is its disk mounted?"), "{refusal}");
        let (well, report) = said(postern().args(["check", "--config", config])).await;
        assert!(!well && report.contains("problem  private cluster: there is none in"), "{report}");
        let (well, text) = said(postern().args(["migrate", "--config", config])).await;
        assert!(!well && text.contains("is its disk mounted?"), "{text}");
        let (well, text) = said(setup(&file).args(flags).arg(dir.path())).await;
        assert!(!well && text.contains("--new-cluster"), "{text}");
        // What replaces a file makes no homeserver.
        let (well, text) = said(setup(&file).args(flags).arg(dir.path()).arg("--force")).await;
        assert!(!well && text.contains("--new-cluster"), "{text}");
        let made = fs::read_dir(dir.path()).map_or(0, Iterator::count);
        assert_eq!((dir.path().exists(), made), (exists, 0), "nothing was made");
    }
    fs::remove_dir(dir.path()).unwrap();
    fs::rename(&away, dir.path()).unwrap();
    let server = Server::embedded(&dir).arg("--config").arg(config).start().await;
    assert!(server.terminate().await.success(), "it is mounted again");
}

#[tokio::test]
async fn setup_lets_nobody_register_unasked_at_a_new_homeserver_and_changes_no_other_one() {
    let (dir, (_keep, file)) = (DataDir::fresh(), place());
    let flags = ["--non-interactive", "--domain", HOME, "--data-dir"];
    let (well, first) = said(setup(&file).args(flags).arg(dir.path())).await;
    assert!(well && first.contains("ok       registration: invite"), "{first}");
    assert!(first.contains("operator.make_invites"), "{first}");
    let server = Server::embedded(&dir).arg("--config").arg(file.to_str().unwrap()).start().await;
    dir.admin().await.batch_execute("SELECT operator.set_registration_policy('open')").await.unwrap();
    let (well, second) = said(setup(&file).args(flags).arg(dir.path())).await;
    assert!(well && second.contains("ok       registration: open"), "{second}");
    let mut said_so = setup(&file);
    said_so.args(flags).arg(dir.path()).env("POSTERN_REGISTRATION", "invite");
    let (well, third) = said(&mut said_so).await;
    assert!(well && third.contains("ok       registration: invite"), "{third}");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn setup_asks_and_asks_again_for_what_is_no_answer() {
    let (dir, (_keep, file)) = (DataDir::migrated().await, place());
    let mut child = setup(&file)
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("postern runs");
    // Domain (no domain at first), PostgreSQL, host, TLS (no such way at first), proxy, its header, listen, registration.
    let answers = "localhost\nhome.example\n\nchat.home.example\nboth\nproxy\n\n\n127.0.0.1:0\nopen\n";
    let mut input = child.stdin.take().expect("it was piped");
    input.write_all(answers.as_bytes()).await.expect("it reads");
    drop(input);
    let output = child.wait_with_output().await.expect("it ends");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("That is no answer: ").count(), 2, "{said}");
    let written: Vec<String> = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']))
        .map(str::to_owned)
        .collect();
    let data_dir = format!("data_dir = \"{}\"", dir.path().display());
    assert_eq!(
        written,
        [
            "domain = \"home.example\"",
            "listen = \"127.0.0.1:0\"",
            "base_url = \"https://chat.home.example\"",
            "embedded = true",
            "create_cluster = false",
            data_dir.as_str(),
            "addresses = [\"127.0.0.1/32\"]",
            "source = \"x-forwarded-for\"",
            "listen = \"127.0.0.1:9464\"",
        ]
    );
}

#[tokio::test]
async fn setup_stops_where_answers_end_or_are_wrong_and_writes_nothing() {
    let (_keep, file) = place();
    for (arguments, expected) in [
        (&["--domain", "home.example"][..], "the answers ended"),
        (&["--non-interactive"], "the home domain is not set"),
        (&["--non-interactive", "--domain", "localhost"], "localhost is no home domain"),
        (&["--non-interactive", "--domain", HOME, "--registration", "oidc"], "--oidc-issuer"),
        (&["--non-interactive", "--domain", HOME, "--embedded", "--database-url", "host=/run"], "choose one"),
        (&["--non-interactive", "--domain", HOME, "--tls-key", "key.pem"], "set both, or neither"),
        (&["--non-interactive", "--domain", HOME, "--user", "nobody-of-that-name"], "there is no user"),
    ] {
        let mut command = postern();
        command.arg("setup").arg("--config").arg(&file).args(arguments).stdin(Stdio::null());
        let (well, said) = said(&mut command).await;
        assert!(!well && said.contains(expected), "{arguments:?}: {said}");
        assert!(!file.exists(), "{arguments:?}");
    }
}

#[tokio::test]
async fn setup_with_an_own_database_keeps_no_superuser_and_makes_a_master_key() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    // As PostgreSQL has it, and the private cluster not: a look at the whole is soon done nevertheless.
    admin.batch_execute("ALTER SYSTEM SET jit = on").await.expect("a superuser may");
    admin.execute("SELECT pg_reload_conf()", &[]).await.expect("a superuser may");
    let (_keep, file) = place();
    let authority = Authority::new();
    let certificate = authority.certify(&[HOME]);
    let mut command = setup(&file);
    command
        .args(["--non-interactive", "--domain", HOME, "--registration", "invite"])
        .args(["--database-url", &cluster.server_url(), "--database-admin-url", &cluster.admin_url()])
        .arg("--tls-certificate")
        .arg(&certificate.certificate)
        .arg("--tls-key")
        .arg(&certificate.key);
    let (well, said) = said(&mut command).await;
    assert!(!well && said.contains("problem  TLS: "), "no authority that this system trusts: {said}");
    assert_eq!(said.matches("problem  ").count(), 1, "{said}");
    assert!(said.contains("ok       registration: invite"), "{said}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("\nlisten = \"[::]:443\"\n"), "{written}");
    assert!(written.contains("\n#admin_url = "), "a superuser's connection string is not kept: {written}");
    let key = file.with_file_name("master.key");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert!(written.contains(&format!("\nmaster_key_file = \"{}\"\n", key.display())), "{written}");
}

#[tokio::test]
async fn setup_without_a_superuser_says_how_the_policy_gets_into_the_database() {
    let cluster = Cluster::fresh().await;
    let (_keep, file) = place();
    let config = file.to_str().expect("it is text");
    let mut command = setup(&file);
    command.args(["--non-interactive", "--domain", HOME, "--registration", "invite"]);
    command.args(["--database-url", &cluster.server_url()]);
    let (well, report) = said(&mut command).await;
    let left =
        format!("POSTERN_REGISTRATION=invite postern migrate --config {config} --database-admin-url URL");
    assert!(!well && report.contains(&left), "{report}");
    let migrate = || {
        let mut command = postern();
        command.args(["migrate", "--config", config, "--database-admin-url", &cluster.admin_url()]);
        command.env("POSTERN_REGISTRATION", "invite");
        command
    };
    let (well, report) = said(&mut migrate()).await;
    assert!(well && report.contains("migrated: "), "{report}");
    let server = Server::builder(&cluster).arg("--config").arg(config).start().await;
    let admin = cluster.admin().await;
    let policy = async || -> String {
        admin.query_one("SELECT operator.registration_policy()", &[]).await.unwrap().get(0)
    };
    assert_eq!(policy().await, "invite");
    admin.batch_execute("SELECT operator.set_registration_policy('open')").await.unwrap();
    let (well, report) = said(&mut migrate()).await;
    assert!(well && report.contains("the database is up to date"), "{report}");
    assert_eq!(policy().await, "open", "what the operator said since");
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn the_file_of_a_package_is_one_and_has_each_setting_of_the_page() {
    // As the package is built.
    let build = fs::read_to_string(in_tree("packaging/deb/build")).unwrap().replace("\\\n", " ");
    let arguments = build.split_once("/postern\" setup ").and_then(|(_, rest)| rest.split(')').next());
    let arguments = arguments.expect("it makes the file").split_whitespace();
    let output = postern().arg("setup").args(arguments).output().await.expect("postern runs");
    let file = text(&output);
    let page = fs::read_to_string(in_tree("docs/operate/configure.md")).unwrap();
    for row in page.lines().filter(|line| line.starts_with("| `--")) {
        let key = row.split('|').nth(3).unwrap_or_default().trim().trim_matches('`');
        let name = key.rsplit('.').next().unwrap_or_default();
        let is_there =
            file.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{name} = ")));
        assert!(key.is_empty() || is_there, "{key} in {file}");
    }
    for line in ["embedded = true", "data_dir = \"/var/lib/postern\"", "listen = \"127.0.0.1:9464\""] {
        assert!(file.contains(&format!("\n{line}\n")), "{line} in {file}");
    }
    let (keep, path) = place();
    fs::create_dir(keep.path().join("etc")).unwrap();
    fs::write(&path, file).unwrap();
    let (_, report) = said(postern().args(["check", "--config"]).arg(&path)).await;
    assert!(report.contains("the home domain is not set: run `postern setup`"), "{report}");
}

#[test]
fn no_unit_has_a_password_where_every_user_of_the_machine_reads_it_and_no_night_job_works_as_root() {
    for unit in ["postern.service", "postern-backup.service"] {
        let unit = fs::read_to_string(in_tree("packaging/systemd").join(unit)).unwrap();
        for line in unit.lines() {
            let words = line.trim_start_matches(['#', ' ']);
            assert!(!(line.contains("Environment=") && line.contains("ADMIN_URL")), "{line}");
            assert!(
                !(words.starts_with("Exec") && ["=+", "=!"].iter().any(|root| words.contains(root))),
                "{line}"
            );
        }
        assert!(unit.contains("\nUser=postern\n") && unit.contains("\nRequiresMountsFor=/var/lib/postern\n"));
    }
    // Each unit is stopped before the package's programs and data go.
    let removal = fs::read_to_string(in_tree("packaging/deb/postern/prerm")).unwrap();
    for unit in fs::read_dir(in_tree("packaging/systemd")).unwrap() {
        let unit = unit.unwrap().file_name().into_string().expect("it is text");
        assert!(removal.lines().any(|line| line.contains(" stop ") && line.contains(&unit)), "{unit}");
    }
    let backup = fs::read_to_string(in_tree("packaging/systemd/postern-backup.service")).unwrap();
    assert!(backup.contains("\nEnvironmentFile=-/etc/postern/backup.env\n"), "{backup}");
    assert!(backup.contains("\nRestartPreventExitStatus=3\n"), "a whole backup is not made again: {backup}");
}

/// Without a container: the image's health check, with the image's variables, beside a server.
#[tokio::test]
async fn the_health_check_of_a_container_asks_whether_the_server_is_ready_and_not_only_alive() {
    let file = fs::read_to_string(in_tree("packaging/container/Containerfile")).unwrap().replace("\\\n", " ");
    let line = |name: &str| {
        let line = file.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {file}"))
    };
    let (_, check) = line("HEALTHCHECK ").split_once(" CMD ").expect("it has a command");
    let check: Vec<String> = serde_json::from_str(check).expect("it is a list of words");
    let [program, arguments @ ..] = check.as_slice() else { panic!("it is empty") };
    assert_eq!(program, "postern");
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let certificate = authority.certify(&[HOME]);
    for (tls, metrics) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut server = Server::builder(&cluster);
        server = if tls { server.tls(&certificate) } else { server };
        server = if metrics { server.metrics() } else { server };
        let server = server.start().await;
        let metrics = if metrics { Some(server.metrics_url().await) } else { None };
        let address = metrics.as_deref().and_then(|url| url.split('/').nth(2));
        let healthy = || {
            let mut command = postern();
            command.args(arguments).env("POSTERN_DOMAIN", HOME);
            command.envs(line("ENV ").split_whitespace().filter_map(|pair| pair.split_once('=')));
            command.env("POSTERN_LISTEN", format!("0.0.0.0:{}", server.address().port()));
            command.envs(address.map(|address| ("POSTERN_METRICS_LISTEN", address)));
            if tls {
                command.env("POSTERN_TLS_CERTIFICATE", &certificate.certificate);
                command.env("POSTERN_TLS_KEY", &certificate.key);
            }
            command
        };
        let text = eventually("it is ready", async || {
            let (well, text) = said(&mut healthy()).await;
            well.then_some(text)
        })
        .await;
        assert_eq!(text, "");

        let admin = cluster.admin().await;
        let away = "ALTER ROLE postern_server CONNECTION LIMIT 0";
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_server'";
        admin.batch_execute(away).await.unwrap();
        // On a busy machine it may say at first that the database was slow.
        let expected = if metrics.is_some() { "the database does not answer" } else { "is not ready" };
        eventually(expected, async || {
            // A session may have begun just before.
            admin.batch_execute(end).await.unwrap();
            let (well, text) = said(&mut healthy()).await;
            (!well && text.contains(expected)).then_some(())
        })
        .await;
        if !tls {
            let alive = reqwest::get(format!("{}/health", server.url())).await.expect("it is alive");
            assert!(alive.status().is_success(), "{alive:?}");
        }
        admin.batch_execute("ALTER ROLE postern_server CONNECTION LIMIT -1").await.unwrap();
        eventually("it is ready again", async || said(&mut healthy()).await.0.then_some(())).await;
        let asked = address.map_or(server.address(), |address| address.parse().expect("it is an address"));
        let mut without_server = healthy();
        server.kill().await;
        // No other test's server is given its port.
        let _next = Server::builder(&cluster).listen(asked);
        let (well, text) = said(&mut without_server).await;
        assert!(!well && text.contains("does not answer"), "{text}");
    }
}

#[tokio::test]
async fn a_server_tells_its_service_manager_that_it_is_ready_and_that_it_ends() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let told = async || {
        let mut state = [0; 100];
        let length = timeout(PATIENCE, socket.recv(&mut state)).await.expect("it says so").unwrap();
        String::from_utf8_lossy(&state[..length]).into_owned()
    };
    let server = Server::builder(&cluster).env("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    assert_eq!(told().await, "READY=1");
    server.signal(Signal::SIGHUP);
    eventually("it has looked at its certificate", async || {
        server.log().contains("looked at the files of certificates").then_some(())
    })
    .await;
    assert!(server.terminate().await.success(), "a reload ends no server");
    assert_eq!(told().await, "STOPPING=1");
}

#[tokio::test]
async fn a_master_key_may_be_a_credential_that_its_service_reads_as_a_group() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("master.key");
    fs::write(&key, cluster.master_key()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o440)).unwrap();
    let mut check = postern();
    check.args(["check", "--domain", HOME, "--database-url", &cluster.server_url(), "--master-key-file"]);
    check.arg(&key);
    let (_, report) = said(&mut check).await;
    assert!(report.contains("problem  master key: ") && report.contains("mode 440"), "{report}");
    let (well, report) = said(check.env("CREDENTIALS_DIRECTORY", dir.path())).await;
    assert!(well && report.contains("ok       master key: "), "{report}");
    fs::set_permissions(&key, Permissions::from_mode(0o444)).unwrap();
    let (_, report) = said(&mut check).await;
    assert!(report.contains("mode 444"), "{report}");
}

/// As root checks a package's server by hand. That systemd tells this, and that the key is found while the service runs, is
/// tried in packaging/trial.
#[tokio::test]
async fn a_check_without_the_credential_that_systemd_hands_to_the_service_finds_no_problem() {
    let cluster = Cluster::start().await;
    let server = Server::builder(&cluster).start().await;
    assert!(server.terminate().await.success(), "secrets are sealed");
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    // A link next to a package's program leads to the configuration.
    fs::copy(postern().as_std().get_program(), at("postern")).unwrap();
    let url = cluster.server_url();
    fs::write(at("configuration"), format!("domain = '{HOME}'\n[database]\nurl = {url:?}\n")).unwrap();
    symlink(at("configuration"), at("postern.toml")).unwrap();
    fs::write(at("systemctl"), "#!/bin/sh\necho \"Environment=LANG=C $OF_UNIT\"\n").unwrap();
    fs::set_permissions(at("systemctl"), Permissions::from_mode(0o755)).unwrap();
    let check = async |of_unit: &str| {
        let mut check = Command::new(at("postern"));
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        check.arg("check").env_clear().env("PATH", path).env("OF_UNIT", of_unit).current_dir("/");
        said(&mut check).await
    };
    let (well, report) = check("POSTERN_MASTER_KEY_FILE=/run/credentials/postern.service/master.key").await;
    assert!(well, "{report}");
    assert!(report.contains("note     master key: systemd hands it to the service alone"), "{report}");
    assert!(report.contains("note     secrets: not looked at"), "{report}");
    let none = "problem  master key: there is no master key";
    let (well, report) = check("POSTERN_MASTER_KEY_FILE=/etc/postern/master.key").await;
    assert!(!well && report.contains(none), "{report}");
    // As where its bus hangs.
    fs::write(at("systemctl"), "#!/bin/sh\nexec sleep 600\n").unwrap();
    let (well, report) = timeout(PATIENCE, check("")).await.expect("it waits no longer than seconds");
    assert!(!well && report.contains(none), "{report}");
}

#[tokio::test]
async fn the_page_has_each_flag_of_setup_that_is_no_setting() {
    let flags = async |command: &str| {
        let help = text(&postern().args([command, "--help"]).output().await.expect("postern runs"));
        let flags = help.split("\n      --").skip(1).filter_map(|about| about.split([' ', '[', '\n']).next());
        flags.map(|flag| format!("`--{flag}`")).collect::<BTreeSet<_>>()
    };
    let own: BTreeSet<_> = flags("setup").await.difference(&flags("serve").await).cloned().collect();
    assert_eq!(own.len(), 6, "{own:?}");
    let page = fs::read_to_string(in_tree("docs/operate/install.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let documented: BTreeSet<_> = rows.filter(|cell| cell.starts_with("`--")).map(str::to_owned).collect();
    assert_eq!(documented, own);
}
