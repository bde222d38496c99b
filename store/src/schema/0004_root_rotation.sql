-- A root's rotation goes on by itself, or as an operator says. `tainted` is when nothing was to depend on an authority
-- any more. `cross_certificate` is the same issuing authority, signed by the root before its own.
ALTER TABLE authorities ADD COLUMN automatic INTEGER NOT NULL DEFAULT 1 CHECK (automatic IN (0, 1));
ALTER TABLE authorities ADD COLUMN tainted INTEGER;
ALTER TABLE authorities ADD COLUMN cross_certificate BLOB;
