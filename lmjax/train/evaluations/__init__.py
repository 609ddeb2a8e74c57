"""What a run measures of its state every so many steps, and at its end: one file an evaluation."""
