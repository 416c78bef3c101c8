//! A line that breaks: passes connections on to a server, and cuts the first one in the middle.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(super) struct Cutter {
    pub(super) port: u16,
    passed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Cutter {
    /// Passes connections on to this port; the first one for so many octets of the server's.
    pub(super) async fn start(server: u16, octets: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = Arc::new(AtomicU64::new(0));
        let counter = passed.clone();
        let task = tokio::spawn(async move {
            let mut limit = octets;
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let counter = if limit == u64::MAX {
                    counter.clone()
                } else {
                    Arc::default()
                };
                tokio::spawn(async move {
                    // Either side goes away when it likes.
                    pass_on(client, server, limit, &counter).await.ok();
                });
                limit = u64::MAX;
            }
        });
        Self { port, passed, task }
    }

    /// How many octets the server sent on all connections behind the first.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(
    mut client: TcpStream,
    port: u16,
    limit: u64,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    // Replies in pieces are passed on as they come.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let commands = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let replies = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&buffer[..read]).await?;
            if counter.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > limit {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        }
    };
    // The first error drops both connections.
    tokio::try_join!(commands, replies).map(|_| ())
}
