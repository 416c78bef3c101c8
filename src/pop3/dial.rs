//! Name to connected socket: DNS, the egress policy, then each address in turn (RFC 8305, simply).

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::egress::Egress;

use super::{Error, Phase, Transcript, wire::Clock};

/// More addresses than this are not tried.
const MAX_ADDRESSES: usize = 8;

/// Head start of an address over the next one.
const STAGGER: Duration = Duration::from_millis(250);

pub(super) async fn dial(
    host: &str,
    port: u16,
    egress: &Egress,
    clock: Clock,
    transcript: &Transcript,
) -> Result<TcpStream, Error> {
    let limit = clock.deadlines.connect;
    transcript.enter(Phase::Resolve);
    let addresses = resolve(host, port, limit).await?;
    vet(host, &addresses, egress)?;
    transcript.enter(Phase::Connect);
    let timed_out = || Error::ConnectTimeout {
        host: host.to_owned(),
        port,
        after: limit,
    };
    let connected = timeout_at(clock.ends, race(interleave(addresses), limit)).await;
    let stream = connected.map_err(|_| timed_out())?.map_err(|error| {
        if error.kind() == io::ErrorKind::TimedOut {
            return timed_out();
        }
        Error::Connect {
            host: host.to_owned(),
            port,
            reason: error.to_string(),
        }
    })?;
    // Commands are small and their replies are waited for. Without this they merely wait longer.
    let _ = stream.set_nodelay(true);
    if let Ok(address) = stream.peer_addr() {
        transcript.connected(address);
    }
    Ok(stream)
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, Error> {
    let failed = |reason: String| Error::Dns {
        host: host.to_owned(),
        reason,
    };
    let found = timeout(limit, lookup_host((host, port)))
        .await
        .map_err(|_| failed(format!("no answer within {} s", limit.as_secs_f32())))?
        .map_err(|error| failed(error.to_string()))?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() {
        Err(failed("it has no address".into()))
    } else {
        Ok(addresses)
    }
}

/// One forbidden address among good ones is how DNS rebinding looks: all of them have to pass.
fn vet(host: &str, addresses: &[SocketAddr], egress: &Egress) -> Result<(), Error> {
    let refused = |refused| Error::EgressRefused {
        host: host.to_owned(),
        refused,
    };
    addresses
        .iter()
        .try_for_each(|address| egress.check(address.ip()).map_err(refused))
}

/// IPv6 and IPv4 by turns, the resolver's favourite first.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (favoured, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut turns: Vec<_> = favoured
        .into_iter()
        .flat_map(|address| [Some(address), other.next()])
        .flatten()
        .collect();
    turns.extend(other);
    turns.truncate(MAX_ADDRESSES);
    turns
}

/// Begins with the first address, adds the next after [`STAGGER`] or a failure; first to connect
/// wins, and the last failure counts if none does.
async fn race(addresses: Vec<SocketAddr>, limit: Duration) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(connect(address, limit));
        }
        let next_start = Instant::now() + STAGGER;
        tokio::select! {
            done = attempts.next() => match done {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = sleep_until(next_start), if waiting.len() > 0 => {}
        }
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    timeout(limit, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses
            .iter()
            .map(|ip| (ip.parse::<std::net::IpAddr>().unwrap(), 995).into())
            .collect()
    }

    #[test]
    fn one_forbidden_address_among_good_ones_is_enough_to_refuse() {
        let vet = |addresses: &[&str]| vet("host", &sockets(addresses), &Egress::default());
        assert!(vet(&["1.1.1.1", "2606::1"]).is_ok());
        assert_eq!(
            vet(&["1.1.1.1", "10.0.0.1"]).unwrap_err().code(),
            "egress_refused"
        );
    }

    #[test]
    fn families_take_turns() {
        let turns = interleave(sockets(&[
            "2606::1", "2606::2", "1.1.1.1", "2606::3", "1.1.1.2",
        ]));
        assert_eq!(
            turns,
            sockets(&["2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "2606::3"])
        );
        let turns = interleave(sockets(&["1.1.1.1", "1.1.1.2", "2606::1"]));
        assert_eq!(turns, sockets(&["1.1.1.1", "2606::1", "1.1.1.2"]));
    }

    #[test]
    fn a_host_with_very_many_addresses_is_not_tried_for_ever() {
        assert_eq!(interleave(sockets(&["1.1.1.1"; 300])).len(), MAX_ADDRESSES);
    }
}
