-- One row for each message to each destination. body: the message as JSON.
-- state: queued, sending, delivered, dead. due_s: queued: not before; sending: until when its sender holds it.
-- attempts: all. failures: those that were this message's own and not a destination's that is down.
-- since_s: from when its age counts (its making, or its redelivery).
CREATE TABLE outbox (
    message_id TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    dedupe TEXT,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    owner TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    since_s DOUBLE PRECISION NOT NULL,
    due_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    reason TEXT NOT NULL
);
CREATE INDEX outbox_open ON outbox (destination, message_id) WHERE state IN ('queued', 'sending');
CREATE INDEX outbox_due ON outbox (destination, due_s) WHERE state IN ('queued', 'sending');
CREATE INDEX outbox_sending ON outbox (destination, due_s) WHERE state = 'sending';
CREATE INDEX outbox_ended ON outbox (destination, state, ended_s) WHERE state IN ('delivered', 'dead');
CREATE UNIQUE INDEX outbox_dedupe ON outbox (destination, dedupe) WHERE dedupe IS NOT NULL;
-- Destinations that do not answer. failures: in a row. retry_s: nothing is sent there before. since_s: the first one.
CREATE TABLE outbox_troubles (
    destination TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    since_s DOUBLE PRECISION NOT NULL,
    retry_s DOUBLE PRECISION NOT NULL,
    reason TEXT NOT NULL
);
