//! Which addresses popbridge may connect to.
//!
//! Hosts of mailboxes and webhooks are user input, so every address is checked after DNS and
//! right before the connection. Only globally reachable unicast addresses pass (IANA special-purpose
//! registries, RFC 6890), and those that the operator lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub mod http;
mod resolver;

/// The operator's policy: public addresses, and what `allow` adds to them.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    allow: Vec<IpNet>,
}

/// An address that the policy does not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is a {kind} address; the operator can allow it with POPBRIDGE_EGRESS_ALLOW")]
pub struct Refused {
    /// The address, as it was asked for.
    pub address: IpAddr,
    /// What sort of address it is, for people.
    pub kind: &'static str,
}

impl Egress {
    /// A policy that lets through public addresses and these networks.
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Whether popbridge may connect to this address.
    ///
    /// # Errors
    /// [`Refused`] says what sort of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        // `::ffff:127.0.0.1` reaches 127.0.0.1.
        let canonical = address.to_canonical();
        let allowed = |net: &IpNet| net.contains(&canonical) || net.contains(&address);
        match forbidden(canonical) {
            Some(kind) if !self.allow.iter().any(allowed) => Err(Refused { address, kind }),
            _ => Ok(()),
        }
    }
}

fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => FORBIDDEN_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|found| found.1),
        IpAddr::V6(v6) => FORBIDDEN_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|found| found.1)
            .or_else(|| (!GLOBAL_UNICAST_V6.contains(&v6)).then_some("reserved")),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const FORBIDDEN_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    // Azure's host agent, the one metadata service that lives on a public address.
    (v4(168, 63, 129, 16, 32), "metadata"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignment"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

const GLOBAL_UNICAST_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

// First match names the address. What is left outside of 2000::/3 is reserved.
const FORBIDDEN_V6: &[(Ipv6Net, &str)] = &[
    (
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
        "unspecified",
    ),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (v6(0, 0, 0, 96), "IPv4-compatible"),
    (v6(0x64, 0xff9b, 0, 96), "NAT64"),
    (v6(0x64, 0xff9b, 1, 48), "NAT64"),
    (v6(0x100, 0, 0, 64), "discard-only"),
    (v6(0x2001, 0, 0, 23), "protocol assignment"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
    (v6(0x5f00, 0, 0, 16), "segment routing"),
    (v6(0xfc00, 0, 0, 7), "unique local"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &Egress, address: &str) -> Result<(), &'static str> {
        policy
            .check(address.parse().unwrap())
            .map_err(|refused| refused.kind)
    }

    #[test]
    fn public_addresses_pass() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(check(&Egress::default(), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn special_addresses_are_refused() {
        for (address, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.100.100.200", "carrier-grade NAT"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocol assignment"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.1.1", "private"),
            ("198.18.0.1", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "link-local"),
            ("64:ff9b::7f00:1", "NAT64"),
            ("64:ff9b:1::1", "NAT64"),
            ("100::1", "discard-only"),
            ("2001::1", "protocol assignment"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("3fff::1", "documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "segment routing"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(check(&Egress::default(), address), Err(kind), "{address}");
        }
    }

    #[test]
    fn the_operator_can_allow_networks() {
        let policy = Egress::new(vec![
            "127.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ]);
        assert_eq!(check(&policy, "127.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "fd12::1"), Ok(()));
        assert_eq!(check(&policy, "10.0.0.1"), Err("private"));
        assert_eq!(check(&policy, "::1"), Err("loopback"));
    }

    #[test]
    fn a_refusal_says_what_to_change() {
        let refused = Egress::default()
            .check(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "127.0.0.1 is a loopback address; the operator can allow it with POPBRIDGE_EGRESS_ALLOW"
        );
    }
}
