//! A real Dovecot with maildrops of its own, for the demo and for tests.
//!
//! Everything lives below one directory: configuration, certificates, sockets, mail. As root, mail
//! belongs to an unprivileged user, since Dovecot opens no mailbox as root. The configuration is
//! that of Dovecot 2.3.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Gid, Group, Pid, Uid, User},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use super::certificates::Certificates;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// A port that was free may be taken by the time Dovecot binds it.
const START_TRIES: usize = 5;

/// A maildrop.
#[derive(Clone, Debug)]
pub struct Account {
    /// Name to log in with: letters, digits and the like.
    pub username: String,
    /// Its password.
    pub password: String,
}

/// A running Dovecot; stopped when dropped.
#[derive(Debug)]
pub struct Dovecot {
    master: Child,
    group: Pid,
    dir: PathBuf,
    owner: Owner,
    pop3: SocketAddr,
    pop3s: SocketAddr,
    delivered: AtomicU64,
}

/// Whom mail belongs to.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Dovecot {
    /// Starts Dovecot below `dir`, which must exist, and waits until it answers. Where `dir` has a
    /// `local.conf`, its settings override.
    ///
    /// # Errors
    /// When Dovecot is not installed or does not come up; the message says what to do.
    pub async fn start(
        dir: &Path,
        accounts: &[Account],
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let dir = fs::canonicalize(dir)?;
        let owner = owner()?;
        prepare(&dir, owner, accounts, certificates)?;
        let mut last_error = None;
        for _ in 0..START_TRIES {
            match Self::start_on_free_ports(&dir, owner).await {
                Ok(dovecot) => return Ok(dovecot),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.context("Dovecot was not started")?)
    }

    async fn start_on_free_ports(dir: &Path, owner: Owner) -> anyhow::Result<Self> {
        let [pop3, pop3s] = free_ports()?;
        let config = dir.join("dovecot.conf");
        fs::write(&config, configuration(dir, owner, pop3, pop3s)?)?;
        let master = Command::new(find_dovecot()?)
            .arg("-F")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("stderr.log"))?)
            .process_group(0)
            .spawn()
            .context("cannot start dovecot")?;
        let group = Pid::from_raw(master.id().context("it just started")?.try_into()?);
        let mut dovecot = Self {
            master,
            group,
            dir: dir.to_owned(),
            owner,
            pop3,
            pop3s,
            delivered: AtomicU64::new(0),
        };
        dovecot.await_greeting().await?;
        Ok(dovecot)
    }

    /// Where it speaks plain text, and STLS.
    pub fn pop3(&self) -> SocketAddr {
        self.pop3
    }

    /// Where it speaks TLS from the first octet.
    pub fn pop3s(&self) -> SocketAddr {
        self.pop3s
    }

    /// Puts a message into a maildrop: exactly these octets, which Dovecot sends with CRLF line
    /// ends.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn deliver(&self, username: &str, octets: &[u8]) -> anyhow::Result<()> {
        let number = self.delivered.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:010}.{}.popbridge", number, std::process::id());
        let maildir = self.maildir(username);
        let draft = maildir.join("tmp").join(&name);
        fs::write(&draft, octets)?;
        self.owner.take(&draft)?;
        fs::rename(draft, maildir.join("new").join(name))?;
        Ok(())
    }

    /// The directory of a maildrop, a Maildir.
    pub fn maildir(&self, username: &str) -> PathBuf {
        maildir(&self.dir, username)
    }

    async fn await_greeting(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(stream) = TcpStream::connect(self.pop3).await {
                let mut greeting = String::new();
                BufReader::new(stream).read_line(&mut greeting).await?;
                ensure!(
                    greeting.starts_with("+OK"),
                    "Dovecot greets with {greeting:?}"
                );
                return Ok(());
            }
            let ended = self.master.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let log = fs::read_to_string(self.dir.join("dovecot.log")).unwrap_or_default();
                let stderr = fs::read_to_string(self.dir.join("stderr.log")).unwrap_or_default();
                bail!("Dovecot did not start: {} {}", log.trim(), stderr.trim());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // The group: the master and whatever it started.
        if self.master.id().is_some() && killpg(self.group, Signal::SIGKILL).is_err() {
            tracing::warn!("Dovecot could not be stopped");
        }
    }
}

impl Owner {
    fn take(self, path: &Path) -> anyhow::Result<()> {
        if Uid::effective().is_root() {
            chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))?;
        }
        Ok(())
    }
}

fn owner() -> anyhow::Result<Owner> {
    if !Uid::effective().is_root() {
        return Ok(Owner {
            uid: Uid::effective(),
            gid: Gid::effective(),
        });
    }
    let nobody = User::from_name("nobody")?.context("there is no user `nobody`")?;
    Ok(Owner {
        uid: nobody.uid,
        gid: nobody.gid,
    })
}

fn find_dovecot() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join("dovecot"))
        .find(|program| program.is_file())
        .context("Dovecot is not on this machine: install it (Debian: apt install dovecot-pop3d)")
}

fn free_ports() -> anyhow::Result<[SocketAddr; 2]> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([first.local_addr()?, second.local_addr()?])
}

fn maildir(dir: &Path, username: &str) -> PathBuf {
    dir.join("mail").join(username)
}

fn prepare(
    dir: &Path,
    owner: Owner,
    accounts: &[Account],
    certificates: &Certificates,
) -> anyhow::Result<()> {
    // Dovecot's unprivileged processes pass through.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    fs::write(dir.join("cert.pem"), &certificates.chain_pem)?;
    fs::write(dir.join("key.pem"), &certificates.key_pem)?;
    let users: Vec<String> = accounts
        .iter()
        .map(|a| format!("{}:{{PLAIN}}{}\n", a.username, a.password))
        .collect();
    fs::write(dir.join("users"), users.concat())?;
    for account in accounts {
        let maildir = maildir(dir, &account.username);
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(maildir.join(part))?;
            owner.take(&maildir.join(part))?;
        }
        owner.take(&maildir)?;
    }
    owner.take(&dir.join("mail"))?;
    Ok(())
}

fn configuration(
    dir: &Path,
    owner: Owner,
    pop3: SocketAddr,
    pop3s: SocketAddr,
) -> anyhow::Result<String> {
    let (dir, uid, gid) = (dir.display(), owner.uid, owner.gid);
    let (pop3, pop3s) = (pop3.port(), pop3s.port());
    // Without root every process runs as us; with root, as Dovecot's own users.
    let users = if Uid::effective().is_root() {
        String::new()
    } else {
        let user = User::from_uid(uid)?.context("we have no user name")?.name;
        let group = Group::from_gid(gid)?.context("we have no group name")?.name;
        format!(
            "default_internal_user = {user}\n\
            default_internal_group = {group}\n\
            default_login_user = {user}\n"
        )
    };
    Ok(format!(
        "base_dir = {dir}/run\n\
        state_dir = {dir}/state\n\
        log_path = {dir}/dovecot.log\n\
        protocols = pop3\n\
        listen = 127.0.0.1\n\
        ssl = yes\n\
        ssl_cert = <{dir}/cert.pem\n\
        ssl_key = <{dir}/key.pem\n\
        ssl_min_protocol = TLSv1.2\n\
        disable_plaintext_auth = no\n\
        auth_mechanisms = plain\n\
        auth_failure_delay = 0\n\
        first_valid_uid = 1\n\
        first_valid_gid = 1\n\
        mail_location = maildir:{dir}/mail/%u\n\
        mail_max_userip_connections = 1000\n\
        default_client_limit = 2000\n\
        {users}\
        passdb {{\n  driver = passwd-file\n  args = {dir}/users\n}}\n\
        userdb {{\n  driver = static\n  args = uid={uid} gid={gid} home={dir}/mail/%u\n}}\n\
        service anvil {{\n  chroot =\n  unix_listener anvil-auth-penalty {{\n    mode = 0\n  }}\n}}\n\
        service stats {{\n  chroot =\n}}\n\
        service pop3-login {{\n  chroot =\n  service_count = 0\n\
          inet_listener pop3 {{\n    port = {pop3}\n  }}\n\
          inet_listener pop3s {{\n    port = {pop3s}\n    ssl = yes\n  }}\n}}\n\
        !include_try {dir}/local.conf\n"
    ))
}
