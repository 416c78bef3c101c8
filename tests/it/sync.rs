//! The sync engine against servers with faults, and its leases.

use std::time::Duration;

use popbridge::{
    oauth::AccessTokens,
    pop3::{self, Deadlines},
    store::{
        self, Store,
        leases::{Counts, Outcome},
        mailboxes::{Auth, DeletePolicy, InitialSync, Mailbox, Settings, Tls},
        rematch::CurrentListing,
        syncs::Sync,
        wakeups::Wakeups,
    },
    sync::{Limits, Pool},
};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{
    any_host,
    database::Database,
    eventually,
    pop3_peer::{Answer, Peer, Running, connector, loopback},
};

mod oauth;
mod odd_servers;
mod scheduling;
mod uidl_reset;

const LEASE: Duration = Duration::from_secs(60);

/// A store and a pool of sync workers over it.
struct Engine {
    store: Store,
    _pool: JoinHandle<()>,
    _stop: DropGuard,
    _database: Database,
}

impl Engine {
    async fn start() -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        let deadlines = Deadlines {
            reply: Duration::from_millis(500),
            idle: Duration::from_millis(500),
            ..Deadlines::default()
        };
        let pool = Pool::new(
            store.clone(),
            Wakeups::default(),
            connector(deadlines),
            AccessTokens::new(store.clone(), loopback()).unwrap(),
            Limits {
                sessions: 4,
                sessions_per_host: 4,
                memory: 64 << 20,
            },
        );
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let pool = tokio::spawn(async move { pool.run(&stopped).await });
        Self {
            store,
            _pool: pool,
            _stop: stop.drop_guard(),
            _database: database,
        }
    }

    /// Registers the peer as a mailbox and waits for the end of its first pass.
    async fn first_pass(&self, peer: &Running, change: impl FnOnce(&mut Settings)) -> Pass {
        let mut settings = settings(&peer.server);
        change(&mut settings);
        let password = "hunter2".into();
        let mailbox = self
            .store
            .create_mailbox(&settings, &password)
            .await
            .unwrap();
        self.passed(mailbox.id, 1).await
    }

    /// Asks for another pass and waits for its end.
    async fn next_pass(&self, before: &Pass) -> Pass {
        let mailbox = before.mailbox.id;
        self.store.request_sync(mailbox).await.unwrap();
        self.passed(mailbox, before.passes + 1).await
    }

    async fn passed(&self, mailbox: uuid::Uuid, passes: usize) -> Pass {
        let sync = eventually("the pass ends", async || {
            let syncs = self.store.syncs(mailbox, None, 100).await.unwrap();
            (syncs.len() >= passes).then(|| syncs.into_iter().next().unwrap())
        })
        .await;
        let mailbox = self.store.mailbox(mailbox).await.unwrap();
        let messages = self.store.messages(mailbox.id, None, 500).await.unwrap();
        Pass {
            mailbox,
            sync,
            stored: messages.len(),
            passes,
        }
    }
}

/// How a mailbox stands after a pass.
struct Pass {
    mailbox: Mailbox,
    sync: Sync,
    stored: usize,
    passes: usize,
}

impl Pass {
    fn error(&self) -> Option<&str> {
        self.mailbox
            .last_error
            .as_ref()
            .map(|error| error.code.as_str())
    }
}

fn settings(server: &pop3::Server) -> Settings {
    Settings {
        name: "test".to_owned(),
        external_id: None,
        host: server.host.clone(),
        port: server.port.into(),
        tls: match server.tls {
            pop3::Tls::Implicit => Tls::Implicit,
            pop3::Tls::Starttls => Tls::Starttls,
            pop3::Tls::None => Tls::None,
        },
        tls_ca_pem: server.ca_pem.clone(),
        tls_pin_sha256: None,
        username: "user".to_owned(),
        auth: Auth::Auto,
        poll_interval_seconds: 86_400,
        delete_policy: DeletePolicy::Never,
        delete_after_days: None,
        initial_sync: InitialSync::All,
        notify_backlog: false,
        max_message_bytes: 1 << 20,
        max_messages_per_session: 500,
        max_bytes_per_session: 1 << 30,
        retention: None,
        paused: false,
    }
}

#[tokio::test]
async fn server_that_says_nothing_is_a_timeout() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit)
        .greeting(Answer::Hang(Vec::new()))
        .start()
        .await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    assert_eq!((pass.error(), pass.stored), (Some("timeout"), 0));
}

#[tokio::test]
async fn server_without_stls_gets_no_credentials() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Starttls)
        .capabilities(&["USER", "UIDL"])
        .start()
        .await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    assert_eq!(
        (pass.error(), pass.stored),
        (Some("starttls_unsupported"), 0)
    );
    assert_eq!(
        (peer.count("USER"), peer.count("AUTH"), peer.count("PASS")),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn message_cut_by_the_end_of_the_connection_is_not_stored() {
    let engine = Engine::start().await;
    let cut = Answer::Close(b"+OK\r\nSubject: half a mess".to_vec());
    let peer = Peer::new(pop3::Tls::Implicit)
        .answer("RETR 2", cut)
        .start()
        .await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    assert_eq!((pass.error(), pass.sync.failed), (None, 1));
    assert_eq!(pass.stored, 1, "what was whole is kept");
}

#[tokio::test]
async fn message_that_the_server_refuses_does_not_block_the_others() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit)
        .sends("RETR 1", "-ERR cannot read it\r\n")
        .start()
        .await;
    let first = engine.first_pass(&peer, |_| {}).await;
    assert_eq!(
        (first.error(), first.stored, first.sync.failed),
        (None, 1, 1)
    );

    let second = engine.next_pass(&first).await;
    assert_eq!((second.stored, second.sync.failed), (1, 1));
    assert_eq!(
        (second.sync.stored, peer.count("RETR 2")),
        (0, 2),
        "they are asked for again only to see whether the server works"
    );
}

#[tokio::test]
async fn oversize_message_keeps_its_head_and_stays_on_the_server() {
    let engine = Engine::start().await;
    let large = format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(5000));
    let messages = ["Subject: small\r\n\r\ntext\r\n".to_owned(), large];
    let head = "+OK\r\nSubject: large\r\n\r\n.\r\n";
    let peer = Peer::new(pop3::Tls::Implicit).messages(messages);
    let peer = peer.sends("TOP 2 0", head).start().await;
    let change = |settings: &mut Settings| {
        settings.max_message_bytes = 1024;
        settings.delete_policy = DeletePolicy::AfterStore;
    };
    let first = engine.first_pass(&peer, change).await;
    assert_eq!((first.error(), first.stored), (None, 2));
    let messages = engine
        .store
        .messages(first.mailbox.id, None, 10)
        .await
        .unwrap();
    let oversize = messages
        .iter()
        .find(|m| m.state == store::messages::MessageState::Oversize);
    assert_eq!(oversize.unwrap().summary["subject"], "large");

    let second = engine.next_pass(&first).await;
    assert_eq!(
        (peer.count("RETR 2"), peer.count("TOP 2 0")),
        (0, 1),
        "no second fetch"
    );
    assert_eq!(
        (peer.count("DELE 1"), peer.count("DELE 2")),
        (2, 0),
        "it is not stored whole"
    );
    assert_eq!(second.stored, 2);
}

#[tokio::test]
async fn absurd_size_in_a_listing_harms_no_counter() {
    let engine = Engine::start().await;
    let listing = format!("+OK\r\n1 {}\r\n2 20\r\n.\r\n", i64::MAX);
    let head = "+OK\r\nSubject: large\r\n\r\n.\r\n";
    let peer = Peer::new(pop3::Tls::Implicit)
        .sends("LIST", listing)
        .sends("TOP 1 0", head);
    let peer = peer.start().await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    assert_eq!((pass.error(), pass.stored), (None, 2));
    for message in engine
        .store
        .messages(pass.mailbox.id, None, 10)
        .await
        .unwrap()
    {
        let scope = store::messages::DeleteScope::Local;
        engine
            .store
            .delete_message(pass.mailbox.id, message.id, scope)
            .await
            .unwrap();
    }
    let mailbox = engine.store.mailbox(pass.mailbox.id).await.unwrap();
    assert_eq!((mailbox.message_count, mailbox.stored_bytes), (0, 0));
}

#[tokio::test]
async fn message_that_ends_the_session_does_not_block_those_behind_it() {
    let engine = Engine::start().await;
    let cut = Answer::Close(b"+OK\r\nSubject: half a mess".to_vec());
    let messages = (1..=3).map(|n| format!("Subject: {n}\r\n\r\ntext\r\n"));
    let peer = Peer::new(pop3::Tls::Implicit)
        .messages(messages)
        .answer("RETR 2", cut);
    let peer = peer.start().await;
    let first = engine.first_pass(&peer, |_| {}).await;
    assert_eq!(
        (first.error(), first.stored, first.sync.failed),
        (None, 2, 1),
        "the third comes in a session of its own"
    );
}

#[tokio::test]
async fn message_that_stalls_is_set_aside_after_three_passes() {
    let engine = Engine::start().await;
    let stalled = Answer::Hang(b"+OK\r\nSubject: half a mess".to_vec());
    let peer = Peer::new(pop3::Tls::Implicit).answer("RETR 2", stalled);
    let peer = peer.start().await;
    let mut pass = engine.first_pass(&peer, |_| {}).await;
    for _ in 1..3 {
        assert_eq!((pass.error(), pass.stored, pass.sync.failed), (None, 1, 1));
        pass = engine.next_pass(&pass).await;
    }
    assert_eq!((pass.error(), pass.stored, pass.sync.failed), (None, 2, 1));
    let tries = peer.count("RETR 2");
    let pass = engine.next_pass(&pass).await;
    assert_eq!((pass.sync.failed, peer.count("RETR 2")), (0, tries));
}

#[tokio::test]
async fn deletions_are_done_where_each_pass_has_but_one_session() {
    let engine = Engine::start().await;
    let cut = Answer::Close(b"+OK\r\nSubject: half a mess".to_vec());
    let peer = Peer::new(pop3::Tls::Implicit)
        .capabilities(&["USER", "UIDL", "LOGIN-DELAY 60"])
        .answer("RETR 2", cut)
        .start()
        .await;
    let delete = |settings: &mut Settings| settings.delete_policy = DeletePolicy::AfterStore;
    let first = engine.first_pass(&peer, delete).await;
    assert_eq!(first.error(), Some("connection_closed"));
    assert_eq!((peer.count("DELE 1"), peer.count("QUIT")), (0, 0));
    let second = engine.next_pass(&first).await;
    assert_eq!(second.error(), None);
    assert_eq!((peer.count("DELE 1"), peer.count("QUIT")), (1, 1));
    let third = engine.next_pass(&second).await;
    assert_eq!(third.error(), Some("connection_closed"), "it has its turn");
}

#[tokio::test]
async fn refused_messages_are_no_reason_to_come_back_at_once() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit).sends("RETR", "-ERR cannot read it\r\n");
    let peer = peer.start().await;
    let one_by_one = |settings: &mut Settings| settings.max_messages_per_session = 1;
    let mut pass = engine.first_pass(&peer, one_by_one).await;
    for _ in 0..3 {
        pass = engine.next_pass(&pass).await;
    }
    let next = pass.mailbox.next_sync_at.unwrap();
    assert!(
        next > OffsetDateTime::now_utc() + Duration::from_secs(3600),
        "{next}"
    );
    assert!(peer.count("RETR 2") > 0, "each gets its turn");
}

#[tokio::test]
async fn backlog_can_be_left_out_but_not_what_comes_later() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit).start().await;
    let pass = engine
        .first_pass(&peer, |s| s.initial_sync = InitialSync::None)
        .await;
    assert_eq!((pass.stored, pass.sync.skipped), (0, 2));
    assert_eq!((peer.count("RETR 1"), peer.count("RETR 2")), (0, 0));
    let again = engine.next_pass(&pass).await;
    assert_eq!((again.stored, again.sync.skipped), (0, 0));
}

#[tokio::test]
async fn backlog_of_many_sessions_comes_in_one_pass() {
    let engine = Engine::start().await;
    let messages = (0..25).map(|n| format!("Subject: {n}\r\n\r\ntext\r\n"));
    let peer = Peer::new(pop3::Tls::Implicit)
        .messages(messages)
        .start()
        .await;
    let pass = engine
        .first_pass(&peer, |s| s.max_messages_per_session = 10)
        .await;
    assert_eq!(
        (pass.error(), pass.stored, pass.sync.stored),
        (None, 25, 25)
    );
    assert_eq!(peer.count("QUIT"), 3);
}

#[tokio::test]
async fn incomplete_listing_deletes_nothing() {
    let engine = Engine::start().await;
    let listing = "+OK\r\n1 uid-1\r\n2\r\n.\r\n";
    let peer = Peer::new(pop3::Tls::Implicit)
        .sends("UIDL", listing)
        .start()
        .await;
    let delete = |settings: &mut Settings| settings.delete_policy = DeletePolicy::AfterStore;
    let pass = engine.first_pass(&peer, delete).await;
    assert_eq!((pass.error(), pass.stored), (None, 2));
    assert_eq!((peer.count("DELE 1"), peer.count("DELE 2")), (0, 0));
}

#[tokio::test]
async fn message_is_deleted_only_once_it_is_stored() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit)
        .sends("RETR 2", "-ERR cannot read it\r\n")
        .start()
        .await;
    let delete = |settings: &mut Settings| settings.delete_policy = DeletePolicy::AfterStore;
    engine.first_pass(&peer, delete).await;
    assert_eq!((peer.count("DELE 1"), peer.count("DELE 2")), (1, 0));
}

#[tokio::test]
async fn deletion_that_the_server_forgets_is_asked_for_again() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit).start().await;
    let delete = |settings: &mut Settings| settings.delete_policy = DeletePolicy::AfterStore;
    let first = engine.first_pass(&peer, delete).await;
    assert_eq!(first.mailbox.pending_remote_deletes, 2);

    // This peer lists the messages all the same.
    let second = engine.next_pass(&first).await;
    assert_eq!(
        (second.stored, second.sync.stored),
        (2, 0),
        "not taken for new ones"
    );
    assert_eq!(second.mailbox.pending_remote_deletes, 2);
    assert_eq!(peer.count("DELE 1"), 2);
}

#[tokio::test]
async fn busy_maildrop_is_no_authentication_failure() {
    let engine = Engine::start().await;
    let busy = "-ERR [IN-USE] locked by another session\r\n";
    let peer = Peer::new(pop3::Tls::Implicit)
        .capabilities(&["USER", "UIDL", "RESP-CODES"])
        .sends("PASS", busy)
        .start()
        .await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    assert_eq!(pass.error(), Some("in_use"));
    assert_eq!(
        pass.mailbox.state,
        store::mailboxes::MailboxState::BackingOff
    );
}

#[tokio::test]
async fn five_refused_logins_end_the_tries_until_somebody_acts() {
    let engine = Engine::start().await;
    let peer = Peer::new(pop3::Tls::Implicit)
        .capabilities(&["USER", "UIDL"])
        .sends("PASS", "-ERR wrong password\r\n")
        .start()
        .await;
    let mut pass = engine.first_pass(&peer, |_| {}).await;
    for _ in 1..5 {
        assert!(pass.mailbox.next_sync_at.is_some());
        pass = engine.next_pass(&pass).await;
    }
    assert_eq!(pass.error(), Some("auth_failed"));
    assert_eq!(pass.mailbox.next_sync_at, None);
    assert_eq!(peer.count("PASS hunter2"), 5, "one login for each pass");
}

/// A store with one mailbox that nobody syncs.
async fn idle_mailbox() -> (Database, Store, uuid::Uuid) {
    let database = Database::create().await;
    let store = database.store().await;
    let server = pop3::Server {
        host: "pop.example.org".to_owned(),
        port: 995,
        tls: pop3::Tls::Implicit,
        ca_pem: None,
        pin: None,
        pipelining: true,
    };
    let mailbox = store
        .create_mailbox(&settings(&server), &"hunter2".into())
        .await
        .unwrap();
    (database, store, mailbox.id)
}

#[tokio::test]
async fn claimed_mailbox_is_claimed_by_nobody_else() {
    let (_database, store, mailbox) = idle_mailbox().await;
    let claims = store
        .claim_due_mailboxes(10, LEASE, &any_host())
        .await
        .unwrap();
    assert_eq!(
        claims
            .iter()
            .map(|c| c.lease.mailbox_id)
            .collect::<Vec<_>>(),
        [mailbox]
    );
    assert!(
        store
            .claim_due_mailboxes(10, LEASE, &any_host())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn expired_lease_is_taken_over_and_the_late_worker_writes_nothing() {
    let (_database, store, mailbox) = idle_mailbox().await;
    let late = store
        .claim_due_mailboxes(1, Duration::ZERO, &any_host())
        .await
        .unwrap()[0]
        .lease;
    let current = store
        .claim_due_mailboxes(1, LEASE, &any_host())
        .await
        .unwrap()[0]
        .lease;
    assert!(current.token > late.token);

    let outcome = Outcome {
        started_at: OffsetDateTime::now_utc(),
        counts: Counts::default(),
        failure: None,
        capabilities: None,
        caught_up: true,
        next_in: None,
        pipelining_off_for: None,
        transcript: serde_json::json!({"entries": [], "left_out": 0}),
    };
    let lost = |result: Result<(), store::Error>| {
        assert!(matches!(result, Err(store::Error::LeaseLost)), "{result:?}");
    };
    lost(store.renew_lease(&late, LEASE).await);
    lost(store.finish_pass(&late, &outcome).await);
    lost(
        store
            .store_messages(&late, Vec::new(), &CurrentListing::default())
            .await
            .map(|_| ()),
    );
    lost(store.skip_messages(&late, &[]).await);
    lost(store.record_dele_sent(&late, &[]).await);
    lost(store.release_lease(&late).await);
    store.renew_lease(&current, LEASE).await.unwrap();
    assert_eq!(store.mailbox(mailbox).await.unwrap().last_sync_at, None);
}

#[tokio::test]
async fn stopped_worker_gives_its_mailbox_back_at_once() {
    let database = Database::create().await;
    let store = database.store().await;
    let peer = Peer::new(pop3::Tls::Implicit)
        .greeting(Answer::Hang(Vec::new()))
        .start()
        .await;
    let pool = Pool::new(
        store.clone(),
        Wakeups::default(),
        connector(Deadlines::default()),
        AccessTokens::new(store.clone(), loopback()).unwrap(),
        Limits {
            sessions: 1,
            sessions_per_host: 1,
            memory: 64 << 20,
        },
    );
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let running = tokio::spawn(async move { pool.run(&stopped).await });
    let mailbox = store
        .create_mailbox(&settings(&peer.server), &"hunter2".into())
        .await
        .unwrap();
    eventually("the pass runs", async || {
        let state = store.mailbox(mailbox.id).await.unwrap().state;
        (state == store::mailboxes::MailboxState::Syncing).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let claims = store
        .claim_due_mailboxes(1, LEASE, &any_host())
        .await
        .unwrap();
    assert_eq!(claims.len(), 1, "no need to wait for the lease to end");
}

#[tokio::test]
async fn message_that_is_listed_again_is_present_again() {
    let (_database, store, mailbox) = idle_mailbox().await;
    let lease = store
        .claim_due_mailboxes(1, LEASE, &any_host())
        .await
        .unwrap()[0]
        .lease;
    let listed = [b"uid-1".to_vec(), b"uid-2".to_vec()];
    store
        .store_messages(
            &lease,
            vec![message(mailbox, "uid-1")],
            &CurrentListing::default(),
        )
        .await
        .unwrap();
    let compare = || store.compare_listing(&lease, &listed, DeletePolicy::Never, None);
    let remote_state = async || {
        let messages = store.messages(mailbox, None, 10).await.unwrap();
        messages[0].remote_state
    };

    store.record_absent(&lease, &[], true).await.unwrap();
    assert_eq!(remote_state().await, store::maildrop::RemoteState::Gone);
    let known = compare().await.unwrap();
    assert!(known[&listed[0]].settled, "and is not fetched again");
    assert_eq!(remote_state().await, store::maildrop::RemoteState::Present);
}

#[tokio::test]
async fn mailbox_can_be_deleted_while_a_pass_stores_into_it() {
    let (database, store, mailbox) = idle_mailbox().await;
    let lease = store
        .claim_due_mailboxes(1, LEASE, &any_host())
        .await
        .unwrap()[0]
        .lease;
    // What an ingest does first and last, held open in between.
    let mut ingest = PgConnection::connect(&database.url).await.unwrap();
    let mut ingest = ingest.begin().await.unwrap();
    sqlx::query("SELECT FROM popbridge.mailbox_states WHERE mailbox_id = $1 FOR UPDATE")
        .bind(mailbox)
        .execute(&mut *ingest)
        .await
        .unwrap();
    let deleting = tokio::spawn({
        let store = store.clone();
        async move { store.delete_mailbox(mailbox).await }
    });
    let mut observer = PgConnection::connect(&database.url).await.unwrap();
    eventually("the deletion waits for the ingest", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    sqlx::query(
        "INSERT INTO popbridge.maildrop_entries (mailbox_id, unique_id, octets)
        VALUES ($1, 'uid', 1)",
    )
    .bind(mailbox)
    .execute(&mut *ingest)
    .await
    .unwrap();
    ingest.commit().await.unwrap();

    deleting.await.unwrap().unwrap();
    let late = store
        .store_messages(
            &lease,
            vec![message(mailbox, "late")],
            &CurrentListing::default(),
        )
        .await;
    assert!(matches!(late, Err(store::Error::LeaseLost)), "{late:?}");
}

fn message(mailbox: uuid::Uuid, unique_id: &str) -> store::ingest::NewMessage {
    let id = uuid::Uuid::now_v7();
    store::ingest::NewMessage {
        id,
        unique_id: unique_id.into(),
        octets: b"Subject: test\r\n\r\n".to_vec(),
        size: 17,
        listed_octets: 17,
        arrival: store::ingest::Arrival::default(),
        sha256: [0; 32],
        backlog: false,
        state: store::messages::MessageState::Stored,
        summary: serde_json::json!({}),
        body: "{}".to_owned(),
        parts: serde_json::json!([]),
        event: store::events::NewEvent {
            id: uuid::Uuid::now_v7(),
            mailbox_id: mailbox,
            kind: "message.received",
            message_id: Some(id),
            data: serde_json::json!({}),
            notify: true,
            facts: store::events::Facts::default(),
        },
    }
}
