-- Whose TCP sessions were ended, the last time of each. A generation only grows, also when a block is lifted: listeners
-- that went back to an older one would end everybody's sessions once more.
CREATE TABLE evictions (
    id         TEXT PRIMARY KEY,
    generation INTEGER NOT NULL UNIQUE,
    at         INTEGER NOT NULL
) STRICT;
