//! The private Postgres: a cluster made and run from the machine's own binaries, on a Unix socket
//! that only we can reach.
//!
//! Postgres refuses to run as root, so root starts it as an unprivileged user. The child has its
//! own process group: Ctrl-C reaches popbridge alone, which stops it last.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use sha2::{Digest, Sha256};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

/// Postgres versions before this lack lz4 compression of columns.
const MIN_MAJOR_VERSION: u32 = 14;

/// How long a start may take: recovery after a crash included.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a fast shutdown may take before it is made an immediate one, and how long that may
/// take: with what goes before, a stop takes no more than 30 s.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

/// Socket addresses are shorter than this (`sun_path` in unix(7)).
const MAX_SOCKET_PATH: usize = 100;

/// Where the cluster goes when the data directory is closed to the user that must run it.
const FALLBACK_DIR: &str = "/var/lib/popbridge";

const PORT: &str = "5432";

/// Says how to reach the running server, for other commands and for `psql`.
const URL_FILE: &str = "database-url";

/// A server that ran for so long and ended by itself did so for a new reason.
const STEADY: Duration = Duration::from_secs(60);

/// Pause before a server that ended by itself is started again; doubled with each try.
const FIRST_RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Longest of these pauses.
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(15);

/// A running private Postgres.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Child,
    cluster: Cluster,
}

/// A cluster on disk, and what runs it.
#[derive(Debug)]
struct Cluster {
    binaries: PathBuf,
    owner: Option<User>,
    dir: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    url: String,
}

impl PrivatePostgres {
    /// Starts the cluster of `data_dir`, making it first where there is none. The caller holds the
    /// data directory's lock, so that a server which still runs there is an orphan of a popbridge
    /// that was killed: it is stopped first.
    ///
    /// # Errors
    /// When Postgres is not installed, or does not come up; the message says what to do.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let data_dir = fs::canonicalize(data_dir)?;
        let cluster = Cluster::prepare(&data_dir).await?;
        let log = fs::File::create(&cluster.log)?;
        let server = cluster.launch(log).await?;
        fs::write(data_dir.join(URL_FILE), format!("{}\n", cluster.url))?;
        Ok(Self { server, cluster })
    }

    /// How to reach the server of a data directory that another popbridge has started.
    ///
    /// # Errors
    /// When there is none.
    pub fn url_of(data_dir: &Path) -> anyhow::Result<String> {
        let path = data_dir.join(URL_FILE);
        let url = fs::read_to_string(&path)
            .with_context(|| format!("no running Postgres is named in {}", path.display()))?;
        Ok(url.trim().to_owned())
    }

    /// How to reach it.
    pub fn url(&self) -> &str {
        &self.cluster.url
    }

    /// Starts the server again whenever it ends by itself, as it does when its disk is full; for as
    /// long as it takes. To be dropped before [`Self::stop`].
    pub async fn keep_up(&mut self) -> Infallible {
        let mut pause = FIRST_RESTART_PAUSE;
        loop {
            let began = Instant::now();
            let ended = self.server.wait().await;
            if began.elapsed() > STEADY {
                pause = FIRST_RESTART_PAUSE;
            }
            if pause == FIRST_RESTART_PAUSE {
                let log = self.cluster.log.display();
                tracing::warn!(?ended, %log, "the private Postgres ended by itself; starting it again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RESTART_PAUSE);
            match self.cluster.relaunch().await {
                Ok(server) => self.server = server,
                Err(error) => tracing::debug!("{error:#}"),
            }
        }
    }

    /// Stops the server: fast, and immediately if that takes too long. Nothing committed is lost.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            let Some(pid) = self.server.id() else {
                return Ok(());
            };
            kill(Pid::from_raw(pid.try_into()?), signal)?;
            if tokio::time::timeout(STOP_DEADLINE, self.server.wait())
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        self.server.kill().await?;
        Ok(())
    }
}

impl Cluster {
    /// Makes the cluster where there is none, and stops a server that still runs on it.
    async fn prepare(data_dir: &Path) -> anyhow::Result<Self> {
        let binaries = find_binaries().await?;
        let owner = unprivileged_user()?;
        let dir = cluster_dir(data_dir, owner.as_ref())?;
        let mut cluster = Self {
            binaries,
            owner,
            dir,
            sockets: PathBuf::new(),
            log: data_dir.join("postgres.log"),
            url: String::new(),
        };
        if !cluster.dir.join("PG_VERSION").exists() {
            make_cluster(cluster.command("initdb"), &cluster.dir).await?;
        }
        stop_orphan(cluster.command("pg_ctl"), &cluster.dir).await?;
        cluster.sockets = socket_dir(&cluster.dir, cluster.owner.as_ref())?;
        cluster.url = format!(
            "postgres:///postgres?host={}&port={PORT}&user=popbridge",
            cluster.sockets.display()
        );
        Ok(cluster)
    }

    /// Starts the server and waits until it takes connections.
    async fn launch(&self, log: fs::File) -> anyhow::Result<Child> {
        let mut server = self
            .command("postgres")
            .arg("-D")
            .arg(&self.dir)
            .arg("-k")
            .arg(&self.sockets)
            .args([
                "-p",
                PORT,
                "-c",
                "listen_addresses=",
                "-c",
                "unix_socket_permissions=0700",
            ])
            .args(["-c", "max_connections=60", "-c", "max_wal_size=2GB"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start postgres")?;
        await_socket(&mut server, &self.sockets, &self.log).await?;
        Ok(server)
    }

    async fn relaunch(&self) -> anyhow::Result<Child> {
        // Behind what the last server said.
        self.launch(fs::File::options().append(true).open(&self.log)?)
            .await
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        if let Some(owner) = &self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// The directory of `initdb` and `postgres`: on the path, by `pg_config`, or Debian's newest.
async fn find_binaries() -> anyhow::Result<PathBuf> {
    let mut candidates: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        candidates.push(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        ));
    }
    candidates.extend(debian_bindirs());
    for dir in candidates.iter().filter(|dir| is_bindir(dir)) {
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .await?;
        if major_version(&String::from_utf8_lossy(&output.stdout)) >= Some(MIN_MAJOR_VERSION) {
            // The real directory: what is on the path may be links to single programs.
            let program = fs::canonicalize(dir.join("postgres"))?;
            return Ok(program.parent().unwrap_or(dir).to_owned());
        }
    }
    bail!(
        "no Postgres {MIN_MAJOR_VERSION} or newer on this machine: install it \
        (Debian: apt install postgresql), or set DATABASE_URL to one elsewhere"
    )
}

fn debian_bindirs() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .iter()
        .map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin")))
        .collect()
}

fn is_bindir(dir: &Path) -> bool {
    dir.is_absolute()
        && ["initdb", "postgres"]
            .iter()
            .all(|program| dir.join(program).is_file())
}

/// The major version in the likes of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(text: &str) -> Option<u32> {
    let version = text
        .split(' ')
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Whom to run the server as; `None`: as ourselves.
fn unprivileged_user() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("Postgres refuses to run as root, and there is no user `postgres` or `nobody`")
}

/// Where the cluster lives: in the data directory where its owner can get there.
fn cluster_dir(data_dir: &Path, owner: Option<&User>) -> anyhow::Result<PathBuf> {
    let Some(owner) = owner else {
        return Ok(data_dir.join("postgres"));
    };
    if data_dir
        .ancestors()
        .skip(1)
        .all(|dir| may_traverse(dir, owner))
    {
        chown(data_dir, Some(owner.uid.as_raw()), None)?;
        return Ok(data_dir.join("postgres"));
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let tag: String = digest
        .iter()
        .take(6)
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let dir = Path::new(FALLBACK_DIR).join(tag);
    fs::create_dir_all(&dir)?;
    chown(&dir, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    tracing::warn!(
        data_dir = %data_dir.display(),
        cluster = %dir.display(),
        user = owner.name,
        "the database is not in the data directory, which this user cannot reach"
    );
    Ok(dir.join("postgres"))
}

fn may_traverse(dir: &Path, user: &User) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(dir).is_ok_and(|metadata| {
        let bit = if metadata.uid() == user.uid.as_raw() {
            0o100
        } else if metadata.gid() == user.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        metadata.permissions().mode() & bit != 0
    })
}

async fn make_cluster(mut initdb: Command, cluster: &Path) -> anyhow::Result<()> {
    tracing::info!(cluster = %cluster.display(), "making a private Postgres");
    // An initdb that was cut off leaves a directory that the next one refuses.
    if let Err(error) = fs::remove_dir_all(cluster)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).context("cannot clear a half-made cluster");
    }
    let output = initdb
        .arg("-D")
        .arg(cluster)
        .args([
            "-U",
            "popbridge",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

async fn stop_orphan(mut pg_ctl: Command, cluster: &Path) -> anyhow::Result<()> {
    if !cluster.join("postmaster.pid").exists() {
        return Ok(());
    }
    // Without a server behind the pid file this fails, and the next server clears it.
    let output = pg_ctl
        .args(["stop", "-w", "-m", "fast", "-D"])
        .arg(cluster)
        .output()
        .await?;
    if output.status.success() {
        tracing::warn!("stopped a private Postgres that an earlier popbridge left running");
    }
    Ok(())
}

/// A directory for the socket, closed to others, whose path is short enough for one.
fn socket_dir(cluster: &Path, owner: Option<&User>) -> anyhow::Result<PathBuf> {
    let mut dir = cluster.with_file_name("run");
    if dir.as_os_str().len() + "/.s.PGSQL.5432".len() > MAX_SOCKET_PATH {
        let mut name = OsString::from("popbridge-");
        name.push(std::process::id().to_string());
        dir = std::env::temp_dir().join(name);
    }
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", dir.display()));
        }
        _ => {}
    }
    if let Some(owner) = owner {
        chown(&dir, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    Ok(dir)
}

async fn await_socket(server: &mut Child, sockets: &Path, log: &Path) -> anyhow::Result<()> {
    let socket = sockets.join(format!(".s.PGSQL.{PORT}"));
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if UnixStream::connect(&socket).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = server.try_wait()? {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!(
                "the private Postgres did not start ({status}): {}",
                said.trim()
            );
        }
        ensure!(
            Instant::now() < deadline,
            "the private Postgres is not up after {START_DEADLINE:?}; see {}",
            log.display()
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_read_from_what_postgres_says() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(major_version(debian), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("something else"), None);
    }
}
