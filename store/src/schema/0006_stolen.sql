-- Since when the key of an authority is believed to be stolen. Until now that was a taint before it retired.
-- An authority that signs again after it had retired is not retired.
ALTER TABLE authorities ADD COLUMN stolen INTEGER;
UPDATE authorities SET retired = NULL WHERE state = 'active';
UPDATE authorities SET stolen = tainted WHERE tainted IS NOT NULL AND (retired IS NULL OR tainted < retired);
-- The certificates of operators, of which each look at a rotation asks the newest.
CREATE INDEX certificates_of_operators ON certificates (id, sequence) WHERE profile = 'operator';
