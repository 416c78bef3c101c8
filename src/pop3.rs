//! A POP3 client (RFC 1939, 2449, 2595, 5034): knows nothing of HTTP or Postgres.
//!
//! A [`Connector`] opens [`Session`]s; a session gives a [`Listing`], streams messages as the
//! exact octets that the server sent, deletes, and quits. Four rules hold everywhere:
//!
//! * Only the terminator ends a message; end of stream is an error.
//! * QUIT is sent by [`Session::quit`] alone, and only on a session where nothing went wrong.
//!   Dropping a session closes the socket: some servers take RETR + QUIT as leave to delete.
//! * Every wait ends: per reply, per progress of a body, and per session ([`Deadlines`]).
//! * Nothing here logs or formats a credential. async-pop, which speaks the AUTHORIZATION state,
//!   logs passwords at TRACE: its log target has to stay off.
#![warn(clippy::indexing_slicing)]

mod capabilities;
mod codec;
mod dial;
mod error;
mod head;
mod listing;
mod login;
mod reply;
mod retrieval;
mod server;
mod session;
mod tls;
mod wire;

pub use capabilities::{Capabilities, Expire};
pub use error::{CertificateFault, Error, Phase, Wait};
pub use listing::{Entry, Fault as ListingFault, Listing, MessageNumber, UniqueId};
pub use login::Connector;
pub use reply::{Refusal, ResponseCode};
pub use retrieval::{Retrieval, Retrieved};
pub use server::{Auth, Credentials, Deadlines, Server, Tls};
pub use session::Session;
