//! The private Postgres, also as root.

use popbridge::{
    postgres::PrivatePostgres,
    store::{MasterKey, Store},
};

use crate::support::cluster::reachable_dir;

fn open(url: &str) -> Store {
    let key = MasterKey::from_base64(&MasterKey::generate()).unwrap();
    Store::new(url, key).unwrap()
}

#[tokio::test]
async fn data_survives_a_restart() {
    let parent = reachable_dir();
    let data_dir = parent.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let store = open(postgres.url());
    store.migrate().await.unwrap();
    let key = store
        .create_api_key("test", &[7; 32], &[], &[], None)
        .await
        .unwrap();
    store.close().await;
    postgres.stop().await.unwrap();

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let store = open(postgres.url());
    assert_eq!(store.use_api_key(&[7; 32]).await.unwrap().id, key);
    store.close().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn server_left_by_a_killed_popbridge_is_replaced() {
    let parent = reachable_dir();
    let data_dir = parent.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();

    // What a `kill -9` of popbridge does: nobody stops the server.
    let orphan = PrivatePostgres::start(&data_dir).await.unwrap();
    let orphan = std::mem::ManuallyDrop::new(orphan);

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let store = open(postgres.url());
    store.ping().await.unwrap();
    assert_eq!(orphan.url(), postgres.url());
    store.close().await;
    postgres.stop().await.unwrap();
}
