"""The training loop: fetch a batch, step, look at the step before; validate, save, stop in order.

The host never waits for the step it has just started: the metrics of step k are read once step
k + 1 is under way.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator

import jax
import numpy as np

from lmjax.data.rows.pipeline import device_batches
from lmjax.data.rows.source import RowSource
from lmjax.models.summary import ModelSummary, describe, summarize
from lmjax.parallel import distributed
from lmjax.parallel.signals import kept
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.components import decoder_length, turn_of
from lmjax.train.config import RunConfig
from lmjax.train.config_file import write_config
from lmjax.train.corpus import Corpus, Progress, open_corpus
from lmjax.train.curriculum import Curriculum, curriculum
from lmjax.train.guard import GracefulExit, Watchdog, check_finite
from lmjax.train.initial import check_initial
from lmjax.train.metrics import MetricWriters, Throughput, mfu
from lmjax.train.other_run import check_same_model
from lmjax.train.profile import Profiler
from lmjax.train.progress import ProgressReport, short_number
from lmjax.train.record import Record, data_changes, write_record
from lmjax.train.resume import Origin, check_changes, find_origin, first_state
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, check_name, claim, has_checkpoint, held, naming
from lmjax.train.scored import NothingScored, ScoredWatch, look_ahead
from lmjax.train.setup import build_learner, check_layout, resolve
from lmjax.train.state import TrainState
from lmjax.train.step import Learner, Metrics
from lmjax.train.text_bytes import text_bytes
from lmjax.train.validate import fixed_batches, measure
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
      folder: the run folder.
      step: updates done.
      stopped_by: the signal that ended it early, or None.
      valid: the last validation's numbers.
    """

    folder: pathlib.Path
    step: int
    stopped_by: str | None
    valid: dict[str, float]


def train(config: RunConfig, *, progress: Progress | None = None, say: Callable[[str], None] = print) -> Finished:
    """Trains a run from its beginning, or from its last checkpoint.

    Args:
      config: the run.
      progress: of the preparation of data, see :func:`lmjax.train.corpus.open_corpus`.
      say: receives lines for a person.

    Raises:
      ValueError: something for the user to change.
      NonFiniteLoss, NonFiniteState, CheckpointError: a fault; earlier checkpoints are intact.
    """
    distributed.start(config.distributed)
    say = say if distributed.is_primary() else lambda _: None
    check_name(config.run_folder)
    go_on = has_checkpoint(config.run_folder)
    stays = f"{config.run_folder} is as it was: the same command goes on from its last checkpoint"
    with held(config.run_folder), kept(stays if go_on else "no step was done: the same command begins anew"):
        return _train(config, progress, say)


def _train(config: RunConfig, progress: Progress | None, say: Callable[[str], None]) -> Finished:
    check_layout(config)  # Preparing the data may take hours.
    corpus = open_corpus(config.data, config.tokenizer, progress=progress)
    config = resolve(config, corpus.tokenizer.vocabulary)
    learner = build_learner(config, corpus.tokenizer.vocabulary)
    # Before the folder is claimed: data that cannot be used should not leave a run behind.
    rows = _open_rows(config, corpus)
    origin = find_origin(config, corpus.tokenizer)
    record = check_changes(config, origin, corpus, say)
    if config.train.init_from is not None and origin is None:
        source = check_initial(learner, config.train.init_from)
        for line in check_same_model(source.config, config):
            say(line)
    with naming(config.run_folder):
        folder = claim(config, corpus.tokenizer)
        with Checkpoints(folder / CHECKPOINTS, config.checkpoint, notify=say) as checkpoints:
            return _Loop(config, corpus, rows, learner, folder, checkpoints, origin, record, say).run()


def _open_rows(config: RunConfig, corpus: Corpus) -> dict[str, RowSource]:
    phases = curriculum(config.objective, config.train)
    length = config.objective.row_length(config.train.sequence_length)
    streams = config.train.batch_size
    train_rows = corpus.rows(
        "train", row_length=length, seed=config.train.seed, overlap=phases.overlap, num_streams=streams
    )
    for phase in phases.phases:
        train_rows.cut(phase.row_length)
    rows = {"train": train_rows}
    if corpus.has_validation:
        rows["valid"] = corpus.whole_rows("valid", objective=config.objective, train=config.train)
    return rows


def summaries_of(phases: Curriculum, config: RunConfig, learner: Learner, state: TrainState) -> dict[int, ModelSummary]:
    """What the model costs at each sequence length of the run."""
    held = {
        "parameters": state.params,
        "gradients": learner.trained(state.params),
        "optimizer": state.opt_state,
        "average": state.ema,
    }
    return {
        length: summarize(
            learner.spec,
            config.model,
            sequence_length=length,
            decoder_length=decoder_length(config.objective, length),
            held=held,
        )
        for length in {phase.sequence_length for phase in phases.phases}
    }


class _StoppedError(Exception):
    """A signal came during a validation."""


class _Loop:
    """The parts of one training, and the steps between them."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Corpus,
        rows: dict[str, RowSource],
        learner: Learner,
        folder: pathlib.Path,
        checkpoints: Checkpoints,
        origin: Origin | None,
        record: Record,
        say: Callable[[str], None],
    ):
        self.config = config
        self.rows = rows
        self.learner = learner
        self.folder = folder
        self.checkpoints = checkpoints
        self.valid: dict[str, float] = {}
        self.valid_bytes = text_bytes(corpus, "valid") if "valid" in rows else None
        self.said_no_bits = False
        self.pending: tuple[int, Metrics] | None = None
        self.compiled: set[tuple[str | None, int]] = set()
        self.throughput = Throughput()
        self.scored = ScoredWatch(config.objective)
        self.state, self.first_step = first_state(config, learner, origin, checkpoints, say)
        self.saved_step: int | None = self.first_step if origin is not None and origin.run == folder else None
        self.record = record.at(self.first_step, batch_size=config.train.batch_size)
        if self.saved_step is None:
            self._remember_saved()
        if origin is not None and origin.record is not None and data_changes(origin.record.data, record.data):
            checkpoints.forget_best()
        self.curriculum = curriculum(config.objective, config.train, batch_sizes=self.record.batch_sizes)
        summaries = summaries_of(self.curriculum, config, learner, self.state)
        self.flops_per_token = {length: one.flops_per_token for length, one in summaries.items()}
        tokens = corpus.manifest.total("train", "tokens")
        steps = config.train.steps
        epochs = self.curriculum.at(steps).consumed(steps) / tokens
        say(describe(summaries[config.train.sequence_length]))
        say(f"data: {corpus.folder}, {short_number(tokens)} training tokens, {epochs:.2f} epochs in all")
        for note in corpus.manifest.notes:
            say(f"data: {note}")
        say(f"run: {folder}, {steps} steps")

    def _remember_saved(self) -> None:
        """Writes the configuration and the record, with the last step that is known to have been saved whole.

        A start that goes on does so when it first saves: until then both describe the checkpoint that is there.
        """
        self.record = dataclasses.replace(self.record, last_saved=self.saved_step)
        if distributed.is_primary():
            write_config(self.config, self.folder / CONFIG)
            write_record(self.folder, self.record)

    def run(self) -> Finished:
        """Trains until the last step, or a signal."""
        train = self.config.train
        with contextlib.ExitStack() as stack:
            self.writers = stack.enter_context(
                MetricWriters(
                    self.folder,
                    first_step=self.first_step + 1 if self.first_step else 0,
                    tensorboard=train.tensorboard,
                    wandb=train.wandb,
                )
            )
            self.exit = GracefulExit()
            self.watchdog = stack.enter_context(Watchdog(train.watchdog_minutes))
            self.progress = stack.enter_context(ProgressReport(train.steps, first_step=self.first_step))
            stack.enter_context(jax.set_mesh(self.learner.mesh))
            rows = stack.enter_context(contextlib.closing(self._rows_from(self.first_step)))
            step = self.first_step
            if step == 0 and train.eval_every:
                # What later readings are compared with; and validation that cannot run should fail now.
                self._validate(step)
            profiler = stack.enter_context(
                Profiler(
                    self.folder / "profile",
                    train.profile,
                    steps_left=train.steps - step,
                    note=self.progress.note,
                )
            )
            while step < train.steps:
                profiler.before_step()
                step = self._step(step, next(rows))
                if step == self.first_step + 1:
                    # From here on there is something to save.
                    stack.enter_context(self.exit)
                self._after_step(step)
                profiler.after_step(self.state.step)
                if self.exit.should_stop(step):
                    break
            self._read_pending()
            if self.first_step < step == train.steps and not self.valid:
                self._validate(step)
            self._check_valid(step)
            self._save(step)
            self.watchdog.expect_long()
            self.checkpoints.wait()
            if step > self.first_step:
                self._remember_saved()
        # The signal may have reached another process only.
        stopped_by = None if step >= train.steps else self.exit.signal_name or "a signal to another process"
        return Finished(self.folder, step, stopped_by, self.valid)

    def _step(self, step: int, rows: Rows) -> int:
        component = turn_of(self.config.objective, step).component
        kind_of_step = component.name, self.curriculum.at(step).first_step
        if kind_of_step not in self.compiled:
            self.compiled.add(kind_of_step)
            self.watchdog.expect_long()
        train_step = self.learner.of(component).train_step
        with jax.transfer_guard("disallow"):
            self.state, metrics = train_step(self.state, rows)
        self._read_pending()
        step += 1
        self.pending = (step, metrics)
        self.valid = {}
        self.watchdog.touch(step)
        return step

    def _after_step(self, step: int) -> None:
        train = self.config.train
        if train.eval_every and step % train.eval_every == 0:
            self._read_pending()
            self._validate(step)
        if self.checkpoints.should_save(step) or self.checkpoints.improves(self.valid.get("loss", math.nan)):
            self._read_pending()
            self._save(step)

    def _rows_from(self, step: int) -> Generator[Rows]:
        sharding = self.learner.row_sharding
        local = self.curriculum.batches(self.rows["train"], start_step=step, sharding=sharding)
        return device_batches(local, sharding)

    def _read_pending(self) -> None:
        """Looks at the last step's metrics: refuses what is not finite, shows and writes the rest."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        numbers = {name: np.asarray(value).item() for name, value in jax.device_get(metrics).items()}
        # Objectives that take turns are logged each by its own count: every tenth step may always be the same one's.
        turn = turn_of(self.config.objective, step - 1)
        prefix = f"train/{turn.component.prefix}"
        check_finite(
            {f"{prefix}{name}": value for name, value in numbers.items() if name.endswith(("loss", "grad_norm"))},
            step=step,
            last_checkpoint=self.saved_step,
        )
        for component in self.scored.begun_without(turn.component, numbers, step=step):
            look_ahead(self.learner, component, self._rows_from(step), self.state.key, step=step)
            self.progress.note(f"step {step}: nothing of this batch is scored by {component.title}, of later ones is")
        shown = {
            name if name in ("learning_rate", "grad_norm") else f"{prefix}{name}": value
            for name, value in numbers.items()
        }
        phase = self.curriculum.at(step - 1)
        if turn.before == 0 or step - 1 == phase.first_step:
            # A first step compiles.
            self.throughput = Throughput()
        texts = phase.batch_size * self.config.objective.traits.num_members
        rate = self.throughput.step(texts * phase.sequence_length)
        if rate is not None:
            shown["tokens_per_second"] = rate
            flops = self.flops_per_token[phase.sequence_length]
            utilisation = mfu(flops, rate, self.learner.mesh.devices.flat)
            shown |= {} if utilisation is None else {"mfu": utilisation}
        self.progress.update(step, {"loss": numbers["loss"]} | shown)
        if (turn.before + 1) % self.config.train.log_every == 0 or step in (1, self.config.train.steps):
            self.writers.write(step, shown)

    def _validate(self, step: int) -> None:
        if "valid" not in self.rows:
            return
        train = self.config.train
        params = self.state.params if self.state.ema is None else self.state.ema
        with self.throughput.paused():
            batches = fixed_batches(
                self.learner, self.rows["valid"], batch_size=train.batch_size, num_batches=train.eval_batches
            )
            self.watchdog.expect_long()
            try:
                measured = measure(
                    self.learner,
                    params,
                    self._until_stopped(batches),
                    self.valid_bytes,
                    after_batch=self.watchdog.touch,
                )
            except _StoppedError:
                return
            except NothingScored as error:
                if step == 0:
                    raise
                # Later what has been trained is worth more than its validation.
                self.progress.note(f"step {step}: no validation: {error}")
                return
        self.valid = measured.numbers
        if measured.no_bits_per_byte and not self.said_no_bits:
            self.progress.note(measured.no_bits_per_byte)
            self.said_no_bits = True
        self.watchdog.touch(step)
        self.writers.write(step, {f"valid/{name}": value for name, value in self.valid.items()})
        self.progress.note(f"step {step}: " + ", ".join(f"valid/{k} {v:.4f}" for k, v in self.valid.items()))
        bad = self._bad_valid()
        if bad:
            self.progress.note(f"step {step}: {', '.join(bad)} is not finite: this state will not be saved")
        if step == 0:
            self._check_valid(step)

    def _bad_valid(self) -> dict[str, float]:
        """The losses of this step's validation that are not finite; perplexities may overflow."""
        losses = {name: value for name, value in self.valid.items() if name.endswith("loss")}
        return {f"valid/{name}": value for name, value in losses.items() if not math.isfinite(value)}

    def _check_valid(self, step: int) -> None:
        check_finite(self._bad_valid(), step=step, last_checkpoint=self.saved_step)

    def _until_stopped(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """The batches of a validation, which a signal ends: what was trained should be saved in time."""
        for index, batch in enumerate(batches):
            if self.exit.should_stop(index):
                raise _StoppedError
            yield batch

    def _save(self, step: int) -> None:
        if self._bad_valid():
            return
        # It waits for the save before, and for storage.
        self.watchdog.expect_long()
        with self.throughput.paused():
            if self.checkpoints.save(step, self.state, {"step": step}, valid_loss=self.valid.get("loss", math.nan)):
                self.progress.note(f"step {step}: saving to {self.folder / CHECKPOINTS / str(step)}")
                # The save before this one has been waited for.
                self._remember_saved()
        self.saved_step = step
        self.watchdog.touch(step)
