"""Documents to token shards: reading, splitting, encoding, writing."""
