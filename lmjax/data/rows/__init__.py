"""Rows from token shards, and batches from rows: each is a pure function of its number."""
