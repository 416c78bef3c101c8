-- What it takes to survive odd servers, and to see what they said.

-- SHA-256 of the only public key that the server may have, in base64.
ALTER TABLE popbridge.mailboxes ADD COLUMN tls_pin_sha256 text;

ALTER TABLE popbridge.mailbox_states
    -- Where the maildrop's unique-ids come from, since the first listing that had any.
    ADD COLUMN unique_ids text CONSTRAINT mailbox_states_unique_ids
        CHECK (unique_ids IN ('uidl', 'digests')),
    -- Commands sent ahead of replies failed: one at a time until then.
    ADD COLUMN pipelining_off_until timestamptz;

UPDATE popbridge.mailbox_states s SET unique_ids = 'uidl'
WHERE EXISTS (SELECT FROM popbridge.maildrop_entries e WHERE e.mailbox_id = s.mailbox_id);

-- What was said in the sessions of a pass, without credentials and messages.
CREATE TABLE popbridge.sync_transcripts (
    mailbox_id uuid NOT NULL,
    sync_id uuid NOT NULL,
    -- {entries: [{at_ms, from, line, octets}], left_out}
    transcript jsonb NOT NULL,
    PRIMARY KEY (mailbox_id, sync_id),
    FOREIGN KEY (mailbox_id, sync_id) REFERENCES popbridge.syncs ON DELETE CASCADE
);

ALTER TABLE popbridge.sync_transcripts ALTER COLUMN transcript SET COMPRESSION lz4;
