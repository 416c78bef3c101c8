//! `popbridge chaos-server`: a POP3 server that misbehaves on demand, for tests of POP3 clients.
//!
//! Without [`Faults`] it is a correct server (RFC 1939, 2449, 2595, 5034): an exclusive lock on
//! the maildrop, deletions at QUIT only. Each fault is one setting, and they combine. What it
//! deletes is gone from its memory alone: files are never touched.
//!
//! Everything is bounded: connections, commands, the time of a session, what is remembered.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::NamedTempFile;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{commands::Commands, session::Session};
use crate::certificates::Certificates;

mod command;
mod commands;
mod faults;
mod line;
mod mail;
mod maildrop;
mod options;
mod reply;
mod session;

pub use self::{
    command::CommandPattern,
    faults::{Faults, Pipelining, ScriptedReply, Terminator, UniqueIds},
    mail::Mail,
    maildrop::{Maildrop, Removal},
    options::{Options, Tls},
};

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// The longest that a connection lives, however silent or endless the server is told to be.
const MAX_SESSION: Duration = Duration::from_secs(60 * 60);

/// Pause after no connection could be accepted, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs the server until `signal`, and prints what to connect to.
///
/// # Errors
/// When the address is taken, or the mail cannot be read.
pub async fn run(options: Options, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (user, password) = (options.user.clone(), options.password.clone());
    let (tls, ca_file) = (options.tls, options.ca_file.clone());
    let server = ChaosServer::start(options).await?;
    let mut line = format!(
        "POP3 on {}, user {user}, password {password}, {} messages, tls {}",
        server.address(),
        server.maildrop().unique_ids().len(),
        match tls {
            Tls::None => "none",
            Tls::Starttls => "starttls",
            Tls::Implicit => "implicit",
        }
    );
    // A temporary file lives as long as this.
    let mut _temporary = None;
    if let Some(pem) = server.ca_pem() {
        let path = match ca_file {
            Some(path) => {
                std::fs::write(&path, pem)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                path
            }
            None => {
                let file = temporary_ca_file(pem).context("cannot write a temporary file")?;
                _temporary.insert(file).path().to_owned()
            }
        };
        line += &format!(", tls_ca_pem in {}", path.display());
    }
    say(&line);
    signal.await;
    server.stop().await;
    Ok(())
}

fn temporary_ca_file(pem: &str) -> std::io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix("popbridge-chaos-ca-")
        .suffix(".pem")
        .tempfile()?;
    file.write_all(pem.as_bytes())?;
    Ok(file)
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct ChaosServer {
    address: SocketAddr,
    ca_pem: Option<String>,
    shared: Arc<Shared>,
    sessions: TaskTracker,
    stop: DropGuard,
}

/// What all sessions see.
#[derive(Debug)]
struct Shared {
    user: String,
    password: String,
    tls: Tls,
    certificate: Option<Arc<ServerConfig>>,
    maildrop: Arc<Maildrop>,
    faults: Mutex<Arc<Faults>>,
    commands: Commands,
    accepted: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl ChaosServer {
    /// Starts a server. Port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken, a name cannot be in a certificate, or the mail cannot be read.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (certificate, ca_pem) = match options.tls {
            Tls::None => (None, None),
            Tls::Starttls | Tls::Implicit => {
                let (certificate, ca_pem) = certificate(&options.name)?;
                (Some(certificate), Some(ca_pem))
            }
        };
        let maildrop = Maildrop::open(&options.mail).await?;
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            user: options.user,
            password: options.password,
            tls: options.tls,
            certificate,
            maildrop: Arc::new(maildrop),
            faults: Mutex::new(Arc::new(options.faults)),
            commands: Commands::new(options.log_commands),
            accepted: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let (sessions, stop) = (TaskTracker::new(), CancellationToken::new());
        sessions.spawn(accept(
            listener,
            Arc::clone(&shared),
            sessions.clone(),
            stop.clone(),
        ));
        sessions.close();
        Ok(Self {
            address,
            ca_pem,
            shared,
            sessions,
            stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// PEM of the CA that its certificate is from; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The mail that it serves.
    pub fn maildrop(&self) -> &Maildrop {
        &self.shared.maildrop
    }

    /// Other faults, for connections from now on.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.shared.faults) = Arc::new(faults);
    }

    /// The last command lines of all connections, in the order they came, without credentials.
    pub fn commands(&self) -> Vec<String> {
        self.shared.commands.last()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Octets sent and received so far on connections that ended: how far `drop_at` and `drop_in`
    /// can be.
    pub fn traffic(&self) -> (u64, u64) {
        let Shared { sent, received, .. } = &*self.shared;
        (
            sent.load(Ordering::Relaxed),
            received.load(Ordering::Relaxed),
        )
    }

    /// Ends every connection and waits for that.
    pub async fn stop(self) {
        drop(self.stop);
        self.sessions.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    sessions: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("never closed");
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            sessions.spawn(async move {
                let session = tokio::time::timeout(MAX_SESSION, serve(socket, &shared));
                // Stopped, over its time or done: all the same.
                let _ = stop.run_until_cancelled(session).await;
                drop(slot);
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn serve(socket: TcpStream, shared: &Shared) {
    let number = shared.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let faults = Arc::clone(&lock(&shared.faults));
    let faults = if faults.apply_to(number) {
        faults
    } else {
        Arc::default()
    };
    Session::run(socket, shared, &faults, number).await;
}

fn certificate(names: &[String]) -> anyhow::Result<(Arc<ServerConfig>, String)> {
    let names: Vec<&str> = ["localhost", "127.0.0.1", "::1"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let certificates = Certificates::for_names(&names).context("cannot make a certificate")?;
    let chain = CertificateDer::pem_slice_iter(certificates.chain_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(certificates.key_pem.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>()?, key)?;
    Ok((Arc::new(config), certificates.ca_pem))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::print_stdout, reason = "a command that talks to its user")]
fn say(line: &str) {
    println!("{line}");
}
