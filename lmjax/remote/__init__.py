"""Folders in object storage (``s3://``, ``gs://``), and leases with which one process at a time writes to a folder."""
