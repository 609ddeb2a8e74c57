"""lmjax: every pretraining objective of the literature in one JAX trainer.

The parts that need no trainer are pure functions::

    from lmjax import corruption, losses, masks
"""

__version__ = "0.1.0"
