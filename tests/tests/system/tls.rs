//! TLS (OPS-8): in the server, with certificates that change while it runs, and to PostgreSQL, as its URL says.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use postern_server::{
    config::{ConnectionString, DatabaseConfig},
    database::{Database, Way},
};
use postern_tests_kit::{Authority, Certificate, Cluster, HOME, Server, eventually, postern, program};
use reqwest::{StatusCode, Version, tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::timeout,
};
use tokio_postgres::Client as Connection;

use crate::backup::{fails, succeeds};

/// Longer than any bound of these servers, on a busy machine.
const SECONDS: Duration = Duration::from_secs(50);
/// The series of the end of the certificate that is served.
const SERVED_UNTIL: &str = "postern_certificate_end_timestamp_seconds{of=\"listener\"}";
/// The series of the end of the certificate that is shown to PostgreSQL.
const SHOWN_UNTIL: &str = "postern_certificate_end_timestamp_seconds{of=\"postgresql\"}";

/// A client that trusts an authority, and finds the home domain at an address.
fn client(authority: &Authority, address: SocketAddr) -> reqwest::ClientBuilder {
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is a certificate");
    reqwest::Client::builder().tls_certs_only([root]).resolve(HOME, address)
}

async fn health(client: &reqwest::Client, address: SocketAddr) -> Result<reqwest::Response, reqwest::Error> {
    client.get(format!("https://{HOME}:{}/health", address.port())).send().await
}

#[tokio::test]
async fn a_server_with_a_certificate_speaks_tls_1_3_with_http_2_or_1_and_nothing_else() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let server = Server::builder(&cluster).tls(&authority.certify(&[HOME])).start().await;
    let address = server.address();
    assert!(server.url().starts_with("https://"), "{}", server.url());
    let reply = health(&client(&authority, address).build().unwrap(), address).await.unwrap();
    assert_eq!((reply.status(), reply.version()), (StatusCode::NO_CONTENT, Version::HTTP_2));
    let http1 = client(&authority, address).http1_only().build().unwrap();
    assert_eq!(health(&http1, address).await.unwrap().version(), Version::HTTP_11);

    let old = client(&authority, address).tls_version_max(tls::Version::TLS_1_2).build().unwrap();
    assert!(health(&old, address).await.is_err(), "TLS 1.2");
    let stranger = client(&Authority::new(), address).build().unwrap();
    assert!(health(&stranger, address).await.is_err(), "another authority");
    let plain = reqwest::get(format!("http://{address}/health")).await;
    assert!(plain.is_err(), "plain HTTP");
    assert_eq!(health(&http1, address).await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_server_takes_a_new_certificate_over_and_goes_on_with_the_old_one_if_that_is_of_no_use() {
    let cluster = Cluster::start().await;
    let (first, second) = (Authority::new(), Authority::new());
    let files = first.certify(&[HOME]);
    let server = Server::builder(&cluster).tls(&files).start().await;
    let address = server.address();
    let connected = client(&first, address).build().unwrap();
    health(&connected, address).await.expect("the first certificate");

    // A certificate whose key is another's, as while one file is written and the other is not.
    let other = second.certify(&[HOME]);
    fs::copy(&other.certificate, &files.certificate).expect("it can be copied");
    eventually("the log says so", async || {
        server.log().contains("could not take over another certificate: the one before stays").then_some(())
    })
    .await;
    let newcomer = client(&first, address).build().unwrap();
    health(&newcomer, address).await.expect("the old certificate is served to new connections");

    other.replace(&files);
    eventually("new connections get the new certificate", async || {
        health(&client(&second, address).build().unwrap(), address).await.ok()
    })
    .await;
    eventually("the log tells of it", async || {
        server.log().contains("certificate is another one from now on").then_some(())
    })
    .await;
    let newcomer = client(&first, address).build().unwrap();
    assert!(health(&newcomer, address).await.is_err(), "the old one is gone");

    fs::write(&files.certificate, "no certificate").expect("it can be written");
    fs::remove_file(&files.key).expect("it can be removed");
    server.signal(Signal::SIGHUP);
    eventually("it has looked at them", async || {
        server.log().contains("looked at the files of certificates").then_some(())
    })
    .await;
    health(&client(&second, address).build().unwrap(), address).await.expect("it goes on");
}

#[tokio::test]
async fn a_renewal_that_went_wrong_is_told_and_the_certificate_before_serves_to_its_end() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let first = authority.certify_for_days(&[HOME], 40);
    let files = authority.certify(&["placeholder.example"]);
    first.replace(&files);
    let server = Server::builder(&cluster).tls(&files).metrics().start().await;
    let address = server.address();
    let metrics = server.metrics_url().await;
    let metrics =
        metrics.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics")).expect("it is a URL");
    let status = async || {
        let mut status = postern();
        status
            .arg("status")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_DATABASE_URL", cluster.server_url())
            .env("POSTERN_METRICS_LISTEN", metrics)
            .env("POSTERN_FEDERATION_TRUSTED_ROOTS", authority.file())
            .env("POSTERN_TLS_CERTIFICATE", &files.certificate)
            .env("POSTERN_TLS_KEY", &files.key);
        let output = status.output().await.expect("postern runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let end = server.metric(SERVED_UNTIL).await;
    assert_eq!(server.metric("postern_certificate_current").await, 1.0);
    let other = authority.certify(&[HOME]);
    let pair = |certificate: &Certificate, key: &Certificate| Certificate {
        certificate: certificate.certificate.clone(),
        key: key.key.clone(),
    };
    for (what, new, expected) in [
        ("another's key", Some(pair(&other, &first)), "the key is not the certificate's"),
        ("another name", Some(authority.certify(&["other.example"])), "it is not valid for home.example"),
        ("it ended", Some(authority.certify_for_days(&[HOME], -3)), "it ended 3 days ago"),
        ("it is gone", None, "No such file"),
    ] {
        match new {
            Some(new) => new.replace(&files),
            None => fs::remove_file(&files.certificate).expect("it is there"),
        }
        // It looks by itself every five seconds.
        server.signal(Signal::SIGHUP);
        eventually(what, async || (server.metric("postern_certificate_current").await == 0.0).then_some(()))
            .await;
        assert_eq!(server.metric(SERVED_UNTIL).await, end, "{what}");
        let newcomer = client(&authority, address).build().unwrap();
        health(&newcomer, address).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (code, text) = status().await;
        assert_eq!(code, Some(2), "{what}: {text}");
        assert!(text.contains("problem  certificate: ") && text.contains(expected), "{what}: {text}");
        eventually(&format!("the log tells: {what}"), async || {
            let log = server.log();
            let told = log.lines().rfind(|line| line.contains("could not take over another certificate"))?;
            (told.contains(expected) && told.contains("the one before stays")).then_some(())
        })
        .await;
        // Once it is mended, all is well.
        first.replace(&files);
        server.signal(Signal::SIGHUP);
        eventually(what, async || (server.metric("postern_certificate_current").await == 1.0).then_some(()))
            .await;
        assert!(status().await.1.contains("ok       certificate: the one for home.example"), "{what}");
    }
    other.replace(&files);
    eventually("a good one is taken over", async || (server.metric(SERVED_UNTIL).await > end).then_some(()))
        .await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_renewed_by_one_for_another_name() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let files = authority.certify_for_days(&["other.example"], 40);
    let server = Server::builder(&cluster).tls(&files).metrics().start().await;
    let end = server.metric(SERVED_UNTIL).await;
    // What is served is no better.
    authority.certify(&["another.example"]).replace(&files);
    server.signal(Signal::SIGHUP);
    eventually("it is taken over", async || {
        let is_current = server.metric("postern_certificate_current").await == 1.0;
        let new_end = server.metric(SERVED_UNTIL).await;
        (is_current && new_end > end).then_some(())
    })
    .await;
}

#[tokio::test]
async fn files_that_are_of_no_use_keep_a_server_from_starting() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let (good, other) = (authority.certify(&[HOME]), authority.certify(&[HOME]));
    let mixed = Certificate { key: other.key, ..good.clone() };
    let missing = Certificate { certificate: "/nowhere/server.crt".into(), ..good.clone() };
    let swapped = Certificate { certificate: good.key.clone(), key: good.certificate.clone() };
    for (what, files, expected) in [
        ("another's key", mixed, "the key is not the certificate's"),
        ("no file", missing, "cannot read /nowhere/server.crt"),
        ("one for the other", swapped, "no certificate"),
    ] {
        let error = Server::builder(&cluster).tls(&files).try_start().await.err().expect(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let half = Server::builder(&cluster)
        .env("POSTERN_TLS_CERTIFICATE", &good.certificate.display().to_string())
        .try_start()
        .await;
    assert!(half.err().expect("no key").contains("tls.certificate and tls.key go together"));
}

#[tokio::test]
async fn handshakes_that_stall_are_ended_and_keep_nobody_out() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let server = Server::builder(&cluster)
        .tls(&authority.certify(&[HOME]))
        .env("POSTERN_HEADER_TIMEOUT_SECONDS", "15")
        .env("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "8")
        .start()
        .await;
    let address = server.address();
    let begun = Instant::now();
    let mut stalled = Vec::new();
    // A record's header that announces a ClientHello (RFC 8446 §5.1), and nothing at all.
    for start in [&[22, 3, 1, 1, 0][..], &[]].repeat(10) {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(start).await.unwrap();
        stalled.push(connection);
    }
    let reply = timeout(SECONDS, health(&client(&authority, address).build().unwrap(), address)).await;
    assert_eq!(reply.expect("at once").unwrap().status(), StatusCode::NO_CONTENT);
    assert!(begun.elapsed() < Duration::from_secs(15), "it did not wait for them: {:?}", begun.elapsed());
    for mut connection in stalled {
        let ended = timeout(SECONDS, connection.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "it is still open");
    }
}

/// `postern check` of a server with these files.
fn check(cluster: &Cluster, files: &Certificate) -> Command {
    let mut command = postern();
    command
        .arg("check")
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_URL", cluster.server_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key())
        .env("POSTERN_TLS_CERTIFICATE", &files.certificate)
        .env("POSTERN_TLS_KEY", &files.key);
    command
}

/// The lines of a report about TLS.
async fn about_tls(mut command: Command) -> String {
    let output = command.output().await.expect("postern runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let place = lines.iter().position(|line| line.contains(" TLS: ")).unwrap_or_else(|| panic!("{text}"));
    lines[place..(place + 3).min(lines.len())].join("\n")
}

#[tokio::test]
async fn check_looks_at_a_certificates_names_chain_and_end() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let trusting = |files: &Certificate, more: &[(&str, &str)]| {
        let mut command = check(&cluster, files);
        command.env("POSTERN_FEDERATION_TRUSTED_ROOTS", authority.file());
        command.envs(more.iter().copied());
        about_tls(command)
    };
    let good = authority.certify(&[HOME, "chat.home.example"]);
    let report = trusting(&good, &[]).await;
    assert!(report.starts_with("ok       TLS: certificate for home.example, valid for 36"), "{report}");
    let elsewhere = [("POSTERN_BASE_URL", "https://chat.home.example")];
    let report = trusting(&good, &elsewhere).await;
    assert!(report.starts_with("ok       TLS: certificate for chat.home.example"), "{report}");
    assert!(
        report.contains("https://home.example/.well-known/postern has to lead to this server"),
        "{report}"
    );
    let report = trusting(&authority.certify_for_days(&[HOME], 9), &[]).await;
    let ends = |days: u8| report.contains(&format!("note     TLS: the certificate ends in {days} days"));
    assert!(ends(9) || ends(8), "{report}");

    let other = authority.certify(&["other.example"]);
    for (what, files, expected) in [
        ("ended", authority.certify_for_days(&[HOME], -3), "it ended 3 days ago"),
        ("another name", other.clone(), "it is not valid for home.example"),
        ("another authority", Authority::new().certify(&[HOME]), "problem  TLS"),
        (
            "another's key",
            Certificate { key: other.key.clone(), ..good.clone() },
            "the key is not the certificate's",
        ),
    ] {
        let report = trusting(&files, &[]).await;
        assert!(report.starts_with("problem  TLS: ") && report.contains(expected), "{what}: {report}");
        assert!(report.contains("to mend: "), "{what}: {report}");
    }
    let report = about_tls(check(&cluster, &good)).await;
    assert!(report.contains("no authority that this system trusts vouches for it"), "{report}");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&good.key, open).unwrap();
    let report = trusting(&good, &[]).await;
    assert!(report.contains("everybody on this machine can read it"), "{report}");

    let plain = async |listen: &str| {
        let mut command = check(&cluster, &good);
        command.env_remove("POSTERN_TLS_CERTIFICATE").env_remove("POSTERN_TLS_KEY");
        about_tls({
            command.env("POSTERN_LISTEN", listen);
            command
        })
        .await
    };
    assert!(plain("127.0.0.1:8008").await.starts_with("ok       TLS: none: plain HTTP at 127.0.0.1:8008"));
    assert!(plain("0.0.0.0:8008").await.starts_with("problem  TLS: none: plain HTTP at 0.0.0.0:8008"));
}

/// Whether PostgreSQL can be used by this connection string.
async fn connects(url: &str) -> Result<(), String> {
    let database = Database::new(&ConnectionString::new(url), &DatabaseConfig::default());
    let database = database.map_err(|error| error.to_string())?;
    let kept = timeout(SECONDS, database.keeps_sessions()).await.expect("it is decided in seconds");
    kept.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_url_of_postgresql_says_how_much_of_it_is_verified() {
    let authority = Authority::new();
    let files = authority.certify(&["db.example"]);
    let (_cluster, address) = Cluster::start_with_tls(&files).await;
    let to = |host: &str, more: &str| {
        format!("host={host} hostaddr={address} user=postern_server dbname=postern {more}")
    };
    let root = |file: &Path| format!("sslrootcert={}", file.display());
    let (right, wrong) = (root(&authority.file()), Authority::new());
    let wrong = root(&wrong.file());

    connects(&to("db.example", &format!("sslmode=verify-full {right}"))).await.expect("all is right");
    let url = format!(
        "postgresql://postern_server@db.example:5432/postern?hostaddr={address}&sslmode=verify-full&{right}"
    );
    connects(&url).await.expect("the same as a URL");
    for mode in ["prefer", "require"] {
        connects(&to("other.example", &format!("sslmode={mode}"))).await.expect("nothing is verified");
    }
    connects(&to("other.example", "")).await.expect("prefer is the default");
    connects(&to("other.example", &format!("sslmode=verify-ca {right}"))).await.expect("the name is not");
    for (what, host, more) in [
        ("another name", "other.example", format!("sslmode=verify-full {right}")),
        ("its address is no name of its", &address.to_string(), format!("sslmode=verify-full {right}")),
        ("another authority", "db.example", format!("sslmode=verify-full {wrong}")),
        ("another authority", "db.example", format!("sslmode=verify-ca {wrong}")),
        ("another authority, as libpq has it", "db.example", format!("sslmode=require {wrong}")),
        ("the system does not trust it", "db.example", "sslrootcert=system".to_owned()),
        ("the database asks for TLS", "db.example", "sslmode=disable".to_owned()),
    ] {
        let refused = connects(&to(host, &more)).await;
        assert!(refused.is_err(), "{what}");
    }
    let error = connects(&to("db.example", &format!("sslmode=verify-full {wrong}"))).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");

    // The commands that run PostgreSQL's programs go there before: a program verifies as much, all the same.
    let psql = |host: &str, mode: &str| {
        let url = to(host, &format!("sslmode={mode} {right}"));
        let way = Way::of(&ConnectionString::new(&url)).expect("it is a connection string");
        let told = way.for_program(&[], "").expect("it has files");
        let mut psql = Command::new(program("psql"));
        psql.args(["--no-password", "-XAtc", "SELECT 1"]).arg(format!("--dbname={told}"));
        psql
    };
    succeeds(&mut psql("db.example", "verify-full")).await;
    succeeds(&mut psql("other.example", "verify-ca")).await;
    fails(&mut psql("other.example", "verify-full"), "does not match host name").await;
}

#[tokio::test]
async fn a_certificate_that_vouches_for_itself_is_verified_by_itself() {
    let authority = Authority::new();
    let files = authority.self_signed(&["db.example"]);
    let (_cluster, address) = Cluster::start_with_tls(&files).await;
    let to = |host: &str, root: &Path| {
        format!(
            "host={host} hostaddr={address} user=postern_server dbname=postern sslmode=verify-full sslrootcert={}",
            root.display()
        )
    };
    connects(&to("db.example", &files.certificate)).await.expect("it is in the file");
    connects(&to("other.example", &files.certificate)).await.expect_err("another name");
    let other = authority.self_signed(&["db.example"]);
    connects(&to("db.example", &other.certificate)).await.expect_err("another one");
}

#[tokio::test]
async fn every_connection_to_postgresql_has_the_tls_that_the_url_asks_for() {
    let authority = Authority::new();
    let (cluster, address) = Cluster::start_with_tls(&authority.certify(&["db.example"])).await;
    let to = |user: &str| {
        format!(
            "host=db.example hostaddr={address} user={user} dbname=postern sslmode=verify-full sslrootcert={}",
            authority.file().display()
        )
    };
    let server = Server::builder(&cluster).database(&to("postern_server")).start().await;
    let admin = cluster.admin().await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'NOTIFY postern_echo%'";
    eventually("it listens", async || {
        (admin.query_one(listening, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    reqwest::get(format!("{}/health", server.url())).await.unwrap();
    let sessions = "SELECT count(*) FILTER (WHERE s.ssl AND s.version = 'TLSv1.3'), count(*)
                      FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.application_name LIKE 'postern %'";
    let row = admin.query_one(sessions, &[]).await.unwrap();
    let (encrypted, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2 && encrypted == all, "{encrypted} of {all}");

    for command in ["migrate", "check"] {
        let mut run = postern();
        run.arg(command)
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_MASTER_KEY", cluster.master_key())
            .env("POSTERN_DATABASE_URL", to("postern_server"))
            .env("POSTERN_DATABASE_ADMIN_URL", to("postern_admin"));
        let output = run.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text} {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut wrong = postern();
    wrong.arg("migrate").env("POSTERN_DOMAIN", HOME).env(
        "POSTERN_DATABASE_ADMIN_URL",
        to("postern_admin").replace("host=db.example", "host=other.example"),
    );
    let output = wrong.output().await.unwrap();
    assert!(!output.status.success(), "another name");
}

/// PostgreSQL's programs go the way that the URL says, whichever libpq they have (that of 15 knows no `system`), and whatever is in
/// their user's home directory and environment.
#[tokio::test(flavor = "multi_thread")]
async fn backup_restore_and_psql_have_the_tls_that_the_url_asks_for() {
    let authority = Authority::new();
    let (cluster, address) = Cluster::start_with_tls(&authority.certify(&["db.example"])).await;
    assert!(Server::start(&cluster).await.terminate().await.success());
    cluster.another_database("elsewhere").await;
    let to = |database: &str, more: &str| {
        format!("host=db.example hostaddr={address} user=postern_admin dbname={database} {more}")
    };
    let places = tempfile::tempdir().expect("there is room");
    // libpq alone would verify by this authority, also where nothing is to be verified.
    let home = places.path().join("home");
    fs::create_dir_all(home.join(".postgresql")).expect("it is ours");
    fs::copy(Authority::new().file(), home.join(".postgresql/root.crt")).expect("it can be copied");
    let run = |command: &str, url: &str| {
        let mut run = postern();
        run.arg(command)
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_MASTER_KEY", cluster.master_key())
            .env("POSTERN_DATABASE_ADMIN_URL", url)
            .env("SSL_CERT_FILE", authority.file())
            .env("HOME", &home)
            .env("PGSERVICE", "nowhere")
            .env("PGSSLMODE", "disable");
        run
    };
    let file = format!("sslmode=verify-full sslrootcert={}", authority.file().display());
    for (number, more) in [
        "sslrootcert=system",
        file.as_str(),
        "sslmode=require",
        "",
        "load_balance_hosts=random keepalives_count=3 tcp_user_timeout=60000 sslnegotiation=postgres",
    ]
    .into_iter()
    .enumerate()
    {
        let said = succeeds(run("psql", &to("postern", more)).args([
            "--",
            "-XAtc",
            "SELECT s.ssl, s.version FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()",
        ]))
        .await;
        assert!(said.contains("t|TLSv1.3"), "{more:?}: {said}");
        let dir = places.path().join(number.to_string());
        succeeds(run("backup", &to("postern", more)).arg(&dir)).await;
    }
    let system = to("elsewhere", "sslrootcert=system");
    succeeds(run("restore", &system).arg(places.path().join("0"))).await;

    // A parameter that the driver does not know is refused before anything is done, and `check` says so.
    let unreadable = "a parameter or a value that is not supported: operate/configure.md";
    for (more, expected) in [
        ("sslpassword=x", unreadable),
        ("service=x", unreadable),
        ("require_auth=scram-sha-256", unreadable),
        ("target_session_attrs=primary", unreadable),
        ("sslnegotiation=direct", "sslnegotiation=direct needs an sslmode"),
    ] {
        let url = to("postern", more);
        for command in ["migrate", "psql"] {
            fails(&mut run(command, &url), expected).await;
        }
        for command in ["backup", "restore"] {
            // A restore looks at the backup first.
            let dir = if command == "restore" { "0" } else { "refused" };
            fails(run(command, &url).arg(places.path().join(dir)), expected).await;
        }
        let mut check = run("check", &url);
        check.env("POSTERN_DATABASE_URL", cluster.server_url());
        let said = succeeds(&mut check).await;
        assert!(said.contains("warning  database.admin_url: ") && said.contains(expected), "{more}: {said}");
        fails(check.env("POSTERN_DATABASE_URL", &url), expected).await;
    }
}

/// A connection string for the server's role, with all files of TLS.
fn by_certificate(address: Ipv4Addr, roots: &Path, ours: &Certificate) -> String {
    format!(
        "host=db.example hostaddr={address} user=postern_server dbname=postern sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
        roots.display(),
        ours.certificate.display(),
        ours.key.display()
    )
}

async fn is_ready(server: &Server) -> bool {
    reqwest::get(format!("{}/ready", server.url())).await.is_ok_and(|answer| answer.status().is_success())
}

/// Ends the sessions of servers; returns the time before that, as PostgreSQL has it.
async fn end_sessions(admin: &Connection) -> String {
    let sql = "SELECT statement_timestamp()::text, count(pg_terminate_backend(pid))
                 FROM pg_stat_activity WHERE usename = 'postern_server'";
    admin.query_one(sql, &[]).await.expect("a superuser may").get(0)
}

/// Whether a server has opened a session by a certificate since then.
async fn has_new_session(admin: &Connection, since: &str) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                WHERE usename = 'postern_server' AND client_dn LIKE '%CN=postern_server%'
                  AND backend_start > $1::text::timestamptz";
    admin.query_one(sql, &[&since]).await.expect("it can be read").get::<_, i64>(0) > 0
}

/// The server logs why it cannot use the files, and opens new sessions all the same.
async fn assert_goes_on(server: &Server, admin: &Connection, what: &str, expected: &str) {
    // It looks by itself every five seconds, and does not say the same of each look.
    server.signal(Signal::SIGHUP);
    eventually(what, async || {
        let log = server.log();
        let mut told = log.lines().filter(|line| line.contains("could not take over other files of TLS"));
        told.any(|line| line.contains("those before stay") && line.contains(expected)).then_some(())
    })
    .await;
    let since = end_sessions(admin).await;
    eventually(what, async || has_new_session(admin, &since).await.then_some(())).await;
}

#[tokio::test]
async fn new_sessions_of_postgresql_have_what_the_files_of_tls_hold_now() {
    let (first, second) = (Authority::new(), Authority::new());
    let ours = first.certify_role("postern_server", 40);
    let roots = ours.certificate.with_extension("roots");
    fs::copy(first.file(), &roots).expect("it can be copied");
    let (cluster, address) = Cluster::start_with_certificates(&first.certify(&["db.example"]), &first).await;
    let url = by_certificate(address, &roots, &ours);
    let server = Server::builder(&cluster).database(&url).metrics().start().await;
    eventually("it is ready", async || is_ready(&server).await.then_some(())).await;
    let end = server.metric(SHOWN_UNTIL).await;
    let admin = cluster.admin().await;
    let since = end_sessions(&admin).await;
    eventually("by its certificate", async || has_new_session(&admin, &since).await.then_some(())).await;

    // A certificate whose key is another's, as while one file is written and the other is not.
    let next = second.certify_role("postern_server", 80);
    fs::copy(&next.certificate, &ours.certificate).expect("it can be copied");
    assert_goes_on(&server, &admin, "no pair", "the key is not the certificate's").await;

    // PostgreSQL has another certificate, and takes those of another authority only.
    cluster.replace_certificates(&second.certify(&["db.example"]), &second).await;
    end_sessions(&admin).await;
    eventually("no session can be opened", async || (!is_ready(&server).await).then_some(())).await;
    next.replace(&ours);
    fs::copy(second.file(), &roots).expect("it can be copied");
    eventually("the log tells of it", async || {
        server.log().contains("new sessions of PostgreSQL have other files of TLS from now on").then_some(())
    })
    .await;
    eventually("it is ready again", async || is_ready(&server).await.then_some(())).await;
    let days = (server.metric(SHOWN_UNTIL).await - end) / 86400.0;
    assert!((39.0..41.0).contains(&days), "{days} days more");

    // Files that are of no use change nothing.
    fs::write(&roots, "no certificate").expect("it can be written");
    assert_goes_on(&server, &admin, "no authority", "it has no certificate in PEM").await;
    fs::copy(second.file(), &roots).expect("it can be copied");
    second.certify_role("postern_server", -3).replace(&ours);
    assert_goes_on(&server, &admin, "it ended", "it ended 3 days ago").await;
    fs::remove_file(&ours.key).expect("it is there");
    assert_goes_on(&server, &admin, "it is gone", "No such file").await;
}

#[tokio::test]
async fn check_and_status_tell_the_end_of_the_certificate_for_postgresql() {
    let authority = Authority::new();
    let (cluster, address) =
        Cluster::start_with_certificates(&authority.certify(&["db.example"]), &authority).await;
    let run = async |command: &str, ours: &Certificate| {
        let mut run = postern();
        run.arg(command)
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_MASTER_KEY", cluster.master_key())
            .env("POSTERN_DATABASE_URL", by_certificate(address, &authority.file(), ours));
        let output = run.output().await.expect("postern runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (days, checked, status) in [
        (
            40,
            "ok       TLS to PostgreSQL: certificate of sslcert, valid for DAYS days",
            "ok       certificate for PostgreSQL: the one of sslcert is valid for DAYS days",
        ),
        (
            9,
            "note     TLS to PostgreSQL: the certificate of sslcert ends in DAYS days",
            "warning  certificate for PostgreSQL: the one of sslcert ends in DAYS days",
        ),
        (
            -3,
            "problem  TLS to PostgreSQL: sslcert: it ended 3 days ago",
            "problem  certificate for PostgreSQL: sslcert: it ended 3 days ago",
        ),
    ] {
        let ours = authority.certify_role("postern_server", days);
        for (command, expected) in [("check", checked), ("status", status)] {
            let text = run(command, &ours).await;
            // A part of the last day is over.
            let tells = |days: i64| text.contains(&expected.replace("DAYS", &days.to_string()));
            assert!(tells(days) || tells(days - 1), "{command}: no {expected:?} in\n{text}");
        }
    }
    let mut without = check(&cluster, &authority.certify(&[HOME]));
    let output = without.output().await.expect("postern runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" database: reachable") && !text.contains("TLS to PostgreSQL"), "{text}");
}
