"""Preparation, which makes token shards of documents: reading, splitting, encoding, writing."""
