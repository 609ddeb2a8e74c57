"""Feature vectors that are made of text, their clusters, and masks that hide some of them from a model."""
