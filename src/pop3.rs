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
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod head;
mod identify;
mod listing;
mod login;
mod providers;
mod quirks;
mod reply;
mod retrieval;
mod server;
mod session;
mod tls;
mod transcript;
mod wire;

pub use capabilities::{Capabilities, Expire};
pub use error::{CertificateFault, Error, Phase, Wait};
pub use listing::{Entry, Fault as ListingFault, Listing, MessageNumber, UniqueId, UniqueIds};
pub use login::Connector;
pub use providers::hint as provider_hint;
pub use reply::{Refusal, ResponseCode};
pub use retrieval::{Retrieval, Retrieved};
pub use server::{BearerMechanism, Credentials, Deadlines, PasswordMechanism, Proof, Server, Tls};
pub use session::Session;
pub use tls::{CertificateFacts, KeyPin, KeyPinInvalid, TlsFacts};
pub use transcript::{
    Entry as TranscriptEntry, Record as TranscriptRecord, Speaker, Step, Transcript,
};
