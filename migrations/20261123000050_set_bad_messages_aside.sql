-- Messages that cannot be had are set aside; what consumers made of the others; passes that only
-- count.

ALTER TABLE popbridge.maildrop_entries
    -- Those of `failures` that are the message's own fault: other mail came past it.
    ADD COLUMN own_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN failing_since timestamptz,
    -- When a message that is kept without all of its octets is asked for again; null: never.
    ADD COLUMN next_try_at timestamptz,
    -- A webhook first took its message.received.
    ADD COLUMN notified_at timestamptz,
    -- Every webhook that its message.received went to has taken it.
    ADD COLUMN delivered_at timestamptz,
    -- Its consumer was done with it: as in messages, which does not last as long.
    ADD COLUMN acked_at timestamptz;

UPDATE popbridge.maildrop_entries e SET acked_at = m.acked_at
FROM popbridge.messages m
WHERE m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id AND m.acked_at IS NOT NULL;

CREATE INDEX maildrop_entries_unsettled ON popbridge.maildrop_entries (mailbox_id)
    WHERE failures > 0 OR next_try_at IS NOT NULL;

-- The one pass that only counts, asked for last, of each mailbox.
CREATE TABLE popbridge.dry_runs (
    mailbox_id uuid PRIMARY KEY REFERENCES popbridge.mailboxes ON DELETE CASCADE,
    id uuid NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    -- When the next pass was due before somebody asked: so it stays.
    next_sync_at timestamptz,
    finished_at timestamptz,
    -- What a pass would do; null where it failed.
    plan jsonb,
    error_code text,
    error_detail text
);
