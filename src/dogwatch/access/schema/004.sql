-- Where users have logged in from: there, failures of others elsewhere lock nobody out. what: digest of a user's name and
-- an address, or a secret that the browser was given at that login.
CREATE TABLE places (
    what TEXT PRIMARY KEY,
    last_s DOUBLE PRECISION NOT NULL
);
CREATE INDEX places_last ON places (last_s);
