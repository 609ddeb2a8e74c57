"""What several objectives share: the base class, and parts of corruption and of terms."""
