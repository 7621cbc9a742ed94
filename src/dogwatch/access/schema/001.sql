-- One row for each audit event. digest: SHA-256 over the digest before it, its number and its body.
CREATE TABLE audit_events (
    number BIGINT PRIMARY KEY,
    time_s DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX audit_events_time ON audit_events (time_s);
