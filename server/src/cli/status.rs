//! `postern status`: how it is, on one screen. What needs somebody comes first among the verdicts, and the exit code is the
//! worst of them. It changes nothing: a private cluster that is stopped stays so, unless it is to be started for the look.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use postern_cluster::{Stopped, size_in_words};
use tokio::{net::TcpStream, time::timeout};

use super::{
    certificate,
    private_cluster::{self, Found},
};
use crate::{
    clock::span,
    config::{Config, DatabaseConfig, ProxySource},
    database::{
        Database, DatabaseError,
        witness::{DECIDE, PUT_BACK, Witness},
    },
    health::{self, Line, Verdict},
    say::print,
};

/// Time for a look at the server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Part of the room for the private cluster from which on little is left, in percent.
const LITTLE_ROOM: u64 = 10;

/// The way to metrics where there are none.
const NO_METRICS: &str = "the server's log says why: another program may have that port; then metrics.listen has to name another one";

/// The figures of a database, by name and what they are of.
type Figures = HashMap<(String, Option<String>), f64>;

/// Prints how it is; the exit code is 0 if all is well, 1 with a warning, 2 with a problem. A private cluster that is stopped
/// is started for the look if `start` says so.
pub async fn run(config: Config, start: bool) -> ExitCode {
    let mut head = Vec::new();
    let mut lines = vec![server(&config, &mut head).await];
    lines.extend(tls(&config));
    lines.extend(tls_to_postgresql(&config));
    lines.extend(room(&config));
    database(config.clone(), start, &mut head, &mut lines).await;
    lines.sort_by_key(|line| Reverse(line.verdict.severity()));
    print(&config.domain);
    for (name, text) in head {
        print(format_args!("  {name:<11}{text}"));
    }
    print("");
    for Line { item, verdict, says, mend } in &lines {
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        };
        print(format_args!("{word:<9}{item}: {says}"));
        if let Some(mend) = mend {
            print(format_args!("         to mend: {mend}"));
        }
    }
    ExitCode::from(lines.first().map_or(0, |line| line.verdict.severity()))
}

fn ok(item: &str, says: impl Into<String>) -> Line {
    Line { item: item.to_owned(), verdict: Verdict::Ok, says: says.into(), mend: None }
}

fn problem(item: &str, says: impl Into<String>, mend: impl Into<String>) -> Line {
    Line { item: item.to_owned(), verdict: Verdict::Problem, says: says.into(), mend: Some(mend.into()) }
}

fn warning(item: &str, says: impl Into<String>, mend: impl Into<String>) -> Line {
    Line { verdict: Verdict::Warning, ..problem(item, says, mend) }
}

/// Looks at the server, by its metrics if they are on.
async fn server(config: &Config, head: &mut Vec<(&'static str, String)>) -> Line {
    const ITEM: &str = "server";
    let start = format!("{}; its log says why it ended", private_cluster::how_to_start());
    let listen = reachable(config.listen);
    let Some(metrics) = config.metrics.listen.map(reachable) else {
        // Another program may listen there: a start finds out whether it is a server.
        return match is_taken(listen).await {
            true => ok(ITEM, format!("it listens at {listen}; metrics.listen would tell more")),
            false => problem(ITEM, format!("nothing listens at {listen}"), start),
        };
    };
    let Some(text) = metrics_at(metrics).await else {
        if !is_taken(listen).await {
            let says = format!("its metrics at {metrics} do not answer, and nothing listens at {listen}");
            return problem(ITEM, says, start);
        }
        return match ready(config).await {
            Ok(()) => warning(ITEM, format!("it is ready, but shows no metrics at {metrics}"), NO_METRICS),
            Err(reason) => problem(ITEM, reason, "mend that; a server needs no restart when it is mended"),
        };
    };
    head.push(("server", describe(&text)));
    match get(&format!("http://{metrics}/ready")).await {
        Some((true, _)) => ok(ITEM, "it is ready"),
        Some((false, reason)) => {
            problem(ITEM, reason.trim().to_owned(), "mend that; a server needs no restart when it is mended")
        }
        None => problem(ITEM, "it does not say whether it is ready", start),
    }
}

/// Asks the server whether it is ready, at its own address; only the listener of metrics knows why not.
///
/// # Errors
/// The reason why it is not, for people.
pub async fn ready(config: &Config) -> Result<(), String> {
    let listen = reachable(config.listen);
    let scheme = if config.tls.certificate.is_some() { "https" } else { "http" };
    // One that expects the PROXY protocol of this machine understands nothing else.
    let is_asked =
        config.proxy.source != Some(ProxySource::ProxyProtocol) || !config.proxy.trusts(listen.ip());
    let own = if is_asked { get(&format!("{scheme}://{listen}/ready")).await } else { None };
    if own.as_ref().is_some_and(|(is_ready, _)| *is_ready) {
        return Ok(());
    }
    let told = match config.metrics.listen.map(reachable) {
        Some(metrics) => get(&format!("http://{metrics}/ready")).await,
        None => None,
    };
    match (own, told) {
        (None, Some((true, _))) if !is_asked => Ok(()),
        (_, Some((false, reason))) => Err(reason.trim().to_owned()),
        (Some(_), _) => Err(format!("the server at {listen} is not ready")),
        (None, _) => Err(format!("the server at {listen} does not answer")),
    }
}

/// The address at which this machine reaches a listener.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether some program listens at an address.
pub async fn is_taken(address: SocketAddr) -> bool {
    timeout(PATIENCE, TcpStream::connect(address)).await.is_ok_and(|connected| connected.is_ok())
}

/// The metrics that a server shows at an address, unless it is another program that answers there.
pub async fn metrics_at(address: SocketAddr) -> Option<String> {
    let (_, text) = get(&format!("http://{address}/metrics")).await?;
    text.contains("postern_build_info{").then_some(text)
}

/// The answer of a server on this machine: whether it is a success, and its text. Its certificate is not for this address.
async fn get(url: &str) -> Option<(bool, String)> {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
    let client = client.tls_danger_accept_invalid_certs(true).build().ok()?;
    let answer = client.get(url).send().await.ok()?;
    Some((answer.status().is_success(), answer.text().await.ok()?))
}

/// The server in a line, by its metrics.
fn describe(metrics: &str) -> String {
    let value = |name: &str| {
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.next().and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let version =
        metrics.split("postern_build_info{version=\"").nth(1).and_then(|rest| rest.split('"').next());
    format!(
        "version {}, up {}; {} connections, {} requests under way, {} of memory",
        version.unwrap_or("unknown"),
        span(now - value("process_start_time_seconds")),
        value("postern_connections"),
        value("postern_requests_under_way"),
        size_in_words(value("process_resident_memory_bytes") as u64),
    )
}

fn tls(config: &Config) -> Option<Line> {
    const ITEM: &str = "certificate";
    let (certificate, key) = (config.tls.certificate.as_ref()?, config.tls.key.as_ref()?);
    Some(match certificate::look(config, certificate, key) {
        Ok(days) if days < certificate::ENDING => {
            let says = format!("the one for {} ends in {days} days", certificate::host(config));
            warning(ITEM, says, "renew it: servers take the new file over")
        }
        Ok(days) => ok(ITEM, format!("the one for {} is valid for {days} days", certificate::host(config))),
        Err(found) => problem(ITEM, found.what, found.mend),
    })
}

fn tls_to_postgresql(config: &Config) -> Option<Line> {
    const ITEM: &str = "certificate for PostgreSQL";
    Some(match certificate::look_at_postgresqls(config)? {
        Ok(days) if days < certificate::ENDING => {
            let says = format!("the one of sslcert ends in {days} days");
            warning(ITEM, says, "renew it: servers take the new file over")
        }
        Ok(days) => ok(ITEM, format!("the one of sslcert is valid for {days} days")),
        Err(found) => problem(ITEM, found.what, found.mend),
    })
}

/// Looks at the room where the private cluster is.
pub fn room(config: &Config) -> Option<Line> {
    const ITEM: &str = "room";
    if !config.embedded {
        return None;
    }
    let found = nix::sys::statvfs::statvfs(&config.data_dir).ok()?;
    let left = found.blocks_available().saturating_mul(found.fragment_size());
    let says = format!("{} are left where {} is", size_in_words(left), config.data_dir.display());
    let is_little = found.blocks_available().saturating_mul(100) < found.blocks().saturating_mul(LITTLE_ROOM);
    Some(match is_little {
        true => warning(ITEM, says, "make room, or move the data directory: a full disk stops PostgreSQL"),
        false => ok(ITEM, says),
    })
}

async fn database(
    mut config: Config,
    start: bool,
    head: &mut Vec<(&'static str, String)>,
    lines: &mut Vec<Line>,
) {
    const ITEM: &str = "database";
    let dir = config.data_dir.display().to_string();
    let cluster = match private_cluster::look(&mut config, start).await {
        Ok(Found::There(cluster)) => cluster,
        Ok(Found::Stopped(Stopped { major, obstacle })) => {
            head.push((ITEM, format!("PostgreSQL {major}, stopped")));
            lines.push(match obstacle {
                Some(obstacle) => problem(
                    ITEM,
                    format!("the private cluster in {dir} is stopped, and would not start: {obstacle:#}"),
                    "do what the message says",
                ),
                None => problem(
                    ITEM,
                    format!("the private cluster in {dir} is stopped: nothing in it was looked at"),
                    format!(
                        "{}; to look without a server: --start, which starts PostgreSQL and stops it again",
                        private_cluster::how_to_start()
                    ),
                ),
            });
            return;
        }
        Ok(Found::Missing) => {
            let says = format!("there is no private cluster in {dir}");
            let mend = match config.create_cluster {
                true => "the first `postern serve --embedded` makes it",
                false => "mount its disk, or bring it back from a backup (`postern restore`)",
            };
            lines.push(problem(ITEM, says, mend));
            return;
        }
        Err(error) => {
            lines.push(problem(ITEM, format!("{error:#}"), "do what the message says"));
            return;
        }
    };
    match look(&config, head).await {
        Ok(found) => lines.extend(found),
        Err(error) => {
            lines.push(problem(ITEM, format!("{error:#}"), "`postern check` finds out what is wrong"));
        }
    }
    if let Err(error) = private_cluster::stop(cluster).await {
        lines.push(problem(ITEM, format!("{error:#}"), "look at its postgres.log"));
    }
}

/// Takes the verdicts and the figures of the database.
async fn look(config: &Config, head: &mut Vec<(&'static str, String)>) -> anyhow::Result<Vec<Line>> {
    let Some(url) = &config.database.url else {
        anyhow::bail!("there is no connection string: database.url")
    };
    let database = Database::new(url, &DatabaseConfig { pool_size: 1, ..config.database.clone() })?;
    let mut lines = health::look(&database).await?.lines;
    if let Some(file) = config.witness_file()
        && Witness::new(file).is_behind(&database).await?
    {
        lines.push(problem("witness", PUT_BACK, DECIDE));
    }
    let mut figures = read(&database, "SELECT figure, label, value FROM operator.figures()").await?;
    figures.extend(read(&database.for_chores(), "SELECT figure, label, value FROM operator.counts()").await?);
    let version = database.query_one("SELECT current_setting('server_version')", &[]).await?;
    let older = config.embedded.then(|| private_cluster::older_than_installed(version.get(0))).flatten();
    lines.extend(older.map(|(says, mend)| warning("PostgreSQL", says, mend)));
    let of = |name: &str, label: &str| figure(&figures, name, Some(label));
    let the = |name: &str| figure(&figures, name, None);
    let waiting: f64 = sum(&figures, "outbox");
    head.push((
        "database",
        format!(
            "PostgreSQL {}, {} and {} of WAL; {} of {} sessions",
            version.get::<_, &str>(0),
            size_in_words(the("database_bytes") as u64),
            size_in_words(the("wal_bytes") as u64),
            the("sessions_all"),
            the("sessions_max"),
        ),
    ));
    head.push((
        "users",
        format!(
            "{} with {} clients; {} took tokens today, {} yesterday",
            the("users"),
            the("clients"),
            of("active_users", "today"),
            of("active_users", "yesterday"),
        ),
    ));
    head.push((
        "groups",
        format!("{}, {} of them active since yesterday", of("groups", "all"), of("groups", "active")),
    ));
    head.push((
        "queues",
        format!(
            "{}, in which {} messages wait; {} are nearly full",
            sum(&figures, "queues"),
            sum(&figures, "queued_messages"),
            sum(&figures, "full_queues"),
        ),
    ));
    head.push(("neighbours", format!("{}, for which {waiting} deliveries wait", the("neighbours"))));
    Ok(lines)
}

async fn read(database: &Database, sql: &str) -> Result<Figures, DatabaseError> {
    let rows = database.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

fn figure(figures: &Figures, name: &str, label: Option<&str>) -> f64 {
    figures.get(&(name.to_owned(), label.map(str::to_owned))).copied().unwrap_or_default()
}

/// The figures of a name together.
fn sum(figures: &Figures, name: &str) -> f64 {
    figures.iter().filter(|((found, _), _)| found == name).map(|(_, value)| value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_for_all_addresses_is_reached_at_this_machines() {
        for (listen, expected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("192.0.2.1:3", "192.0.2.1:3")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[test]
    fn a_server_is_described_by_its_metrics() {
        let metrics = "postern_build_info{version=\"7.1.0\"} 1.0\nprocess_start_time_seconds 0.0\n\
                       postern_connections_max 9.0\npostern_connections 4.0\n";
        let described = describe(metrics);
        assert!(described.starts_with("version 7.1.0, up "), "{described}");
        assert!(described.contains(" days; 4 connections, 0 requests under way"), "{described}");
    }
}
