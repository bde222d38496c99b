-- `key_id` names the key that wraps a slot, as its source names it. `state` is pending, active or retiring.
ALTER TABLE key_slots ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE data_keys ADD COLUMN state TEXT NOT NULL DEFAULT 'active';

-- The id of the data key stands in the record, octets 7 to 22.
CREATE INDEX sealed_by_key ON sealed (substr(record, 7, 16));
