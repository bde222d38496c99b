-- `offline` is since when the key of a root is kept elsewhere. `between_chain` is the authorities between an issuing one and
-- its root, each behind its length (u32, big endian). `arrivals` counts how often a root entered the bundle.
ALTER TABLE authorities ADD COLUMN offline INTEGER;
ALTER TABLE authorities ADD COLUMN between_chain BLOB;
ALTER TABLE authorities ADD COLUMN arrivals INTEGER NOT NULL DEFAULT 1;
-- The request for an authority that somebody else is to sign. Its key is sealed as the authority's will be.
CREATE TABLE authority_request (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    id      TEXT NOT NULL,
    tenant  TEXT NOT NULL,
    csr     BLOB NOT NULL,
    created INTEGER NOT NULL,
    by      TEXT NOT NULL
) STRICT;
