//! The whole path with Dovecot.

use popbridge::{
    demo::{
        certificates::Certificates,
        dovecot::{Account, Dovecot},
    },
    egress::Egress,
    pop3::{Connector, Deadlines},
    store::{
        mailboxes::{Auth, DeletePolicy, InitialSync, Settings, Tls},
        wakeups::Wakeups,
    },
    sync,
};
use tokio_util::sync::CancellationToken;

use crate::support::{database::Database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn scratch() {
    let database = Database::create().await;
    let store = database.store().await;
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::for_names(&["localhost", "127.0.0.1"]).unwrap();
    let account = Account {
        username: "anna".into(),
        password: "secret".into(),
    };
    let dovecot = Dovecot::start(dir.path(), &[account], &certificates)
        .await
        .unwrap();
    for i in 0..1000 {
        dovecot
            .deliver(
                "anna",
                format!("Subject: {i}\n\n.dot\n{}\nlast", "x".repeat(2000)).as_bytes(),
            )
            .unwrap();
    }
    let settings = Settings {
        name: "x".into(),
        external_id: None,
        host: "localhost".into(),
        port: dovecot.pop3s().port().into(),
        tls: Tls::Implicit,
        tls_ca_pem: Some(certificates.ca_pem.clone()),
        username: "anna".into(),
        auth: Auth::Auto,
        poll_interval_seconds: 60,
        delete_policy: DeletePolicy::AfterStore,
        delete_after_days: None,
        initial_sync: InitialSync::All,
        notify_backlog: true,
        max_message_bytes: 50 << 20,
        max_messages_per_session: 500,
        max_bytes_per_session: 200 << 20,
        paused: false,
    };
    let wakeups = Wakeups::default();
    let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let connector = Connector::new(egress, Deadlines::default()).unwrap();
    let pool = sync::Pool::new(store.clone(), wakeups.clone(), connector, 4, 256 << 20);
    let stop = CancellationToken::new();
    let mailbox = store
        .create_mailbox(&settings, &"secret".to_owned().into())
        .await
        .unwrap();
    let start = std::time::Instant::now();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { pool.run(&stop).await }
    });
    let end = eventually("sync", async || {
        let m = store.mailbox(mailbox.id).await.unwrap();
        (m.last_sync_at.is_some()).then_some(m)
    })
    .await;
    println!("{:?} {end:#?}", start.elapsed());
    store.request_sync(mailbox.id).await.unwrap();
    let end = eventually("sync", async || {
        let m = store.mailbox(mailbox.id).await.unwrap();
        (m.last_sync_at > end.last_sync_at).then_some(m)
    })
    .await;
    println!("{:?} {end:#?}", start.elapsed());
    println!("{:#?}", store.syncs(mailbox.id, None, 10).await.unwrap());
    stop.cancel();
    running.await.unwrap();
}
