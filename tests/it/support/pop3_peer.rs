//! A scripted POP3 server: well-behaved by default, and with any answer replaced by a fault.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use popbridge::{
    egress::Egress,
    pop3::{Connector, Credentials, Deadlines, PasswordMechanism, Server, Tls},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

mod certificate;

pub(crate) use certificate::Certificate;

/// What the peer does at a command.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Sends these octets as they are and goes on.
    Send(Vec<u8>),
    /// Sends these and closes the connection.
    Close(Vec<u8>),
    /// Sends these and then nothing more, with the connection open.
    Hang(Vec<u8>),
    /// Sends these over and over until the client goes away.
    Endless(Vec<u8>),
}

/// A server to be started. Answers are looked up by the whole command, then by its verb.
pub(crate) struct Peer {
    tls: Tls,
    greeting: Answer,
    capabilities: Vec<&'static str>,
    messages: Vec<(String, Vec<u8>)>,
    answers: HashMap<&'static str, Answer>,
    answers_when_ahead: HashMap<&'static str, Answer>,
    otherwise: Vec<u8>,
    certificate: Certificate,
    /// Octets after which each connection is cut.
    cut_after: usize,
}

/// A running [`Peer`]; stops when dropped.
pub(crate) struct Running {
    pub(crate) server: Server,
    commands: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Peer {
    /// A server with two small messages, on a line of this kind.
    pub(crate) fn new(tls: Tls) -> Self {
        let message = |n: u32| {
            (
                format!("uid-{n}"),
                format!("Subject: {n}\r\n\r\nbody\r\n").into(),
            )
        };
        Self {
            tls,
            greeting: Answer::Send(b"+OK ready\r\n".to_vec()),
            capabilities: vec!["USER", "UIDL", "TOP", "PIPELINING", "SASL PLAIN", "STLS"],
            messages: vec![message(1), message(2)],
            answers: HashMap::new(),
            answers_when_ahead: HashMap::new(),
            otherwise: b"+OK\r\n".to_vec(),
            certificate: Certificate::ordinary(),
            cut_after: usize::MAX,
        }
    }

    pub(crate) fn greeting(mut self, answer: Answer) -> Self {
        self.greeting = answer;
        self
    }

    pub(crate) fn capabilities(mut self, lines: &[&'static str]) -> Self {
        self.capabilities = lines.to_vec();
        self
    }

    pub(crate) fn messages<T: Into<Vec<u8>>>(mut self, raw: impl IntoIterator<Item = T>) -> Self {
        let named = raw.into_iter().enumerate();
        self.messages = named
            .map(|(n, raw)| (format!("uid-{}", n + 1), raw.into()))
            .collect();
        self
    }

    pub(crate) fn answer(mut self, command: &'static str, answer: Answer) -> Self {
        self.answers.insert(command, answer);
        self
    }

    /// An answer only for a command that came ahead of the reply to the one before.
    pub(crate) fn answer_when_ahead(mut self, command: &'static str, answer: Answer) -> Self {
        self.answers_when_ahead.insert(command, answer);
        self
    }

    pub(crate) fn sends(self, command: &'static str, octets: impl AsRef<[u8]>) -> Self {
        self.answer(command, Answer::Send(octets.as_ref().to_vec()))
    }

    /// What it says to a command that it does not know.
    pub(crate) fn otherwise(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.otherwise = octets.as_ref().to_vec();
        self
    }

    pub(crate) fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    pub(crate) fn cut_after(mut self, octets: usize) -> Self {
        self.cut_after = octets;
        self
    }

    pub(crate) async fn start(self) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            host: "localhost".into(),
            port: listener.local_addr().unwrap().port(),
            tls: self.tls,
            ca_pem: Some(self.certificate.ca_pem.clone()),
            pin: None,
            pipelining: true,
        };
        let commands = Arc::new(Mutex::new(Vec::new()));
        // One for all connections: it keeps the TLS sessions that can be resumed.
        let acceptor = TlsAcceptor::from(self.certificate.config());
        let (peer, log) = (Arc::new(self), commands.clone());
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (peer, log, acceptor) = (peer.clone(), log.clone(), acceptor.clone());
                // A client that goes away in the middle is what many tests are about.
                tokio::spawn(async move { peer.serve(socket, &acceptor, &log).await.ok() });
            }
        });
        Running {
            server,
            commands,
            task,
        }
    }

    async fn serve(
        &self,
        socket: TcpStream,
        acceptor: &TlsAcceptor,
        log: &Mutex<Vec<String>>,
    ) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let line: Line = if self.tls == Tls::Implicit {
            BufReader::new(Either::Right(Box::new(acceptor.accept(socket).await?)))
        } else {
            BufReader::new(Either::Left(socket))
        };
        let mut connection = Connection {
            line,
            log,
            budget: self.cut_after,
        };
        if !connection.play(&self.greeting).await? {
            return Ok(());
        }
        let mut command = String::new();
        loop {
            let ahead = !connection.line.buffer().is_empty();
            if connection.line.read_line(&mut command).await? == 0 {
                break;
            }
            let text = std::mem::take(&mut command).trim_end().to_owned();
            log.lock().unwrap().push(text.clone());
            let verb = text.split(' ').next().unwrap_or_default();
            let scripted = self
                .answers
                .get(text.as_str())
                .or_else(|| self.answers.get(verb))
                .or_else(|| self.answers_when_ahead.get(verb).filter(|_| ahead));
            let answer = scripted
                .cloned()
                .unwrap_or_else(|| Answer::Send(self.reply(&text)));
            if !connection.play(&answer).await? {
                return Ok(());
            }
            if text == "STLS" && scripted.is_none() {
                let Either::Left(socket) = connection.line.into_inner() else {
                    return Ok(());
                };
                let tls = acceptor.accept(socket).await?;
                let line = BufReader::new(Either::Right(Box::new(tls)));
                connection = Connection { line, ..connection };
            }
        }
        Ok(())
    }

    /// What a server that behaves says.
    fn reply(&self, command: &str) -> Vec<u8> {
        let (verb, argument) = command.split_once(' ').unwrap_or((command, ""));
        let listing = |value: fn(&(String, Vec<u8>)) -> String| {
            let lines = self.messages.iter().enumerate();
            let lines = lines.map(|(n, message)| format!("{} {}\r\n", n + 1, value(message)));
            format!("+OK\r\n{}.\r\n", lines.collect::<String>()).into_bytes()
        };
        match verb {
            "CAPA" => format!("+OK\r\n{}\r\n.\r\n", self.capabilities.join("\r\n")).into_bytes(),
            "STAT" => {
                let octets: usize = self.messages.iter().map(|(_, raw)| raw.len()).sum();
                format!("+OK {} {octets}\r\n", self.messages.len()).into_bytes()
            }
            "UIDL" => listing(|(unique_id, _)| unique_id.clone()),
            "LIST" => listing(|(_, raw)| raw.len().to_string()),
            "RETR" => {
                let index = argument.parse::<usize>().unwrap() - 1;
                [
                    b"+OK\r\n",
                    stuff(&self.messages[index].1).as_slice(),
                    b".\r\n",
                ]
                .concat()
            }
            "TOP" => {
                let number = argument.split(' ').next().unwrap_or_default();
                let raw = &self.messages[number.parse::<usize>().unwrap() - 1].1;
                let header = memchr::memmem::find(raw, b"\r\n\r\n");
                let header = &raw[..header.map_or(raw.len(), |end| end + 4)];
                [b"+OK\r\n", stuff(header).as_slice(), b".\r\n"].concat()
            }
            _ => self.otherwise.clone(),
        }
    }
}

impl Running {
    /// Every command line of every connection so far.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }

    /// How often a command came.
    pub(crate) fn count(&self, command: &str) -> usize {
        self.commands()
            .iter()
            .filter(|line| *line == command)
            .count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connector that may reach loopback.
pub(crate) fn connector(deadlines: Deadlines) -> Connector {
    Connector::new(loopback(), deadlines).unwrap()
}

/// Public addresses and loopback.
pub(crate) fn loopback() -> Egress {
    Egress::new(vec![
        "127.0.0.0/8".parse().unwrap(),
        "::1/128".parse().unwrap(),
    ])
}

/// The user `user`, whose password is `hunter2`.
pub(crate) fn credentials() -> Credentials {
    password("user", "hunter2", PasswordMechanism::Auto)
}

pub(crate) fn password(
    username: &str,
    password: &str,
    mechanism: PasswordMechanism,
) -> Credentials {
    Credentials::with_password(username, password.into(), mechanism)
}

type Line = BufReader<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

struct Connection<'a> {
    line: Line,
    log: &'a Mutex<Vec<String>>,
    budget: usize,
}

impl Connection<'_> {
    /// Gives an answer; false once there is nothing more to do on this connection.
    async fn play(&mut self, answer: &Answer) -> std::io::Result<bool> {
        let (Answer::Send(octets)
        | Answer::Close(octets)
        | Answer::Hang(octets)
        | Answer::Endless(octets)) = answer;
        let affordable = octets.len().min(self.budget);
        self.line.write_all(&octets[..affordable]).await?;
        self.line.flush().await?;
        self.budget -= affordable;
        if self.budget == 0 {
            self.line.shutdown().await?;
            return Ok(false);
        }
        match answer {
            Answer::Send(_) => return Ok(true),
            Answer::Close(_) => self.line.shutdown().await?,
            Answer::Hang(_) => self.listen().await?,
            Answer::Endless(_) => loop {
                self.line.write_all(octets).await?;
            },
        }
        Ok(false)
    }

    /// Says nothing, but notes what comes.
    async fn listen(&mut self) -> std::io::Result<()> {
        let mut command = Vec::new();
        while self.line.read_until(b'\n', &mut command).await? > 0 {
            let text = String::from_utf8_lossy(&command).trim_end().to_owned();
            self.log.lock().unwrap().push(text);
            command.clear();
        }
        Ok(())
    }
}

/// Byte-stuffs (RFC 1939, section 3): a line begins after CRLF, not after a bare LF.
fn stuff(raw: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(raw.len());
    for (index, octet) in raw.iter().enumerate() {
        if *octet == b'.' && (index == 0 || raw[..index].ends_with(b"\r\n")) {
            stuffed.push(b'.');
        }
        stuffed.push(*octet);
    }
    stuffed
}
