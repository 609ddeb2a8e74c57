"""The whole configuration of a run: one dataclass, whose fields are the configurations of the parts.

A recipe is a Python function that returns a :class:`RunConfig`. The command line can override any
field of it by its path (``--optimizer.learning-rate 3e-4``).
"""

import dataclasses
import itertools
import pathlib
from typing import Literal

from lmjax.data.config import DataConfig
from lmjax.field_types import check_literals
from lmjax.models.config import ModelConfig
from lmjax.objectives import CausalLM, Objective
from lmjax.parallel.distributed import DistributedConfig
from lmjax.parallel.mesh import MeshConfig
from lmjax.parallel.paths import refuse_address
from lmjax.remote.address import address_of, copy_folder
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluations.evaluation import Evaluation
from lmjax.train.faults import FaultPolicy, Stop
from lmjax.train.optimizers import AdamW, Optimizer
from lmjax.train.trackers import NoTracker, Tracker

CHANGEABLE = (
    "data", "schedule", "train.batch_size", "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm",
    "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon", "optimizer.momentum", "optimizer.cautious_decay",
    "optimizer.adamw_learning_rate", "optimizer.neuron_beta", "optimizer.product_beta", "optimizer.basis_every",
)  # fmt: skip
"""What ``train.change_on_resume`` may name: fields or parts of a configuration whose values fit the state of any run.
"""

VALID = "valid"
"""The name of the built-in validation."""
RESERVED = (VALID, "train")
"""Names that no other evaluation may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at a time, and what is reported when."""

    steps: int = 1000
    """Optimizer updates in all."""
    batch_size: int = 16
    """Rows in a step, over all devices and microbatches."""
    sequence_length: int = 256
    """Tokens of a row that the model sees."""
    sequence_warmup: tuple[tuple[int, int], ...] = ()
    """Shorter rows at first: pairs (step, length), rows of that length until the step, then the next pair's, and
    after the last pair sequence_length. Validation is always at sequence_length."""
    warmup_keeps: Literal["tokens", "rows"] = "tokens"
    """What a step has as many of while rows are shorter: tokens (so batch_size grows as rows get shorter) or rows."""
    microbatches: int = 1
    """Parts of a batch processed one after the other, their gradients summed (less memory, same result)."""
    gradient_noise: bool = False
    """Log the critical batch size, estimated from the gradients of the microbatches (McCandlish et al. 2018)."""
    seed: int = 0
    """Decides initial weights, data order, corruption and dropout."""
    init_from: str | None = None
    """Begin with the weights of another run: its folder, for the newest checkpoint, or RUN/checkpoints/STEP. Its
    average is taken where it kept one; the optimizer starts afresh."""
    init_changes: tuple[str, ...] = ()
    """Fields of the model, as in `norm_epsilon rope_theta`, that may differ from init_from's though its weights then
    compute something else."""
    branch_from: str | None = None
    """Go on from another run's checkpoint with all of its state (optimizer, step, place in the data), in a folder of
    its own: that run's folder, for the newest, or RUN/checkpoints/STEP. The schedule may be another."""
    change_on_resume: tuple[str, ...] = ()
    """Fields whose new values a run that goes on is to take, such as train.batch_size or optimizer.learning_rate;
    `data` stands for other text too."""
    ema_decay: float | None = None
    """Decay of a moving average of the parameters; evaluation and sampling then use the average."""
    log_every: int = 10
    """Steps between lines of metrics."""
    eval_every: int = 250
    """Steps between validations, the first before any step; 0 validates only at the end."""
    eval_batches: int = 20
    """Batches of the fixed validation set; 0 takes all of it."""
    profile: tuple[int, int] | None = None
    """First and last step to record a jax profile of, counted from where the run starts or goes on."""
    watchdog_minutes: float | None = None
    """Ends a process that has finished no step or validation batch for so long, with all threads' stacks; a compile
    or a save may take an hour all the same. 0 never does. None never does with one process; with several, it is 30,
    and the time of 20 steps (at least 5 minutes) once steps have been measured."""
    maintenance_notices: bool = False
    """Ask Google Cloud's metadata server every few seconds whether this machine is about to be stopped, for
    maintenance or because it is preempted, and then save and stop as after SIGTERM."""
    recompute_every: int = 0
    """Steps between checks for hardware that computes wrong: a step is computed twice, without effect, and must be the
    same bit for bit. A check takes the time of two steps. 0 never checks."""
    compare_replicas_every: int = 0
    """Steps between checks that all devices that hold the same parameters hold the same bits. 0 never checks."""
    tensorboard: bool = True
    """Write TensorBoard event files."""

    def __post_init__(self):
        check_literals(self, "train.")
        for name in ("init_from", "branch_from"):
            if address_of(getattr(self, name)) is None:
                refuse_address(f"train.{name}", getattr(self, name))
        for name in ("steps", "batch_size", "sequence_length", "microbatches", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)}: must be at least 1")
        for name in ("eval_every", "eval_batches", "watchdog_minutes", "recompute_every", "compare_replicas_every"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"train.{name}={getattr(self, name)}: must not be negative")
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"train.batch_size={self.batch_size} is not a multiple of train.microbatches={self.microbatches}"
            )
        if self.gradient_noise and self.microbatches == 1:
            raise ValueError(
                "train.gradient_noise=True compares the gradients of microbatches with that of the batch: set "
                "train.microbatches to 2 or more"
            )
        if self.init_changes and self.init_from is None:
            raise ValueError(f"train.init_changes={self.init_changes}: there is no other run: set train.init_from")
        self._check_warmup()
        self._check_origin()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"train.ema_decay={self.ema_decay}: must lie between 0 and 1")
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"train.profile={self.profile}: give the first step, from 1, and the last")

    def _check_origin(self):
        if self.init_from is not None and self.branch_from is not None:
            raise ValueError(
                f"train.init_from={self.init_from} and train.branch_from={self.branch_from}: a run begins with "
                f"weights or goes on with a whole state: set one of them to None"
            )
        for name in self.change_on_resume:
            if not any(name == known or name.startswith(f"{known}.") for known in CHANGEABLE):
                raise ValueError(
                    f"train.change_on_resume: {name!r} cannot change when a run goes on; these can: "
                    f"{', '.join(CHANGEABLE)}; for another, choose another --folder"
                )

    def _check_warmup(self):
        steps = [0, *(step for step, _ in self.sequence_warmup)]
        if any(step >= following for step, following in itertools.pairwise(steps)):
            raise ValueError(
                f"train.sequence_warmup={self.sequence_warmup}: the steps, which come first in each pair, must be "
                f"above 0 and rise"
            )
        if not all(1 <= length < self.sequence_length for _, length in self.sequence_warmup):
            raise ValueError(
                f"train.sequence_warmup={self.sequence_warmup}: lengths must be below train.sequence_length="
                f"{self.sequence_length}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a run."""

    name: str
    """Name of the run."""
    folder: str | None = None
    """Where the run is kept; `runs/NAME` when unset. It may be in object storage: `s3://BUCKET/RUN`, `gs://BUCKET/RUN`."""
    local_folder: str | None = None
    """Where a run in object storage works, and keeps a copy; a folder in the user's cache when unset. Several processes
    need one that all of them see."""
    objective: Objective = CausalLM()
    """What is predicted from what."""
    model: ModelConfig = ModelConfig()
    """The architecture."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes ids."""
    data: DataConfig = DataConfig()
    """Where the text comes from."""
    optimizer: Optimizer = AdamW()
    """How parameters are updated."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate's course."""
    train: TrainConfig = TrainConfig()
    """Length, batch and reporting."""
    evaluations: tuple[Evaluation, ...] = ()
    """What is measured besides the validation that `train.eval_every` and `train.eval_batches` describe."""
    tracker: Tracker = NoTracker()
    """Where numbers are kept besides the run folder: WandB, Trackio or MLflow."""
    on_fault: FaultPolicy = Stop()
    """What is done when a loss is not finite or jumps up: Stop, SkipUpdate or RollBack."""
    mesh: MeshConfig = MeshConfig()
    """How devices are used."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved when."""
    distributed: DistributedConfig = DistributedConfig()
    """Several processes."""

    def __post_init__(self):
        refuse_address("local_folder", self.local_folder)
        if self.address is None:
            refuse_address("folder", self.folder)
            if self.local_folder is not None:
                raise ValueError(
                    f"local_folder={self.local_folder}: folder={self.folder} is no address of object storage, so that "
                    f"the run works there: set local_folder to None"
                )
        names = [evaluation.name for evaluation in self.evaluations]
        for name in names:
            if names.count(name) > 1 or name in RESERVED:
                raise ValueError(
                    f"evaluations: name={name!r} is taken: its numbers could not be told from others of that name; "
                    f"choose another"
                )
        decides, best_by = self.checkpoint.best_by.partition("/")[0], self.checkpoint.best_by
        if self.checkpoint.keep_best and decides not in (VALID, *names):
            raise ValueError(
                f"checkpoint.best_by={best_by!r}: no evaluation is called {decides!r}: name a number of "
                f"{', '.join((VALID, *names))}"
            )
        for evaluation in self.evaluations:
            if self.checkpoint.keep_best and evaluation.name == decides and not evaluation.every_steps:
                raise ValueError(
                    f"checkpoint.best_by={best_by!r}: {decides} is evaluated only at the end: set its every_steps"
                )

    @property
    def address(self) -> str | None:
        """The address of a run in object storage; None for a folder."""
        return address_of(self.folder)

    @property
    def run_folder(self) -> pathlib.Path:
        """The folder in which the run works: its own, or the local copy of a run in object storage."""
        if self.address is not None:
            given = self.local_folder
            return copy_folder(self.address, "written") if given is None else pathlib.Path(given)
        return pathlib.Path(self.folder) if self.folder is not None else pathlib.Path("runs") / self.name

    @property
    def place(self) -> str:
        """Where the run is, for people."""
        return str(self.run_folder) if self.address is None else f"{self.address} (with a copy in {self.run_folder})"
