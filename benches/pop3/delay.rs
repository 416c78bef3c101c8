//! A line with a delay: octets arrive later, but not more slowly.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Pieces that are under way in one direction, each at most [`PIECE`] octets: 64 MiB, which is
/// more than any of the contenders takes in the time of the delay.
const UNDER_WAY: usize = 1024;

const PIECE: usize = 64 * 1024;

/// A relay to a server; stopped when dropped.
pub(crate) struct DelayedLine {
    address: SocketAddr,
    relay: AbortHandle,
}

impl DelayedLine {
    /// A line to this loopback port that takes `one_way` in each direction.
    pub(crate) async fn to(port: u16, one_way: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let relay = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, port, one_way));
            }
        });
        Ok(Self {
            address,
            relay: relay.abort_handle(),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for DelayedLine {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn relay(client: TcpStream, port: u16, one_way: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        carry(from_client, to_server, one_way),
        carry(from_server, to_client, one_way)
    )?;
    Ok(())
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> std::io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let take = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            if from.read_buf(&mut piece).await? == 0
                || sender.send((Instant::now() + delay, piece)).await.is_err()
            {
                return Ok(());
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(take, give).map(|_| ())
}
