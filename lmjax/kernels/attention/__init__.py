"""Attention: one function, and one file a backend."""
