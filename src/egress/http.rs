//! HTTP to hosts that users name: HTTP/1.1, no redirects, no proxy, no second tries, and only
//! addresses that the policy lets through.

use std::{error::Error, io, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{RequestBuilder, Url, redirect, retry};
use rustls::{ClientConfig, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt;

use super::{Egress, Refused, resolver::Resolver};

const USER_AGENT: &str = concat!("popbridge/", env!("CARGO_PKG_VERSION"));

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS, most often for want of CA certificates.
    #[error("cannot set up TLS for HTTP: {0}; install ca-certificates")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// Makes requests. What limits their time and what is read of the answer is the caller's.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    egress: Egress,
    connect_timeout: Duration,
}

impl Client {
    /// A client that gives name lookup, TCP and TLS together `connect_timeout`, and keeps
    /// `idle_per_host` connections open for later.
    ///
    /// # Errors
    /// [`ClientError`] when the machine has no CA certificates.
    pub fn new(
        egress: Egress,
        connect_timeout: Duration,
        idle_per_host: usize,
    ) -> Result<Self, ClientError> {
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .dns_resolver(Arc::new(Resolver(egress.clone())))
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(idle_per_host)
            .user_agent(USER_AGENT)
            .build()?;
        Ok(Self {
            http,
            egress,
            connect_timeout,
        })
    }

    /// A POST that may be sent.
    ///
    /// # Errors
    /// [`Failure::Url`] and [`Failure::Refused`].
    pub fn post(&self, url: &str) -> Result<RequestBuilder, Failure> {
        let url = Url::parse(url).map_err(|_| Failure::Url)?;
        let host = match url.scheme() {
            "http" | "https" => url.host_str().ok_or(Failure::Url)?,
            _ => return Err(Failure::Url),
        };
        // Resolvers are not asked for hosts that are addresses, so those are checked here.
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.egress.check(address).map_err(Failure::Refused)?;
        }
        Ok(self.http.post(url))
    }

    /// What a failed request or a failed read of its answer means.
    pub fn failure(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        if let Some(refused) = find::<Refused>(&error) {
            return Failure::Refused(*refused);
        }
        if let Some(tls) = find::<rustls::Error>(&error) {
            return Failure::Tls(tls.clone());
        }
        if error.is_builder() {
            return Failure::Url;
        }
        let cause = innermost(&error).to_string();
        if error.is_dns() {
            Failure::Lookup(cause)
        } else if error.is_connect() && error.is_timeout() {
            Failure::ConnectTimeout(self.connect_timeout)
        } else if error.is_connect() {
            Failure::Connect(cause)
        } else {
            Failure::Broken(cause)
        }
    }
}

/// Why there is no whole answer. None of them names the URL, which may hold a secret.
#[derive(Debug)]
pub enum Failure {
    /// Nothing that HTTP can be spoken to.
    Url,
    /// The operator's policy forbids the address.
    Refused(Refused),
    /// DNS.
    Lookup(String),
    /// Name lookup, TCP and TLS took too long.
    ConnectTimeout(Duration),
    /// TCP.
    Connect(String),
    /// TLS.
    Tls(rustls::Error),
    /// Reset, closed early, or not HTTP.
    Broken(String),
}

impl Failure {
    /// In words, for a server that users know by this `name`.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match self {
            Self::Url => format!("the {name}'s URL is not an http or https URL"),
            Self::Refused(refused) => format!("refused: {refused}"),
            Self::Lookup(cause) => format!("the {name}'s host name does not resolve: {cause}"),
            Self::ConnectTimeout(limit) => format!("no connection to the {name} within {limit:?}"),
            Self::Connect(cause) => format!("cannot connect to the {name}: {cause}"),
            Self::Tls(error) => format!("no TLS connection to the {name}: {error}"),
            Self::Broken(cause) => format!("the exchange with the {name} broke off: {cause}"),
        }
    }
}

/// The first error of this type among an error and its causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// An error and what caused it. An [`io::Error`] leaves the error that it wraps out of its own
/// chain.
fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    std::iter::successors(Some(error), |&error| {
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}
