"""Documents to token shards, shards to rows, rows to batches: each a pure function of the one before."""
