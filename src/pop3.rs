//! A POP3 client: knows nothing of HTTP or Postgres.
