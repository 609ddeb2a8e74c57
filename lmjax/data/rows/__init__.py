"""Token shards to rows, and rows to batches: each a pure function of its number."""
