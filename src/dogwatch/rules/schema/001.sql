-- Incidents, open ones and those that are over. body: the decider's value as JSON, which says all; the columns repeat
-- what is searched.
CREATE TABLE incidents (
    number BIGINT PRIMARY KEY,
    state TEXT NOT NULL,
    root TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    opened_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    body TEXT NOT NULL
);

CREATE INDEX incidents_by_state ON incidents (state, number);
CREATE INDEX incidents_by_end ON incidents (ended_s);

-- What happened to an incident, in order. actor: '' for Dogwatch itself.
CREATE TABLE incident_events (
    number BIGINT NOT NULL,
    entry BIGINT NOT NULL,
    time_s DOUBLE PRECISION NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    text TEXT NOT NULL,
    rule TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (number, entry)
);

-- What the deciders remember, a row for each alert and each condition that holds.
CREATE TABLE incident_alerts (
    rule TEXT NOT NULL,
    target TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (rule, target)
);

CREATE TABLE incident_conditions (
    rule TEXT NOT NULL,
    target TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (rule, target)
);

CREATE TABLE incident_silences (
    silence_id TEXT PRIMARY KEY,
    until_s DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL
);

-- The rest of the decider's state, one row. version: changes with every write, so that of two writers one notices.
CREATE TABLE incident_memory (
    id BIGINT PRIMARY KEY,
    version BIGINT NOT NULL,
    body TEXT NOT NULL
);
