-- Links by which an action is approved. run_id: of the run that asks, '' for one that acknowledges.
ALTER TABLE ack_links ADD COLUMN run_id TEXT NOT NULL DEFAULT '';
