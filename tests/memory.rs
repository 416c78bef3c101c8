//! What a POP3 server makes the client remember is bounded, whatever it sends.
//!
//! The allocator counts the memory of the whole process, the chaos server's too, so that tests
//! here have to run one at a time.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in helpers too"
)]

use peak_alloc::PeakAlloc;
use popbridge::{
    chaos::{ChaosServer, CommandPattern, Faults, Options},
    egress::Egress,
    pop3::{
        Connector, Credentials, Deadlines, Error, PasswordMechanism, Retrieved, Server, Session,
        Tls, Transcript,
    },
};
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// For a session whose replies are not kept: its buffer, those of the server and the runtime.
const MAX_SESSION_BYTES: usize = 2 << 20;

/// For a listing that is given up for its length: less than came.
const MAX_LISTING_BYTES: usize = 64 << 20;

/// For the longest listing that is taken in.
const MAX_LONGEST_LISTING_BYTES: usize = 160 << 20;

/// Its messages.
const LONGEST_LISTING: u32 = 500_000;

/// Octets of an endless message that are read.
const MUCH: usize = 64 << 20;

#[tokio::test]
async fn endless_message_is_not_kept() {
    for endless in [lines("RETR"), line("RETR")] {
        let measure = Measure::start().await;
        let server = chaos(endless).await;
        let mut session = open(&server).await.unwrap();
        let listing = session.listing(None).await.unwrap();
        let first = &listing.entries[0];
        let mut retrieval = session.retrieve([(first.number, first.octets)]);
        let next = retrieval.next().await.unwrap();
        assert!(matches!(next, Some(Retrieved::Body { .. })));
        let mut octets = 0;
        while octets < MUCH {
            octets += retrieval.chunk().await.unwrap().unwrap().len();
        }
        measure.assert_below(MAX_SESSION_BYTES);
    }
}

#[tokio::test]
async fn endless_head_is_given_up() {
    let measure = Measure::start().await;
    let server = chaos(lines("TOP")).await;
    let mut session = open(&server).await.unwrap();
    let listing = session.listing(None).await.unwrap();
    let head = session.head(listing.entries[0].number).await;
    assert_eq!(head.unwrap_err().code(), "protocol_error");
    measure.assert_below(MAX_SESSION_BYTES);
}

#[tokio::test]
async fn line_without_end_is_given_up_early() {
    for command in ["GREETING", "AUTH", "STAT", "UIDL", "LIST"] {
        let measure = Measure::start().await;
        let server = chaos(line(command)).await;
        assert_eq!(failure(&server).await, "protocol_error", "{command}");
        measure.assert_below(MAX_SESSION_BYTES);
    }
}

#[tokio::test]
async fn endless_capabilities_are_not_kept() {
    let measure = Measure::start().await;
    let server = chaos(lines("CAPA")).await;
    // It is asked again without CAPA.
    open(&server).await.unwrap();
    measure.assert_below(MAX_SESSION_BYTES);
}

#[tokio::test]
async fn endless_listing_is_given_up() {
    for command in ["UIDL", "LIST"] {
        let measure = Measure::start().await;
        let server = chaos(lines(command)).await;
        assert_eq!(failure(&server).await, "protocol_error", "{command}");
        measure.assert_below(MAX_LISTING_BYTES);
    }
}

#[tokio::test]
async fn longest_listing_fits() {
    let mut options = Options::default();
    options.mail.messages = LONGEST_LISTING;
    let server = ChaosServer::start(options).await.unwrap();
    let measure = Measure::start().await;
    let listing = open(&server).await.unwrap().listing(None).await.unwrap();
    assert_eq!(
        (listing.entries.len(), listing.complete),
        (LONGEST_LISTING as usize, true)
    );
    measure.assert_below(MAX_LONGEST_LISTING_BYTES);
}

/// Memory from here on, while no other test runs.
struct Measure {
    before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Measure {
    async fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        // Trusted certificates are read once, and so are other things at their first use.
        let warm = chaos(Faults::default()).await;
        open(&warm).await.unwrap().listing(None).await.unwrap();
        warm.stop().await;
        ALLOCATOR.reset_peak_usage();
        Self {
            before: ALLOCATOR.current_usage(),
            _alone: alone,
        }
    }

    fn assert_below(self, limit: usize) {
        let used = ALLOCATOR.peak_usage() - self.before;
        assert!(used < limit, "{used} bytes, not below {limit}");
    }
}

fn lines(command: &str) -> Faults {
    Faults {
        endless: vec![CommandPattern::from(command)],
        ..Faults::default()
    }
}

fn line(command: &str) -> Faults {
    Faults {
        endless_line: vec![CommandPattern::from(command)],
        ..Faults::default()
    }
}

async fn chaos(faults: Faults) -> ChaosServer {
    let options = Options {
        faults,
        ..Options::default()
    };
    ChaosServer::start(options).await.unwrap()
}

async fn open(server: &ChaosServer) -> Result<Session, Error> {
    let address = Server {
        host: "localhost".into(),
        port: server.address().port(),
        tls: Tls::None,
        ca_pem: None,
        pin: None,
        pipelining: true,
    };
    let credentials = Credentials::with_password("demo", "demo".into(), PasswordMechanism::Auto);
    let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let connector = Connector::new(Egress::new(loopback), Deadlines::default()).unwrap();
    connector
        .open(&address, &credentials, &Transcript::default())
        .await
}

async fn failure(server: &ChaosServer) -> &'static str {
    let listing = async { open(server).await?.listing(None).await };
    listing.await.unwrap_err().code()
}
