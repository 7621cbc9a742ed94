-- By which change each thing of the API was last changed, for a day: who changes what they have seen (If-Match) is
-- compared with it in the transaction of the change. thing: its address. mark: of the newest change, another for each.
CREATE TABLE marks (
    thing TEXT PRIMARY KEY,
    at_s DOUBLE PRECISION NOT NULL,
    mark TEXT NOT NULL
);
CREATE INDEX marks_at ON marks (at_s);
