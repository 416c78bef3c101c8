//! The most that can be had over one TLS connection: every RETR sent at once, and nothing done
//! with what comes but counting terminators.

use std::{fs, sync::Arc, time::Instant};

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    maildrops::{HOST, PASSWORD, Target},
    measure::Drained,
};

const TERMINATOR: &[u8] = b"\r\n.\r\n";

const BUFFER: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn drain(target: &Target) -> anyhow::Result<Drained> {
    let started = Instant::now();
    let mut stream = BufReader::new(connect(target).await?);
    reply(&mut stream).await?;
    for command in [
        format!("USER {}\r\n", target.username),
        format!("PASS {PASSWORD}\r\n"),
    ] {
        stream.write_all(command.as_bytes()).await?;
        reply(&mut stream).await?;
    }
    stream.write_all(b"STAT\r\n").await?;
    let stat = reply(&mut stream).await?;
    let count = stat.split(' ').nth(1).context("STAT has a count")?;
    let count: u64 = count.parse()?;
    ensure!(stream.buffer().is_empty(), "nothing comes unasked");
    let ready = Instant::now();

    let (mut reader, mut writer) = tokio::io::split(stream.into_inner());
    let commands: String = (1..=count).map(|n| format!("RETR {n}\r\n")).collect();
    let send = async {
        writer.write_all(commands.as_bytes()).await?;
        writer.flush().await?;
        anyhow::Ok(())
    };
    let receive = async {
        let (mut terminators, mut octets) = (0, 0);
        let finder = memmem::Finder::new(TERMINATOR);
        let mut buffer = vec![0; BUFFER];
        // What may be the beginning of a terminator stays at the front of the buffer.
        let mut kept = 0;
        while terminators < count {
            let read = reader.read(&mut buffer[kept..]).await?;
            if read == 0 {
                bail!("the line ended after {terminators} messages");
            }
            octets += read as u64;
            let filled = kept + read;
            terminators += finder.find_iter(&buffer[..filled]).count() as u64;
            kept = if buffer[..filled].ends_with(TERMINATOR) {
                0
            } else {
                filled.min(TERMINATOR.len() - 1)
            };
            buffer.copy_within(filled - kept..filled, 0);
        }
        Ok((terminators, octets))
    };
    let ((), (messages, octets)) = tokio::try_join!(send, receive)?;
    let drained = Instant::now();
    let mut stream = reader.unsplit(writer);
    stream.write_all(b"QUIT\r\n").await?;
    reply(&mut BufReader::new(stream)).await?;
    Ok(Drained {
        messages,
        octets,
        open_ms: (ready - started).as_secs_f64() * 1e3,
        drain_ms: Some((drained - ready).as_secs_f64() * 1e3),
    })
}

async fn connect(target: &Target) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(&target.ca)?)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((HOST, target.port)).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector
        .connect(ServerName::try_from(HOST)?, stream)
        .await?)
}

async fn reply(stream: &mut BufReader<TlsStream<TcpStream>>) -> anyhow::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    ensure!(line.starts_with("+OK"), "the server says {line:?}");
    Ok(line)
}
