"""Data: documents become token shards, shards become rows, rows become batches, each by a pure function."""
