-- One row for each audit event. digest: SHA-256 over the digest before it, its number and its body. The columns between
-- repeat what the body says, for searching; verification compares them.
CREATE TABLE audit_events (
    number BIGINT PRIMARY KEY,
    time_s DOUBLE PRECISION NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL,
    noun TEXT NOT NULL,
    name TEXT NOT NULL,
    outcome TEXT NOT NULL,
    body TEXT NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX audit_events_time ON audit_events (time_s);
CREATE INDEX audit_events_actor ON audit_events (actor, number);
CREATE INDEX audit_events_noun ON audit_events (noun, name, number);
-- One row: the newest event. The chain goes on from here, so that events cut off its end leave a gap for good.
CREATE TABLE audit_tail (
    id BIGINT PRIMARY KEY,
    number BIGINT NOT NULL,
    digest TEXT NOT NULL
);
INSERT INTO audit_tail (id, number, digest)
    VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');
-- What was signed. kind: head (the chain up to number), or cut (events up to number were removed by retention).
CREATE TABLE audit_heads (
    kind TEXT NOT NULL,
    number BIGINT NOT NULL,
    digest TEXT NOT NULL,
    time_s DOUBLE PRECISION NOT NULL,
    signer TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (kind, number)
);
-- How far each exporter has come. what: heads or events.
CREATE TABLE audit_exports (
    exporter TEXT NOT NULL,
    what TEXT NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (exporter, what)
);
-- source: local (password) or oidc (identity: issuer and subject). roles: JSON list. password: argon2id, "" for none.
CREATE TABLE users (
    name TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    email TEXT NOT NULL,
    source TEXT NOT NULL,
    identity TEXT UNIQUE,
    password TEXT NOT NULL,
    roles TEXT NOT NULL,
    user_groups TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    password_s DOUBLE PRECISION NOT NULL,
    login_s DOUBLE PRECISION
);
-- digest: SHA-256 of the cookie, which is nowhere kept. version: the user's; a change of password or rights ends it.
CREATE TABLE sessions (
    digest TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    version BIGINT NOT NULL,
    csrf TEXT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    seen_s DOUBLE PRECISION NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_name);
CREATE INDEX sessions_seen ON sessions (seen_s);
-- digest: SHA-256 of the token. roles: JSON list; labels: JSON object that limits them.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    roles TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    expires_s DOUBLE PRECISION,
    used_s DOUBLE PRECISION,
    used_from TEXT NOT NULL,
    revoked_s DOUBLE PRECISION
);
CREATE INDEX tokens_owner ON tokens (owner);
-- Failed logins. what: `user:` or `address:` and a digest of it, so that typed-in passwords are not kept by mistake.
CREATE TABLE lockouts (
    what TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    last_s DOUBLE PRECISION NOT NULL,
    until_s DOUBLE PRECISION NOT NULL
);
-- Logins at an OpenID provider that are under way: each state is good for one answer.
CREATE TABLE oidc_logins (
    digest TEXT PRIMARY KEY,
    browser TEXT NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    target TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL
);
