//! A POP3 server with a maildrop for every user name, that counts who is there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Crowd {
    pub(crate) port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// What the server has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Sessions now, by user,
    now: HashMap<String, usize>,
    /// and all that there were.
    pub(crate) logins: HashMap<String, usize>,
    /// Most sessions at once,
    pub(crate) most: usize,
    /// and with one maildrop.
    pub(crate) most_of_one: usize,
}

impl Seen {
    /// Sessions that this user has now.
    pub(crate) fn sessions_of(&self, user: &str) -> usize {
        self.now.get(user).copied().unwrap_or(0)
    }
}

impl Crowd {
    /// A maildrop has as many messages as the user's name says: `idle-0`, `backlog-300`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            seen: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(socket).await });
            }
        });
        server
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    async fn serve(&self, socket: TcpStream) -> Option<()> {
        socket.set_nodelay(true).ok()?;
        let mut socket = BufReader::new(socket);
        socket.write_all(b"+OK\r\n").await.ok()?;
        let (mut user, mut visit) = (String::new(), None);
        let mut line = String::new();
        loop {
            line.clear();
            if socket.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let command = line.trim_end();
            let (verb, argument) = command.split_once(' ').unwrap_or((command, ""));
            let messages = || {
                user.rsplit('-')
                    .next()
                    .and_then(|n| n.parse::<usize>().ok())
            };
            let all = || 1..=messages().unwrap_or(0);
            let reply = match verb {
                "CAPA" => "+OK\r\nUSER\r\nUIDL\r\nPIPELINING\r\n.\r\n".to_owned(),
                "USER" => {
                    user = argument.to_owned();
                    "+OK\r\n".to_owned()
                }
                "PASS" => {
                    visit = Some(self.enter(&user));
                    "+OK\r\n".to_owned()
                }
                "STAT" => format!("+OK {0} {0}00\r\n", all().count()),
                "UIDL" => multi_line(all().map(|n| format!("{n} unique-{n}\r\n"))),
                "LIST" => multi_line(all().map(|n| format!("{n} 100\r\n"))),
                "RETR" => format!("+OK\r\nSubject: {argument}\r\n\r\ntext\r\n.\r\n"),
                "QUIT" => {
                    // A session ends before its client knows.
                    drop(visit.take());
                    socket.write_all(b"+OK\r\n").await.ok()?;
                    return Some(());
                }
                _ => "-ERR\r\n".to_owned(),
            };
            socket.write_all(reply.as_bytes()).await.ok()?;
        }
    }

    fn enter(&self, user: &str) -> Visit {
        let mut seen = self.seen.lock().unwrap();
        let mine = seen.now.get(user).unwrap_or(&0) + 1;
        seen.now.insert(user.to_owned(), mine);
        seen.most_of_one = seen.most_of_one.max(mine);
        seen.most = seen.most.max(seen.now.values().sum());
        *seen.logins.entry(user.to_owned()).or_default() += 1;
        Visit {
            server: self.clone(),
            user: user.to_owned(),
        }
    }
}

struct Visit {
    server: Crowd,
    user: String,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut seen = self.server.seen.lock().unwrap();
        *seen.now.get_mut(&self.user).unwrap() -= 1;
    }
}

fn multi_line(lines: impl Iterator<Item = String>) -> String {
    format!("+OK\r\n{}.\r\n", lines.collect::<String>())
}
