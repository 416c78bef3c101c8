//! popbridge from the outside: HTTP, SQL and the POP3 wire.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in helpers too"
)]

mod api;
mod architecture;
mod chaos;
mod check;
mod interop;
mod memory;
mod message;
mod outages;
mod pop3;
mod private_postgres;
mod real;
mod retention;
mod stopping;
mod support;
mod sync;
mod webhooks;
