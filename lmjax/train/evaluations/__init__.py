"""The evaluations: what a run measures regularly while it trains, and at its end. Each evaluation has one file."""
