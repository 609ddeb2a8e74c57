"""Documents to token shards, shards to rows, rows to batches on devices; each step a pure function of the last."""
