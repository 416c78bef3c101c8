-- Everything that popbridge keeps. Rows that belong to a mailbox have a primary key that starts
-- with mailbox_id, so that the tables can be partitioned or distributed by it.

CREATE SCHEMA IF NOT EXISTS popbridge;

-- What users set; written by the API only.
CREATE TABLE popbridge.mailboxes (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    external_id text,
    host text NOT NULL,
    port integer NOT NULL CONSTRAINT mailboxes_port CHECK (port BETWEEN 1 AND 65535),
    tls text NOT NULL CONSTRAINT mailboxes_tls CHECK (tls IN ('implicit', 'starttls', 'none')),
    username text NOT NULL,
    auth text NOT NULL CONSTRAINT mailboxes_auth
        CHECK (auth IN ('auto', 'user_pass', 'plain', 'apop', 'xoauth2', 'oauthbearer')),
    -- The credential as JSON, sealed with the master key (AES-256-GCM).
    sealed_secret bytea NOT NULL,
    tls_ca_pem text,
    poll_interval_seconds integer NOT NULL,
    delete_policy text NOT NULL CONSTRAINT mailboxes_delete_policy
        CHECK (delete_policy IN ('never', 'after_store', 'after_days', 'after_ack')),
    delete_after_days integer,
    -- "all", "none", {"last_n": 100} or {"since": "2026-01-01T00:00:00Z"}.
    initial_sync jsonb NOT NULL,
    notify_backlog boolean NOT NULL,
    max_message_bytes bigint NOT NULL,
    max_messages_per_session integer NOT NULL,
    max_bytes_per_session bigint NOT NULL,
    retention jsonb,
    paused boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mailboxes_external_id_key UNIQUE (external_id)
);

-- What a sync pass changes: narrow and hot, apart from the settings. The lease that keeps a
-- maildrop to one session is here, with its fencing number.
CREATE TABLE popbridge.mailbox_states (
    mailbox_id uuid PRIMARY KEY REFERENCES popbridge.mailboxes ON DELETE CASCADE,
    -- When the next pass is due; null while paused or after too many refused logins.
    next_sync_at timestamptz,
    lease_token bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    -- The pass that runs or was asked for; null between passes.
    sync_id uuid,
    sync_requested_at timestamptz,
    last_sync_at timestamptz,
    last_success_at timestamptz,
    last_error_code text,
    last_error_detail text,
    last_error_at timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0,
    consecutive_auth_failures integer NOT NULL DEFAULT 0,
    -- Set by the first complete pass: what is listed until then is backlog.
    backlog_done_at timestamptz,
    message_count bigint NOT NULL DEFAULT 0,
    stored_bytes bigint NOT NULL DEFAULT 0,
    pending_remote_deletes bigint NOT NULL DEFAULT 0,
    capabilities text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);

CREATE INDEX mailbox_states_due ON popbridge.mailbox_states (next_sync_at)
    WHERE next_sync_at IS NOT NULL;

-- One row for each unique-id ever taken from a maildrop: it outlives the message, so that a
-- message that was deleted here is not fetched again, and holds what happened and when.
CREATE TABLE popbridge.maildrop_entries (
    mailbox_id uuid NOT NULL REFERENCES popbridge.mailboxes ON DELETE CASCADE,
    unique_id bytea NOT NULL CONSTRAINT maildrop_entries_unique_id
        CHECK (octet_length(unique_id) BETWEEN 1 AND 1024),
    -- Null while there is no message.
    message_id uuid,
    octets bigint NOT NULL,
    remote_state text NOT NULL DEFAULT 'present' CONSTRAINT maildrop_entries_remote_state
        CHECK (remote_state IN ('present', 'delete_pending', 'deleted', 'gone')),
    -- Left out on purpose by initial_sync: never fetched.
    skipped boolean NOT NULL DEFAULT false,
    -- Passes in which the server refused to send it.
    failures integer NOT NULL DEFAULT 0,
    listed_at timestamptz NOT NULL DEFAULT now(),
    stored_at timestamptz,
    delete_requested_at timestamptz,
    dele_sent_at timestamptz,
    absent_at timestamptz,
    PRIMARY KEY (mailbox_id, unique_id)
);

CREATE UNIQUE INDEX maildrop_entries_message ON popbridge.maildrop_entries (mailbox_id, message_id)
    WHERE message_id IS NOT NULL;

CREATE INDEX maildrop_entries_delete_pending ON popbridge.maildrop_entries (mailbox_id)
    WHERE remote_state = 'delete_pending';

CREATE TABLE popbridge.messages (
    mailbox_id uuid NOT NULL,
    id uuid NOT NULL,
    unique_id bytea NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    backlog boolean NOT NULL,
    state text NOT NULL DEFAULT 'stored' CONSTRAINT messages_state
        CHECK (state IN ('stored', 'quarantined', 'oversize')),
    -- The parsed message as lists show it, attachments included.
    summary jsonb NOT NULL,
    -- What only a single message shows: headers and text.
    body jsonb NOT NULL,
    -- [offset, octets] of each attachment's part in the raw message: nothing is stored twice.
    parts jsonb NOT NULL,
    acked_at timestamptz,
    PRIMARY KEY (mailbox_id, id),
    FOREIGN KEY (mailbox_id, unique_id) REFERENCES popbridge.maildrop_entries ON DELETE CASCADE,
    CONSTRAINT messages_unique_id_key UNIQUE (mailbox_id, unique_id)
);

ALTER TABLE popbridge.messages
    ALTER COLUMN summary SET COMPRESSION lz4,
    ALTER COLUMN body SET COMPRESSION lz4;

-- The octets as the server sent them, apart so that lists do not touch them.
CREATE TABLE popbridge.raw_messages (
    mailbox_id uuid NOT NULL,
    message_id uuid NOT NULL,
    octets bytea NOT NULL,
    PRIMARY KEY (mailbox_id, message_id),
    FOREIGN KEY (mailbox_id, message_id) REFERENCES popbridge.messages ON DELETE CASCADE
);

ALTER TABLE popbridge.raw_messages ALTER COLUMN octets SET COMPRESSION lz4;

-- The log. It outlives what it tells of, so there is no foreign key; the nil UUID stands for
-- "no mailbox". `xid` orders it: an event is shown once no older transaction can still commit.
CREATE TABLE popbridge.events (
    mailbox_id uuid NOT NULL,
    id uuid NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    type text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    message_id uuid,
    data jsonb NOT NULL,
    PRIMARY KEY (mailbox_id, id)
);

CREATE INDEX events_order ON popbridge.events (xid, id);

CREATE TABLE popbridge.webhooks (
    id uuid PRIMARY KEY,
    url text NOT NULL,
    events text[] NOT NULL,
    -- Empty: every mailbox.
    mailbox_ids uuid[] NOT NULL,
    filter_from text,
    filter_to text,
    filter_subject text,
    payload text NOT NULL CONSTRAINT webhooks_payload CHECK (payload IN ('thin', 'metadata', 'text')),
    description text,
    state text NOT NULL DEFAULT 'enabled' CONSTRAINT webhooks_state
        CHECK (state IN ('enabled', 'disabled')),
    sealed_secret bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each event and endpoint. `pending` rows are the queue, leased like mailboxes.
CREATE TABLE popbridge.deliveries (
    mailbox_id uuid NOT NULL,
    id uuid NOT NULL,
    webhook_id uuid NOT NULL REFERENCES popbridge.webhooks ON DELETE CASCADE,
    event_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state
        CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    -- While a worker has it, the end of its lease.
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    lease_token bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (mailbox_id, id),
    CONSTRAINT deliveries_event_key UNIQUE (mailbox_id, event_id, webhook_id)
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX deliveries_due ON popbridge.deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_webhook ON popbridge.deliveries (webhook_id, id DESC);

CREATE TABLE popbridge.delivery_attempts (
    mailbox_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamptz NOT NULL,
    elapsed_ms integer NOT NULL,
    -- Null where no response came; then `error` says why.
    status integer,
    error text,
    response_head text,
    PRIMARY KEY (mailbox_id, delivery_id, attempt),
    FOREIGN KEY (mailbox_id, delivery_id) REFERENCES popbridge.deliveries ON DELETE CASCADE
);

CREATE TABLE popbridge.syncs (
    mailbox_id uuid NOT NULL REFERENCES popbridge.mailboxes ON DELETE CASCADE,
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    listed bigint NOT NULL,
    stored bigint NOT NULL,
    skipped bigint NOT NULL,
    failed bigint NOT NULL,
    deleted bigint NOT NULL,
    octets bigint NOT NULL,
    error_code text,
    error_detail text,
    PRIMARY KEY (mailbox_id, id)
);

CREATE TABLE popbridge.api_keys (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    -- SHA-256 of the key; keys have 256 random bits, so a slow hash would add nothing.
    key_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    -- Empty: every mailbox.
    mailbox_ids uuid[] NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    CONSTRAINT api_keys_hash_key UNIQUE (key_hash)
);
