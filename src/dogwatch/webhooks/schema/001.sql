-- One row for each delivery that was signed as it should be. state: accepted (run_id is its run), ignored, refused.
-- headers, query: as JSON, secrets masked. payload: zlib. source_id: what the sender calls it.
CREATE TABLE hook_deliveries (
    delivery_id TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    event TEXT NOT NULL,
    source_id TEXT NOT NULL,
    remote TEXT NOT NULL,
    run_id TEXT NOT NULL,
    replay_of TEXT NOT NULL,
    actor TEXT NOT NULL,
    received_s DOUBLE PRECISION NOT NULL,
    headers TEXT NOT NULL,
    query TEXT NOT NULL,
    payload BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    duplicates BIGINT NOT NULL
);
CREATE INDEX hook_deliveries_endpoint ON hook_deliveries (endpoint, delivery_id);
-- What was seen before: ids and digests of what was signed. until_s: remembered so long.
CREATE TABLE hook_seen (
    endpoint TEXT NOT NULL,
    proof TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    until_s DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (endpoint, proof)
);
CREATE INDEX hook_seen_until ON hook_seen (until_s);
