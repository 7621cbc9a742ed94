-- The language in which somebody subscribed, and is told.
ALTER TABLE status_subscribers ADD COLUMN language TEXT NOT NULL DEFAULT 'en';
