-- Changes that were asked for under an Idempotency-Key, for a day. scope: digest of who, what and the key. body: digest
-- of what was sent. status: 0 until it is known how it ended. headers: JSON. answer: null where it is not kept.
CREATE TABLE repeats (
    scope TEXT PRIMARY KEY,
    at_s DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL,
    status BIGINT NOT NULL,
    headers TEXT NOT NULL,
    answer BYTEA
);
CREATE INDEX repeats_at ON repeats (at_s);
