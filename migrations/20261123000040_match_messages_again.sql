-- Unique-ids may change under the messages of a maildrop: what is listed under a new one is told
-- from new mail by its content, for as long as the entry lives, which is longer than the message.
ALTER TABLE popbridge.maildrop_entries
    -- SHA-256 of what was stored, the head of an oversize message; null where that was nothing.
    ADD COLUMN content_sha256 bytea,
    -- Sessions in which the server accepted DELE, and listed the message again afterwards.
    ADD COLUMN dele_count integer NOT NULL DEFAULT 0;

UPDATE popbridge.maildrop_entries e SET content_sha256 = m.sha256
FROM popbridge.messages m JOIN popbridge.raw_messages r
    ON r.mailbox_id = m.mailbox_id AND r.message_id = m.id
WHERE m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id AND octet_length(r.octets) > 0;

CREATE INDEX maildrop_entries_content ON popbridge.maildrop_entries (mailbox_id, content_sha256)
    WHERE content_sha256 IS NOT NULL;
CREATE INDEX maildrop_entries_skipped ON popbridge.maildrop_entries (mailbox_id, octets)
    WHERE skipped;

-- A message follows its entry to a new unique-id.
ALTER TABLE popbridge.messages
    DROP CONSTRAINT messages_mailbox_id_unique_id_fkey,
    ADD CONSTRAINT messages_mailbox_id_unique_id_fkey FOREIGN KEY (mailbox_id, unique_id)
        REFERENCES popbridge.maildrop_entries ON DELETE CASCADE ON UPDATE CASCADE;

-- A reset of unique-ids that is under way, over however many sessions and passes.
ALTER TABLE popbridge.mailbox_states
    -- Messages found under new unique-ids so far; 0 between resets.
    ADD COLUMN reset_matched bigint NOT NULL DEFAULT 0,
    -- Messages that still had their unique-ids when it began.
    ADD COLUMN reset_kept bigint NOT NULL DEFAULT 0;

ALTER TABLE popbridge.syncs ADD COLUMN matched bigint NOT NULL DEFAULT 0;
