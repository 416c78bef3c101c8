//! The disk is full. Needs the right to mount a small one.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{Connection, PgConnection};

use super::{Database, Scene};
use crate::support::cluster::{Cluster, reachable_dir};

/// Large enough that the room which Postgres has in store is soon used up.
const OCTETS: usize = 50_000;

/// A cluster has 40 MB or so, and all mail that can arrive finds room beside it.
const DISK_MB: u32 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_no_room() {
    let disk = SmallDisk::mount();
    let mut postgres = Cluster::below(&disk.path).await;
    // Only tables are on the small disk: that is an error of a statement, not of the server.
    postgres.stop().await;
    let (wal, elsewhere) = (postgres.files().join("pg_wal"), disk.parent().join("wal"));
    run("cp", &["-a", path(&wal), path(&elsewhere)]);
    std::fs::remove_dir_all(&wal).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &wal).unwrap();
    postgres.restart().await;
    let scene = Scene::start(Database::At(postgres.url()), OCTETS).await;

    let ballast = disk.fill();
    scene.says_that_postgres_is_away().await;
    std::fs::remove_file(ballast).unwrap();

    scene.ends_well(postgres.url()).await;
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_postgres_has_no_room_for_its_log() {
    let disk = SmallDisk::mount();
    let data_dir = disk.path.join("data");
    let scene = Scene::start(Database::Below(&data_dir), OCTETS).await;

    let url = std::fs::read_to_string(data_dir.join("database-url")).unwrap();

    let ballast = disk.fill();
    use_up_log(url.trim()).await;
    scene.says_that_postgres_is_away().await;
    std::fs::remove_file(ballast).unwrap();

    scene.ends_well(url.trim()).await;
}

/// Goes through the segments of the write-ahead log that are there, to the one that cannot be made:
/// that ends the server.
async fn use_up_log(url: &str) {
    let mut database = PgConnection::connect(url).await.unwrap();
    for _ in 0..100 {
        let switched =
            sqlx::query("SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()")
                .execute(&mut database);
        if switched.await.is_err() {
            return;
        }
    }
    panic!("there is no end to the write-ahead log");
}

/// A file system of its own; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let dir = reachable_dir();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let options = format!("size={DISK_MB}m,mode=0711");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", path(&disk)],
        );
        Self { path: disk, dir }
    }

    /// Another disk.
    fn parent(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all that is free. Returns what to remove.
    fn fill(&self) -> PathBuf {
        let ballast = self.path.join("ballast");
        let mut file = File::create(&ballast).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failed test something may still run there.
        run("umount", &["--lazy", path(&self.path)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
