-- Whether proxies refuse the identity at once, on open connections too.
ALTER TABLE blocks ADD COLUMN enforced INTEGER NOT NULL DEFAULT 0;
