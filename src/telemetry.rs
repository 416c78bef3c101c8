//! Logs and metrics.

use std::io::IsTerminal;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// async-pop logs every line it writes, passwords included: it stays silent whatever the filter.
/// Postgres's notices tell of things that migrations expect. An outage is told of once, and not by
/// each statement that waits for a connection.
const SILENCED: [&str; 3] = [
    "async_pop=off",
    "sqlx::postgres::notice=off",
    "sqlx::pool::acquire=off",
];

/// Upper bounds of the histograms, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
];

/// Sends logs to standard error.
///
/// # Errors
/// When the filter does not parse, or logs were set up already.
pub fn start_logs(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(filter)
        .with_context(|| format!("POPBRIDGE_LOG: `{filter}` is no log filter; try `info`"))?;
    for directive in SILENCED {
        filter = filter.add_directive(directive.parse().context("built-in log directive")?);
    }
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    // Where, but not what: a panic's message may quote the mail that caused it.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "a task panicked");
    }));
    Ok(())
}

/// Starts to gather metrics; the handle renders them for Prometheus.
///
/// # Errors
/// When a recorder was installed already.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .ok()
        .context("metrics were started twice")?;
    Ok(handle)
}
