//! `postern serve`: puts configuration, database and server together, and turns signals into a shutdown.

use anyhow::{Context, bail};
use postern_cluster::{Interrupted, PrivateCluster};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    migrate::admin_url,
    private_cluster::{self, Supervisor},
    registration::Registration,
    setup,
};
use crate::{
    body_limits,
    config::Config,
    database::{Database, SqlOutcome, generation, migrate, outcome, schema_state, witness::Witness},
    keys::{MasterKey, MasterKeys, master_keys::Sources},
    serve, telemetry,
};

/// The reason why a server does not start behind a pooler in transaction or statement mode.
const POOLED: &str = "the connection to PostgreSQL changes its session with each transaction, as behind a pooler in transaction mode: prepared statements and notifications get lost there. Connect to PostgreSQL itself, or through a pooler in session mode (PgBouncer: pool_mode = session)";

outcome! {
    pub ClaimHomeDomainOutcome: "operator.claim_home_domain_outcome" {
        Claimed = "claimed",
        Same = "same",
        Different = "different",
        Invalid = "invalid",
    }
}

pub async fn run(mut config: Config) -> anyhow::Result<()> {
    telemetry::start_logging(&config.log)?;
    setup::expect_done(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let requested = shutdown.receiver();
    let start = private_cluster::start(&mut config, move |options| {
        PrivateCluster::start_while(options, &|| !*requested.borrow())
    });
    let cluster = match start.await {
        Err(error) if error.is::<Interrupted>() => {
            tracing::info!("{error}");
            return Ok(());
        }
        started => started?,
    };
    let supervisor = cluster.map(Supervisor::start);
    let served = serve_with_database(config, shutdown).await;
    let stopped = match supervisor {
        Some(supervisor) => supervisor.stop().await,
        None => Ok(()),
    };
    served.and(stopped)
}

async fn serve_with_database(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    if config.embedded {
        migrate::run(admin_url(&config)?, Registration::for_new_of_environment()?).await?;
    }
    let url = config.database.url.as_ref().context(
        "there is no connection string for the database: give --database-url URL, or --embedded for a private cluster in the data directory",
    )?;
    let database = Database::new(url, &config.database)?;
    if !database
        .keeps_sessions()
        .await
        .context("cannot use the database (was `postern migrate` run on it?)")?
    {
        bail!("{POOLED}");
    }
    schema_state::expect_current(&database).await?;
    generation::expect_decided(&database).await?;
    generation::expect_primary(&database).await?;
    let witness = config.witness_file().map(Witness::new);
    if let Some(witness) = &witness {
        witness.expect_not_behind(&database).await?;
    }
    database.expect_decided(witness.clone());
    claim_home_domain(&database, &config.domain).await?;
    body_limits::check(&database, &config.limits).await?;
    let sources = Sources::of(&config);
    // A private cluster gets a key of its own at the first start.
    if config.embedded
        && let Some(file) = config.master_key_file()
        && !MasterKeys::database_has_one(&database).await?
    {
        MasterKey::from_file_or_new(&file)?;
    }
    let master_key = MasterKeys::load(&database, sources).await?;
    let Some(witness) = witness else {
        return serve::run(config, database, master_key, shutdown.requested()).await;
    };
    let watching = witness.watch(database.clone());
    let served = serve::run(config, database.clone(), master_key, shutdown.requested()).await;
    watching.abort();
    // The last mark; a failure to write it was logged before.
    let _told = witness.note(&database).await;
    served
}

/// Claims the database for a home domain: the database remembers it, so that a server configured for another domain
/// does not start (OPS-2).
async fn claim_home_domain(database: &Database, domain: &str) -> anyhow::Result<()> {
    let row =
        database.query_one("SELECT outcome, home FROM operator.claim_home_domain($1)", &[&domain]).await?;
    match ClaimHomeDomainOutcome::of(&row)? {
        ClaimHomeDomainOutcome::Claimed | ClaimHomeDomainOutcome::Same => Ok(()),
        ClaimHomeDomainOutcome::Different => bail!(
            "this database is the home of {}, and the home domain never changes: set the domain to that, or use another database for {domain}",
            row.get::<_, &str>("home"),
        ),
        ClaimHomeDomainOutcome::Invalid => bail!(
            "{domain} is not a domain name: it takes at least two labels of letters, digits and inner hyphens (an international name in its xn-- form)"
        ),
    }
}

/// The first SIGTERM or SIGINT asks for a shutdown; a second one ends the process at once.
struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    fn on_signals() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (requested, receiver) = watch::channel(false);
        tokio::spawn(async move {
            next_of(&mut terminate, &mut interrupt).await;
            tracing::info!("shutting down; a second signal stops at once");
            requested.send_replace(true);
            let number = next_of(&mut terminate, &mut interrupt).await;
            std::process::exit(128 + number);
        });
        Ok(Self(receiver))
    }

    /// Shows whether a shutdown was requested.
    fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    async fn requested(mut self) {
        // An error means that the sender is gone, so that no shutdown can be requested any more.
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn next_of(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
    .as_raw_value()
}
