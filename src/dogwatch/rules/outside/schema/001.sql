-- Alerts of others, by what they call them. body: the alert as JSON. firing: 0 or 1. ends_s: when it is over without
-- being told so. changed: rises with every change, so that whoever reads finds what is new.
CREATE TABLE outside_alerts (
    alert_key TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    firing BIGINT NOT NULL,
    ends_s DOUBLE PRECISION NOT NULL,
    changed BIGINT NOT NULL
);

CREATE INDEX outside_alerts_by_change ON outside_alerts (changed);
CREATE INDEX outside_alerts_by_end ON outside_alerts (firing, ends_s);
