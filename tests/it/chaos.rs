//! The chaos server, and popbridge against it.

use std::time::Duration;

use popbridge::{
    chaos::{ChaosServer, Faults, Mail, Options, Tls},
    pop3::{self, Credentials, PasswordMechanism},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

mod batches;
mod cuts;
mod dry_run;
mod outcomes;
mod program;
mod quarantine;
mod server;
mod store;

const LOGIN: &str = "USER demo\r\nPASS demo\r\n";

/// Longer than anything here takes: a hang fails rather than blocks.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server with three small messages that has these faults.
async fn chaos(faults: Faults) -> ChaosServer {
    serve(Tls::None, faults).await
}

async fn serve(tls: Tls, faults: Faults) -> ChaosServer {
    let mail = Mail {
        message_octets: 400,
        ..Mail::default()
    };
    let options = Options {
        tls,
        mail,
        faults,
        ..Options::default()
    };
    ChaosServer::start(options).await.unwrap()
}

/// How a client of popbridge finds the server.
fn address(server: &ChaosServer, tls: Tls) -> pop3::Server {
    pop3::Server {
        host: "localhost".into(),
        port: server.address().port(),
        tls: match tls {
            Tls::None => pop3::Tls::None,
            Tls::Starttls => pop3::Tls::Starttls,
            Tls::Implicit => pop3::Tls::Implicit,
        },
        ca_pem: server.ca_pem().map(str::to_owned),
        pin: None,
        pipelining: true,
    }
}

fn credentials() -> Credentials {
    Credentials::with_password("demo", "demo".into(), PasswordMechanism::Auto)
}

/// Sends all of this at once, hangs up its own half, and returns everything that comes.
async fn talk(server: &ChaosServer, commands: &str) -> String {
    let talking = async {
        let mut line = TcpStream::connect(server.address()).await.unwrap();
        // The server may have cut the line by now, which is what some tests are about.
        line.write_all(commands.as_bytes()).await.ok();
        line.shutdown().await.ok();
        let mut answers = Vec::new();
        line.read_to_end(&mut answers).await.ok();
        String::from_utf8_lossy(&answers).into_owned()
    };
    timeout(DEADLINE, talking).await.expect("the server ends")
}
