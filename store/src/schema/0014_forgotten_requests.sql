-- By which requests are forgotten whose leaves have ended.
CREATE INDEX leaf_requests_by_end ON leaf_requests (not_after);
