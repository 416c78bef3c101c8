-- Due deliveries are claimed endpoint by endpoint, so that a long queue of one hides no other.

CREATE INDEX deliveries_due_by_webhook ON popbridge.deliveries (webhook_id, next_attempt_at)
    WHERE state = 'pending';

DROP INDEX popbridge.deliveries_due;
