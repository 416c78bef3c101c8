//! A Postgres of a test's own, to be stopped, killed and filled up.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use popbridge::postgres::PrivatePostgres;
use tempfile::TempDir;

use super::eventually;

/// A running server; it stops when dropped.
pub(crate) struct Cluster {
    server: Option<PrivatePostgres>,
    url: String,
    data_dir: PathBuf,
    _dir: Option<TempDir>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = reachable_dir();
        let mut cluster = Self::below(dir.path()).await;
        cluster._dir = Some(dir);
        cluster
    }

    /// One whose data is below a directory that the server's user can reach.
    pub(crate) async fn below(dir: &Path) -> Self {
        let data_dir = dir.join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let server = PrivatePostgres::start(&data_dir).await.unwrap();
        Self {
            url: server.url().to_owned(),
            server: Some(server),
            data_dir,
            _dir: None,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The directory and the port of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        let url = url::Url::parse(&self.url).unwrap();
        let host = url.query_pairs().find(|(name, _)| name == "host");
        Path::new(&*host.unwrap().1).join(".s.PGSQL.5432")
    }

    /// Its files.
    pub(crate) fn files(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    /// A fast shutdown, which ends all connections.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        server.stop().await.unwrap();
    }

    /// `kill -9` of the whole server: what was not committed is gone.
    pub(crate) async fn crash(&mut self) {
        crash(&self.files()).await;
        self.server = None;
    }

    pub(crate) async fn restart(&mut self) {
        // What is left of one that was killed is in the way for a moment.
        let data_dir = &self.data_dir;
        let server = eventually("Postgres starts", async || {
            PrivatePostgres::start(data_dir).await.ok()
        });
        self.server = Some(server.await);
    }
}

/// Kills the server that runs on these files.
pub(crate) async fn crash(files: &Path) {
    let pid = std::fs::read_to_string(files.join("postmaster.pid")).unwrap();
    let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
}

/// A directory that the server's unprivileged user can reach, unlike `tempfile`'s default.
pub(crate) fn reachable_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    dir
}
