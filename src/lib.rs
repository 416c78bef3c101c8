//! popbridge: POP3 mailboxes as a JSON API and signed webhooks.
//!
//! `ARCHITECTURE.md` has the map. Dependencies point one way: `api`, `sync` and `webhooks` build
//! on `store`, `message` and `pop3`; those three know nothing of each other.

pub mod api;
pub mod app;
pub mod certificates;
pub mod chaos;
pub mod check;
pub mod config;
pub mod connection;
pub mod data_dir;
pub mod demo;
pub mod egress;
pub mod message;
pub mod oauth;
pub mod parsed;
pub mod pop3;
pub mod postgres;
pub mod retention;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod webhooks;
