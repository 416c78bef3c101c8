-- What the scheduler needs to share workers out and to notice mailboxes that nobody could sync.

-- After how long without a successful pass a mailbox is stale.
CREATE FUNCTION popbridge.stale_after(poll_interval_seconds integer) RETURNS interval
    LANGUAGE sql IMMUTABLE
    RETURN make_interval(secs => GREATEST(3600, 10 * poll_interval_seconds));

ALTER TABLE popbridge.mailbox_states
    -- The mailbox's, in lower case: due mailboxes of a server that has its share of sessions are
    -- passed over without a look at their settings.
    ADD COLUMN host text NOT NULL DEFAULT '',
    -- When the mailbox is to be called stale unless a pass succeeds before; null while the last
    -- one did, while paused, and once it was said.
    ADD COLUMN stale_at timestamptz;

UPDATE popbridge.mailbox_states s
SET host = lower(m.host),
    stale_at = CASE WHEN NOT m.paused AND (last_error_code IS NOT NULL OR last_success_at IS NULL)
        THEN now() + popbridge.stale_after(m.poll_interval_seconds) END
FROM popbridge.mailboxes m WHERE m.id = s.mailbox_id;

-- Each pass moves next_sync_at, so that the index of due mailboxes gathers dead entries at its head.
ALTER TABLE popbridge.mailbox_states
    SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX mailbox_states_stale ON popbridge.mailbox_states (stale_at)
    WHERE stale_at IS NOT NULL;
