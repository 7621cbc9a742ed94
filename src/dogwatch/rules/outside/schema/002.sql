-- When alerts of others were out, for backtests. ended_s: when it was told that one is over. ends_s: when it is over
-- without being told so.
CREATE TABLE outside_firings (
    alert_key TEXT NOT NULL,
    begun_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    ends_s DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (alert_key, begun_s)
);

CREATE INDEX outside_firings_by_time ON outside_firings (begun_s);
CREATE INDEX outside_firings_open ON outside_firings (alert_key) WHERE ended_s IS NULL;
