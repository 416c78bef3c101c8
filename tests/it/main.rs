//! popbridge from the outside: HTTP, SQL and the POP3 wire.

mod private_postgres;
