"""Optimizers. Each has one file and one configuration class; the other files hold what they share."""

from lmjax.train.optimizers.adafactor import Adafactor
from lmjax.train.optimizers.adamw import AdamW
from lmjax.train.optimizers.chain import average_of, build_optimizer
from lmjax.train.optimizers.gradients import clip_by_norm, ema_update
from lmjax.train.optimizers.kinds import FROZEN, decays, trained, with_frozen
from lmjax.train.optimizers.lion import Lion
from lmjax.train.optimizers.muon import Muon
from lmjax.train.optimizers.optimizer import AveragingOptimizer, Optimizer
from lmjax.train.optimizers.schedule_free import ScheduleFree
from lmjax.train.optimizers.sgd import SGD
from lmjax.train.optimizers.soap import SOAP
from lmjax.train.optimizers.state import state_shardings
from lmjax.train.optimizers.width import width_factors

__all__ = [
    "FROZEN",
    "SGD",
    "SOAP",
    "Adafactor",
    "AdamW",
    "AveragingOptimizer",
    "Lion",
    "Muon",
    "Optimizer",
    "ScheduleFree",
    "average_of",
    "build_optimizer",
    "clip_by_norm",
    "decays",
    "ema_update",
    "state_shardings",
    "trained",
    "width_factors",
    "with_frozen",
]
