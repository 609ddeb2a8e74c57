"""Feature vectors made of text, their clusters, and which of them a model does not see."""
