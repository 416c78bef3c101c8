//! The server stops, or dies.

use super::{Database, Scene};
use crate::support::cluster::{self, Cluster, reachable_dir};

/// Of the messages that come later.
const OCTETS: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_started_again() {
    let mut postgres = Cluster::start().await;
    let scene = Scene::start(Database::At(postgres.url()), OCTETS).await;

    postgres.stop().await;
    scene.says_that_postgres_is_away().await;
    postgres.restart().await;

    scene.ends_well(postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_again() {
    let mut postgres = Cluster::start().await;
    let scene = Scene::start(Database::At(postgres.url()), OCTETS).await;

    postgres.crash().await;
    scene.says_that_postgres_is_away().await;
    postgres.restart().await;

    scene.ends_well(postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_one_that_is_killed_is_started_again() {
    let dir = reachable_dir();
    let data_dir = dir.path().join("data");
    let scene = Scene::start(Database::Below(&data_dir), OCTETS).await;

    cluster::crash(&data_dir.join("postgres")).await;

    let url = std::fs::read_to_string(data_dir.join("database-url")).unwrap();
    scene.stored(u64::from(super::BACKLOG)).await;
    scene.ends_well(url.trim()).await;
}
