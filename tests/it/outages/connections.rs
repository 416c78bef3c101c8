//! Connections are cut, or the other end is gone without a word.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

use super::{Database, Scene};
use crate::support::cluster::Cluster;

/// Of the messages that come later.
const OCTETS: usize = 2000;

const CUTS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn cut_again_and_again() {
    let postgres = Cluster::start().await;
    let scene = Scene::start(Database::At(postgres.url()), OCTETS).await;

    let mut database = PgConnection::connect(postgres.url()).await.unwrap();
    for _ in 0..CUTS {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        .execute(&mut database)
        .await
        .unwrap();
        // The time between cuts is what is tested, no condition that comes true.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    scene.ends_well(postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_end_is_gone_without_a_word() {
    let postgres = Cluster::start().await;
    let line = Line::to(postgres.socket()).await;
    let scene = Scene::start(Database::At(&line.url), OCTETS).await;

    line.go_dead();
    scene.says_that_postgres_is_away().await;
    // New connections work; those of before stay as they are.
    line.come_back();

    scene.ends_well(postgres.url()).await;
}

/// A way to Postgres by TCP, on which connections can go dead: open, but nothing comes or goes.
struct Line {
    url: String,
    /// Connections opened before this many times that the line went dead are dead.
    deaths: Arc<watch::Sender<Deaths>>,
}

#[derive(Clone, Copy, Default)]
struct Deaths {
    count: u32,
    is_dead: bool,
}

impl Line {
    async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let deaths = Arc::new(watch::Sender::new(Deaths::default()));
        let of_line = Arc::clone(&deaths);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (socket, deaths) = (socket.clone(), of_line.subscribe());
                tokio::spawn(relay(client, socket, deaths));
            }
        });
        Self {
            url: format!("postgres://popbridge@127.0.0.1:{port}/postgres"),
            deaths,
        }
    }

    fn go_dead(&self) {
        self.deaths.send_modify(|deaths| {
            deaths.count += 1;
            deaths.is_dead = true;
        });
    }

    fn come_back(&self) {
        self.deaths.send_modify(|deaths| deaths.is_dead = false);
    }
}

/// Passes on what comes until the line goes dead; then holds on to both ends for ever.
async fn relay(client: TcpStream, socket: PathBuf, mut deaths: watch::Receiver<Deaths>) {
    let born = *deaths.borrow();
    let Ok(server) = UnixStream::connect(socket).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let dead = async {
        if !born.is_dead {
            let died = deaths.wait_for(|deaths| deaths.count > born.count).await;
            assert!(died.is_ok());
        }
    };
    tokio::select! {
        biased;
        () = dead => std::future::pending().await,
        () = pass(&mut from_client, &mut to_server) => {}
        () = pass(&mut from_server, &mut to_client) => {}
    }
}

async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
