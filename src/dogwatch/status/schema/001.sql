-- Who wants to hear of the status page. token: of the links that confirm and end it. confirmed_s: NULL until then.
CREATE TABLE status_subscribers (
    subscriber_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    token TEXT NOT NULL,
    made_s DOUBLE PRECISION NOT NULL,
    confirmed_s DOUBLE PRECISION,
    UNIQUE (kind, address)
);

CREATE UNIQUE INDEX status_subscribers_by_token ON status_subscribers (token);
