"""What a curve of losses says: spikes, plateaus, divergence, overfitting, and the power law that it follows.

Everything here is a function of arrays, so that the training loop and the commands that read a finished run share it.
"""
