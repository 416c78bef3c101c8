//! A database for each test, dropped at its end.

use popbridge::store::{MasterKey, Store};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

/// An empty database on the server that `DATABASE_URL` names.
pub(crate) struct Database {
    pub(crate) url: String,
    server_url: String,
    name: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let server_url = std::env::var("DATABASE_URL")
            .expect("DATABASE_URL names a Postgres for tests; run them by script/with-postgres");
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut url = url::Url::parse(&server_url).expect("DATABASE_URL is a URL");
        url.set_path(&name);
        run(&server_url, format!("CREATE DATABASE {name}")).await;
        Self {
            url: url.into(),
            server_url,
            name,
        }
    }

    /// A store over it, its schema up to date.
    pub(crate) async fn store(&self) -> Store {
        let key = MasterKey::from_base64(&MasterKey::generate()).unwrap();
        let store = Store::new(&self.url, key).unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Ends every connection and lets none in.
    pub(crate) async fn cut_off(&self) {
        let (url, name) = (&self.server_url, &self.name);
        run(
            url,
            format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"),
        )
        .await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
        run(url, format!("{end} = '{name}'")).await;
    }

    /// Lets connections in again.
    pub(crate) async fn let_back(&self) {
        let name = &self.name;
        run(
            &self.server_url,
            format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"),
        )
        .await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let server_url = self.server_url.clone();
        // A runtime of its own: the test's cannot be waited for from here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(run(&server_url, statement));
        });
        dropped.join().expect("the database is dropped");
    }
}

async fn run(server_url: &str, statement: String) {
    let mut connection = PgConnection::connect(server_url).await.unwrap();
    connection.execute(AssertSqlSafe(statement)).await.unwrap();
}
