//! The HTTP API over TCP and a real Postgres.

mod access;
mod credentials;
mod document;
mod mailboxes;
mod messages;
mod operations;
mod requests;
mod syncs;
mod webhooks;
