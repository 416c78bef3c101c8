//! All SQL. Everything above speaks in the row types of this module.
//!
//! Statements are checked against a real schema at compile time (`sqlx::query!`, `.sqlx`).

use std::{str::FromStr, time::Duration};

use sqlx::{PgPool, postgres::PgConnectOptions};

use tokio::time::timeout;

use self::health::Refusal;
pub use self::sealing::{MasterKey, MasterKeyError};

pub mod api_keys;
mod connections;
pub mod credentials;
pub mod deliveries;
pub mod dry_runs;
pub mod events;
mod health;
pub mod ingest;
pub mod leases;
pub mod mailboxes;
pub mod maildrop;
pub mod messages;
pub mod rematch;
pub mod retention;
mod sealing;
mod stale;
pub mod syncs;
pub mod unsettled;
pub mod wakeups;
pub mod webhooks;

/// How long the end of all connections is waited for. What is left ends with the process.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Access to Postgres and the key that seals credentials. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    master_key: MasterKey,
    refusal: Refusal,
}

impl Store {
    /// A store over `database_url`. Connects when first used, so that a database which is down
    /// at start is a matter of readiness, not of starting.
    ///
    /// # Errors
    /// [`Error::Database`] when the URL is not one of Postgres.
    pub fn new(database_url: &str, master_key: MasterKey) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(database_url)?;
        Ok(Self {
            pool: connections::pool(options),
            master_key,
            refusal: Refusal::default(),
        })
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

    /// Ends all connections; statements that run may finish first, but not for long.
    pub async fn close(&self) {
        // Postgres may be away. Nothing that is not committed by now counts.
        let _ = timeout(CLOSE_PATIENCE, self.pool.close()).await;
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
    /// Postgres did not answer in time.
    #[error("the database does not answer")]
    Silent,
    /// Postgres answers, but did not store the last message that it was given.
    #[error("the database does not store mail: {0}")]
    Refused(String),
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
        let error = match self {
            Self::Silent | Self::Refused(_) => return true,
            Self::Database(error) => error,
            _ => return false,
        };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Connection exceptions, operator intervention, and a database that is not there.
            sqlx::Error::Database(_) => self.has_code(&["08", "57P", "3D000"]) || self.is_refusal(),
            _ => false,
        }
    }

    /// Whether Postgres answers but has no room: insufficient resources such as a full disk, system
    /// errors such as a failing one, and a server that is for reading only.
    fn is_refusal(&self) -> bool {
        self.has_code(&["53", "58", "25006"])
    }

    fn has_code(&self, classes: &[&str]) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else {
            return false;
        };
        error
            .code()
            .is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
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
