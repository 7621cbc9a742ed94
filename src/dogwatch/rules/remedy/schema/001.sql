-- Claims on budgets. until_s: when one counts as ended in any case; ended_s: when it was.
CREATE TABLE budget_claims (
    claim_key TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    claimed_s DOUBLE PRECISION NOT NULL,
    until_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION
);

CREATE INDEX budget_claims_by_scope ON budget_claims (scope, claimed_s);

-- How far remedies are. rule: the remedy's name.
CREATE TABLE remedy_episodes (
    rule TEXT NOT NULL,
    target TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (rule, target)
);

-- Actions that were decided. run_id: '' where none could be started. outcome: '' while it is under way. body: what was
-- decided, as JSON.
CREATE TABLE remedy_actions (
    action_key TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    run_id TEXT NOT NULL,
    started_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    body TEXT NOT NULL
);

CREATE INDEX remedy_actions_by_number ON remedy_actions (number, started_s);
CREATE INDEX remedy_actions_by_run ON remedy_actions (run_id);
CREATE INDEX remedy_actions_open ON remedy_actions (outcome, started_s);

-- What was looked at before an action. run_id and target make it the one of its attempt.
CREATE TABLE remedy_evidence (
    evidence_id TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    run_id TEXT NOT NULL,
    time_s DOUBLE PRECISION NOT NULL,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    note TEXT NOT NULL,
    body TEXT NOT NULL
);

CREATE INDEX remedy_evidence_by_number ON remedy_evidence (number, time_s);

-- Texts of rules whose alerts opened incidents or whose remedies acted, by their hash.
CREATE TABLE rule_versions (
    version TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    first_s DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL
);
