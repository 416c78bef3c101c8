//! All SQL. Everything above speaks in the row types of this module.
//!
//! Statements are checked against a real schema at compile time (`sqlx::query!`, `.sqlx`).

use std::time::Duration;

use sqlx::{PgPool, postgres::PgPoolOptions};

pub use self::sealing::{MasterKey, MasterKeyError};

pub mod api_keys;
pub mod credentials;
pub mod deliveries;
pub mod dry_runs;
pub mod events;
pub mod ingest;
pub mod leases;
pub mod mailboxes;
pub mod maildrop;
pub mod messages;
mod sealing;
mod stale;
pub mod syncs;
pub mod unsettled;
pub mod wakeups;
pub mod webhooks;

/// Connections a replica holds at most. Sessions wait on POP3 servers far longer than on
/// Postgres, so few are enough.
const MAX_CONNECTIONS: u32 = 24;

/// How long a statement waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Access to Postgres and the key that seals credentials. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    master_key: MasterKey,
}

impl Store {
    /// A store over `database_url`. Connects when first used, so that a database which is down
    /// at start is a matter of readiness, not of starting.
    ///
    /// # Errors
    /// [`Error::Database`] when the URL is not one of Postgres.
    pub fn new(database_url: &str, master_key: MasterKey) -> Result<Self, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy(database_url)?;
        Ok(Self { pool, master_key })
    }

    /// Brings the schema up to date, under sqlx's advisory lock.
    ///
    /// # Errors
    /// [`Error::Migrate`] when a migration fails or the schema is newer than this program.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut migrator = sqlx::migrate!();
        migrator.create_schema("popbridge");
        migrator.dangerous_set_table_name("popbridge.schema_migrations");
        migrator.run(&self.pool).await?;
        Ok(())
    }

    /// Answers when Postgres does.
    ///
    /// # Errors
    /// [`Error::Database`] when it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query!("SELECT 1 AS one")
            .fetch_one(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends all connections; statements that run finish first.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such row.
    #[error("not found")]
    NotFound,
    /// A constraint of the schema forbids it.
    #[error("conflicts with constraint {constraint}")]
    Conflict {
        /// Name of the constraint.
        constraint: String,
    },
    /// Another worker has the mailbox or the delivery now: stop, write nothing.
    #[error("the lease was lost to another worker")]
    LeaseLost,
    /// A sealed value does not open with this master key.
    #[error("a stored credential does not open with this master key")]
    Unsealable,
    /// A migration failed.
    #[error("cannot bring the database up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Postgres is unreachable or refused.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
}

impl Error {
    /// Whether Postgres refused the data of a statement (SQLSTATE class 22), or found it too much for
    /// its limits (54): it would do so again.
    #[must_use]
    pub fn is_data_refusal(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else {
            return false;
        };
        let code = error.code().unwrap_or_default();
        code.starts_with("22") || code.starts_with("54")
    }

    /// Whether Postgres could not be reached or would not take the statement now, so that a later
    /// try may succeed.
    pub fn is_unavailable(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Connection exceptions, insufficient resources, operator intervention, and a
            // database that is not there.
            sqlx::Error::Database(e) => e.code().is_some_and(|code| {
                ["08", "53", "57P", "3D000"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Database(e) if e.is_unique_violation() || e.is_check_violation() => {
                match e.constraint() {
                    Some(name) => Self::Conflict {
                        constraint: name.to_owned(),
                    },
                    None => Self::Database(error),
                }
            }
            _ => Self::Database(error),
        }
    }
}
