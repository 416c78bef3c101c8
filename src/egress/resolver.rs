//! DNS for HTTP: a name resolves only when popbridge may connect to all of its addresses.
//!
//! The addresses that are checked here are those that are connected to, so that a name which
//! changes its addresses in between (DNS rebinding) gains nothing.

use std::{io, net::SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Egress, Refused};

/// The system's resolver, behind the egress policy.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Egress);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if addresses.is_empty() {
                return Err(io::Error::other("it has no address").into());
            }
            check_all(&egress, &addresses)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// One forbidden address among public ones is no accident.
fn check_all(egress: &Egress, addresses: &[SocketAddr]) -> Result<(), Refused> {
    addresses
        .iter()
        .try_for_each(|address| egress.check(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_forbidden_address_is_enough() {
        let check = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            check_all(&Egress::default(), &addresses)
        };
        assert!(check(&["1.1.1.1:0", "[2606:4700::1111]:0"]).is_ok());
        assert!(check(&["1.1.1.1:0", "169.254.169.254:0"]).is_err());
        assert!(check(&["[::1]:0", "1.1.1.1:0"]).is_err());
    }
}
