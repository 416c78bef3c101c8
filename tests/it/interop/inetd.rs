//! A super-server, which is how most POP3 servers are run: one process for each connection.

use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use tokio::{net::TcpListener, task::JoinHandle};

/// Starts a command for each connection, with the connection as its standard input and output.
pub(super) struct Inetd {
    port: u16,
    task: JoinHandle<()>,
}

impl Inetd {
    pub(super) async fn start(command: impl Fn() -> Command + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let socket = socket.into_std().unwrap();
                socket.set_nonblocking(false).unwrap();
                // As `NoDelay=` and xinetd's `NODELAY` do: without it a server that sends replies
                // in pieces takes 40 ms for each.
                socket.set_nodelay(true).unwrap();
                let socket = OwnedFd::from(socket);
                let mut command = tokio::process::Command::from(command());
                command
                    .stdin(Stdio::from(socket.try_clone().unwrap()))
                    .stdout(Stdio::from(socket));
                let mut child = command.kill_on_drop(true).spawn().unwrap();
                tokio::spawn(async move { child.wait().await });
            }
        });
        Self { port, task }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        self.task.abort();
    }
}
