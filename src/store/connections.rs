//! The pool of connections. Every wait in it has an end, so that connections whose other end is
//! gone without a word give their places back.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

/// Connections a replica holds at most. Sessions wait on POP3 servers far longer than on
/// Postgres, so few are enough.
const MAX_CONNECTIONS: u32 = 24;

/// How long a statement waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection may take to answer before another is opened; well below
/// [`ACQUIRE_TIMEOUT`].
const IDLE_ANSWER: Duration = Duration::from_secs(2);

/// How long a connection may take to come to rest after its use, when a statement was given up.
const REST: Duration = Duration::from_secs(10);

/// What Postgres does about us when we are gone without a word: the locks of a transaction are soon
/// free again, and who is alive goes on.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '15s';
    SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '50s'";

/// A pool that connects when first used.
pub(super) fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // By the hook below: sqlx's own test waits for as long as the statement may.
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async { Ok(answers(connection, IDLE_ANSWER).await) })
        })
        .after_connect(|connection, _| {
            Box::pin(async {
                connection.execute(SESSION).await?;
                Ok(())
            })
        })
        .after_release(|connection, _| {
            Box::pin(async {
                // A large message leaves buffers of its size.
                connection.shrink_buffers();
                Ok(answers(connection, REST).await)
            })
        })
        .connect_lazy_with(options)
}

/// A pool of one connection that nothing closes for its age, to listen on.
pub(super) fn listening_pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(None)
        .idle_timeout(None)
        .after_release(|_, _| Box::pin(async { Ok(false) }))
        .connect_lazy_with(options)
}

async fn answers(connection: &mut PgConnection, within: Duration) -> bool {
    matches!(timeout(within, connection.ping()).await, Ok(Ok(())))
}

/// A connection for much data. Dropped before it is given back, it is closed at once: nobody waits
/// for the rest of a large statement to leave for a server that may never take it.
pub(super) struct Loan(Option<PoolConnection<Postgres>>);

impl Loan {
    pub(super) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.0
            .as_mut()
            .expect("taken only when given back or dropped")
    }

    pub(super) fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
