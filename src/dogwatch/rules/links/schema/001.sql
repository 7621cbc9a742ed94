-- Links that acknowledge an incident once. link_hash: of what is secret in it. told: the destination that has it.
CREATE TABLE ack_links (
    link_hash TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    told TEXT NOT NULL,
    expires_s DOUBLE PRECISION NOT NULL,
    used_s DOUBLE PRECISION
);

CREATE INDEX ack_links_by_end ON ack_links (expires_s);
