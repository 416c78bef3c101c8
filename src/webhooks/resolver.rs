//! DNS for webhooks: a name resolves only when popbridge may connect to all of its addresses.
//!
//! The addresses that are checked here are those that are connected to, so that a name which
//! changes its addresses in between (DNS rebinding) gains nothing.

use std::{io, net::SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::egress::Egress;

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
            for address in &addresses {
                egress.check(address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
