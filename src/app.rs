//! Builds, starts and stops everything.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, ApiState},
    config::{Config, Database, Role},
    data_dir::{DataDir, InUse, kept_master_key},
    egress::Egress,
    oauth::AccessTokens,
    pop3::{Connector, Deadlines},
    postgres::PrivatePostgres,
    retention,
    store::{self, MasterKey, Store, wakeups::Wakeups},
    sync,
    webhooks::Dispatcher,
};

/// How long to wait for Postgres at the start: it may be starting too, or recovering.
const DATABASE_PATIENCE: Duration = Duration::from_secs(60);

/// How long a stop may take before what still runs is abandoned, which loses nothing.
const STOP_PATIENCE: Duration = Duration::from_secs(18);

/// The database of this process: somebody else's, or a private one that stops with it.
#[derive(Debug)]
pub struct OpenDatabase {
    /// How to use it.
    pub store: Store,
    admin_key: Option<SecretString>,
    private: Option<(DataDir, PrivatePostgres)>,
}

impl OpenDatabase {
    /// Like [`Self::open`], but uses the private Postgres of a popbridge that runs already.
    ///
    /// # Errors
    /// When the database does not answer; the message says what to do.
    pub async fn join(database: Database) -> anyhow::Result<Self> {
        let Database::Private {
            data_dir,
            master_key,
            admin_key,
        } = &database
        else {
            return Self::open(database).await;
        };
        match Self::open(database.clone()).await {
            Err(error) if error.is::<InUse>() => {
                let master_key = match master_key {
                    Some(key) => key.clone(),
                    None => kept_master_key(data_dir)?,
                };
                let store = Store::new(&PrivatePostgres::url_of(data_dir)?, master_key)?;
                Ok(Self {
                    store,
                    admin_key: admin_key.clone(),
                    private: None,
                })
            }
            opened => opened,
        }
    }

    /// Starts the private Postgres where the settings ask for one, and waits until the database
    /// answers.
    ///
    /// # Errors
    /// When it does not, or another popbridge has the data directory; the message says what to do.
    pub async fn open(database: Database) -> anyhow::Result<Self> {
        let open = match database {
            Database::External {
                url,
                master_key,
                admin_key,
            } => {
                let store = Store::new(url.expose_secret(), master_key)
                    .context("DATABASE_URL is not a Postgres URL")?;
                Self {
                    store,
                    admin_key,
                    private: None,
                }
            }
            Database::Private {
                data_dir,
                master_key,
                admin_key,
            } => {
                let data_dir = DataDir::open(&data_dir)?;
                let master_key: MasterKey = match master_key {
                    Some(key) => key,
                    None => data_dir.master_key()?,
                };
                let admin_key = match admin_key {
                    Some(key) => key,
                    None => data_dir.admin_key()?,
                };
                let postgres = PrivatePostgres::start(data_dir.path()).await?;
                let store = Store::new(postgres.url(), master_key)?;
                Self {
                    store,
                    admin_key: Some(admin_key),
                    private: Some((data_dir, postgres)),
                }
            }
        };
        if let Err(error) = await_database(&open.store).await {
            open.close().await?;
            return Err(error);
        }
        Ok(open)
    }

    /// Ends all connections and stops the private Postgres.
    ///
    /// # Errors
    /// When that cannot be stopped.
    pub async fn close(self) -> anyhow::Result<()> {
        self.store.close().await;
        if let Some((_data_dir, postgres)) = self.private {
            postgres.stop().await?;
        }
        Ok(())
    }
}

async fn await_database(store: &Store) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + DATABASE_PATIENCE;
    let mut told = false;
    loop {
        match store.ping().await {
            Ok(()) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error).context("the database does not answer; check DATABASE_URL");
            }
            Err(error) if !told => {
                tracing::warn!(%error, "waiting for the database");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A running popbridge.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    database: OpenDatabase,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl App {
    /// Starts the parts that `role` names. When this returns, the API answers.
    ///
    /// # Errors
    /// When the database or the address cannot be used; the message says what to do.
    pub async fn start(
        config: Config,
        role: Role,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!(
                "cannot listen on {}; is another program there? Set POPBRIDGE_LISTEN",
                config.listen
            )
        })?;
        let address = listener.local_addr()?;
        let database = OpenDatabase::open(config.database.clone()).await?;
        let mut app = Self {
            address,
            database,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        match app.start_parts(config, role, listener, metrics).await {
            Ok(()) => Ok(app),
            Err(error) => {
                app.stop().await?;
                Err(error)
            }
        }
    }

    async fn start_parts(
        &mut self,
        config: Config,
        role: Role,
        listener: TcpListener,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<()> {
        let store = self.database.store.clone();
        if config.migrate {
            store.migrate().await?;
        }
        if self.database.private.is_some() {
            // The data directory's lock says so: nobody else works with this database.
            store.release_all_leases().await?;
            store.release_all_deliveries().await?;
        }
        let wakeups = Wakeups::default();
        let egress = Egress::new(config.egress_allow);
        let connector = Connector::new(egress.clone(), Deadlines::default())?;
        let state = ApiState::new(
            store.clone(),
            wakeups.clone(),
            self.database.admin_key.as_ref(),
            metrics,
            &connector,
        );
        let watched = store.clone();
        self.spawn("database watch", |stop| async move {
            watched.watch(&stop).await
        });
        let router = match role {
            Role::All | Role::Api => api::router(state, &config.cors_origins),
            Role::Worker => api::operations_router(state),
        };
        self.spawn("HTTP server", |stop| async move {
            let serve =
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = serve.await {
                tracing::error!(%error, "the HTTP server failed");
            }
        });
        if role != Role::Api {
            let pool = sync::Pool::new(
                store.clone(),
                wakeups.clone(),
                connector,
                AccessTokens::new(store.clone(), egress.clone())?,
                sync::Limits {
                    sessions: config.sync_concurrency,
                    sessions_per_host: config.sync_concurrency_per_host,
                    memory: config.memory_budget,
                },
            );
            self.spawn("sync workers", |stop| async move { pool.run(&stop).await });
            let (kept, told) = (store.clone(), wakeups.clone());
            self.spawn("retention", |stop| async move {
                retention::run(&kept, &told, &stop).await;
            });
            let dispatcher = Dispatcher::new(store.clone(), wakeups.clone(), egress)?;
            self.spawn("webhook dispatcher", |stop| async move {
                dispatcher.run(stop).await
            });
        }
        self.spawn("wake-ups", |stop| async move {
            wakeups.relay(&store, &stop).await
        });
        tracing::info!(address = %self.address, "popbridge is up");
        Ok(())
    }

    /// A part that ends before it is told to takes the rest with it: half a popbridge that looks
    /// alive is worse than a restart.
    fn spawn<F>(&self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let part = part(stop.clone());
        self.tasks.spawn(async move {
            let ended = tokio::spawn(part).await;
            if !stop.is_cancelled() {
                tracing::error!(part = name, ?ended, "a part ended by itself; stopping");
                stop.cancel();
            }
        });
    }

    /// Where the API answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API key with every scope, where one is set.
    pub fn admin_key(&self) -> Option<&SecretString> {
        self.database.admin_key.as_ref()
    }

    /// Runs until `signal` or until a part fails; then stops.
    ///
    /// # Errors
    /// When a part ended by itself.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let keep_postgres_up = async {
            match &mut self.database.private {
                Some((_, postgres)) => postgres.keep_up().await,
                None => std::future::pending().await,
            }
        };
        let failure = tokio::select! {
            () = signal => None,
            () = stop.cancelled() => Some(anyhow::anyhow!("a part of popbridge ended by itself")),
            never = keep_postgres_up => match never {},
        };
        self.stop().await?;
        failure.map_or(Ok(()), Err)
    }

    /// Takes no new work, abandons or finishes what runs, and stops the private Postgres.
    ///
    /// # Errors
    /// When that cannot be stopped.
    pub async fn stop(self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("abandoning what still runs after {STOP_PATIENCE:?}");
        }
        self.database.close().await
    }
}

/// Brings the database up to date and leaves.
///
/// # Errors
/// When it cannot be reached or a migration fails.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let database = OpenDatabase::join(config.database).await?;
    let migrated = database.store.migrate().await;
    database.close().await?;
    migrated.map_err(|error: store::Error| error.into())
}

/// Asks a running popbridge whether it is ready, for container health checks.
///
/// # Errors
/// When it is not, or does not answer.
pub async fn health(listen: SocketAddr) -> anyhow::Result<()> {
    let ip = match listen.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let url = format!("http://{}/readyz", SocketAddr::new(ip, listen.port()));
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .context("cannot make an HTTP client")?;
    let response = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    let status = response.status();
    if !status.is_success() {
        bail!(
            "{url} answers {status}: {}",
            response.text().await.unwrap_or_default()
        );
    }
    Ok(())
}
