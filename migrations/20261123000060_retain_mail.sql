-- Mailboxes keep as much as their retention says: {"max_age_days": 30, "max_messages": 1000,
-- "max_bytes": 1073741824}, each of them or null.
ALTER TABLE popbridge.mailbox_states
    -- When to look for what is too much; null: not before more is stored.
    ADD COLUMN retention_due_at timestamptz;

CREATE INDEX mailbox_states_retention_due ON popbridge.mailbox_states (retention_due_at)
    WHERE retention_due_at IS NOT NULL;

-- Mail that goes makes room for mail that comes; by default a fifth of a table may be dead.
ALTER TABLE popbridge.messages SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE popbridge.raw_messages SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0
);
