"""Reads the metrics of steps: checks that they are finite, shows them and writes them."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np

from lmjax.models.summary import ModelSummary
from lmjax.train.components import Component, turn_of
from lmjax.train.costs import summary_of
from lmjax.train.curriculum import Curriculum
from lmjax.train.epochs import epochs_at
from lmjax.train.faults import StepFault, WatchfulPolicy, check_finite
from lmjax.train.faults.fault import check_no_spike
from lmjax.train.faults.watch import WATCHED
from lmjax.train.gradient_noise import SQUARE, VARIANCE, NoiseScale
from lmjax.train.instruments import Instruments
from lmjax.train.loss_watch import LossWatch, logged_losses
from lmjax.train.metrics import mfu
from lmjax.train.plan import Plan
from lmjax.train.record import Record
from lmjax.train.scored import ScoredWatch, look_ahead
from lmjax.train.state import TrainState
from lmjax.train.step import Metrics

WHOLE_STEP = ("learning_rate", "grad_norm", SQUARE, VARIANCE)
"""Numbers of a step that are not losses, and are logged under these names."""
WAITING_TOO_LONG = 0.1
"""The share of the time that steps may wait for their rows without a warning."""
WAITING_NOTICED = 0.005
"""Seconds that a step may wait without a warning: of steps that take milliseconds the share says little."""
STEPS_TO_JUDGE = 20


def summaries_of(plan: Plan, curriculum: Curriculum, state: TrainState) -> dict[int, ModelSummary]:
    """Returns the sizes and costs of the model at each sequence length of the run."""
    config, learner = plan.config, plan.learner
    held = {
        "parameters": state.params,
        "gradients": learner.trained(state.params),
        "optimizer": state.opt_state,
        "average": state.ema,
    }
    return {
        length: summary_of(config, learner.spec, sequence_length=length, held=held)
        for length in {phase.sequence_length for phase in curriculum.phases}
    }


@dataclasses.dataclass(kw_only=True)
class StepReports:
    """Reads the metrics of steps; those of a step are read when the next step is under way.

    Attributes:
      plan: the plan of the run.
      curriculum: the phases, with the batch sizes that the run has had.
      summaries: the sizes and costs of the model by sequence length, see :func:`summaries_of`.
      instruments: the instruments of the run.
      record: the record of the run, for the rows that it has passed over.
      unread: the number of the last step and its metrics, until they are read.
    """

    plan: Plan
    curriculum: Curriculum
    summaries: Mapping[int, ModelSummary]
    instruments: Instruments
    record: Record
    unread: tuple[int, Metrics] | None = None

    def __post_init__(self):
        self._scored = ScoredWatch(self.plan.config.objective)
        self._noise: dict[str, NoiseScale] = {}
        self._watches: dict[tuple[str, int], LossWatch] = {}
        self._faults_in_a_row = 0
        self._warned = False

    def read(self, run_key: jax.Array, saved_step: int | None) -> None:
        """Waits for the unread metrics, if there are any, and shows and writes them if they are finite.

        Args:
          run_key: ``TrainState.key``.
          saved_step: the last step that was saved, for the message.

        Raises:
          StepFault: a loss or the norm of the gradient is not finite, or jumps up, and the run's policy does not go on.
          NothingScored: the run has nothing to learn from.
        """
        if self.unread is None:
            return
        (step, metrics), self.unread = self.unread, None
        train, objective = self.plan.config.train, self.plan.config.objective
        numbers = {name: np.asarray(value).item() for name, value in jax.device_get(metrics).items()}
        # Objectives that take turns each have a count of their own for logging: every tenth step of the run might
        # always train the same one.
        turn = turn_of(objective, step - 1)
        prefix = f"train/{turn.component.prefix}"
        skipped = self._meet_fault(numbers, prefix, step=step, saved_step=saved_step)
        self._refuse_unscored(turn.component, numbers, step=step, run_key=run_key)
        shown = {
            name if name in WHOLE_STEP else f"{prefix}{name}": value
            for name, value in numbers.items()
            if name not in ("faulty", "updates")
        }
        shown |= self._passed_over(numbers, step)
        if not skipped:
            shown |= self._critical_batch(turn.component, numbers)
        if turn.before == 0 or step - 1 == self.curriculum.at(step - 1).first_step:
            # Such a step includes its compile.
            self.instruments.throughput.restart()
        shown |= self._speed(step)
        self.instruments.progress.update(step, {"loss": numbers["loss"]} | shown)
        is_logged = (turn.before + 1) % train.log_every == 0 or step in (1, train.steps)
        # A skipped step has said already what is wrong with it.
        warnings = [] if skipped else self._warnings(f"{prefix}loss", numbers["loss"], step=step, is_logged=is_logged)
        for warning in warnings:
            self.instruments.progress.note(f"step {step}: warning: {warning}")
        # What a warning is about can then be seen in the curve.
        if is_logged or warnings or skipped:
            read = epochs_at(self.plan.rows, self.curriculum, step)
            shown |= {f"epochs/{name}": times for name, times in read.items()}
            self.instruments.writers.write(step, shown | self._health())

    def _meet_fault(self, numbers: Mapping[str, float], prefix: str, *, step: int, saved_step: int | None) -> bool:
        """Lets the run's policy answer a faulty step, and returns whether its update was skipped.

        Raises:
          StepFault: the policy does not go on.
        """
        policy = self.plan.config.on_fault
        try:
            self._check(numbers, prefix, step=step, saved_step=saved_step)
        except StepFault as fault:
            self._faults_in_a_row += 1
            policy.meet(fault, in_a_row=self._faults_in_a_row)
            self.instruments.progress.note(f"step {step}: {fault.reason}: the update is skipped")
            return True
        self._faults_in_a_row = 0
        return False

    def _check(self, numbers: Mapping[str, float], prefix: str, *, step: int, saved_step: int | None) -> None:
        watched = {f"{prefix}{name}": n for name, n in numbers.items() if name.endswith(("loss", "grad_norm"))}
        check_finite(watched, step=step, last_checkpoint=saved_step)
        policy = self.plan.config.on_fault
        if not isinstance(policy, WatchfulPolicy) or not numbers["faulty"]:
            return
        ratios = {f"{prefix}{name}": numbers[f"{name}_ratio"] for name in WATCHED}
        bounds = {f"{prefix}{name}": getattr(policy, f"{name}_ratio") for name in WATCHED}
        check_no_spike(ratios, bounds, step=step, window=policy.window)
        check_finite({"the parameters' change": math.inf}, step=step, last_checkpoint=saved_step)

    def _health(self) -> dict[str, float]:
        """Returns the goodput, and the largest memory that a device of this process has used, if it tells."""
        stats = [device.memory_stats() or {} for device in self.plan.learner.mesh.local_devices]
        peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
        goodput = {"goodput": self.instruments.goodput.share()}
        return goodput | ({"peak_device_memory": max(peaks)} if peaks else {})

    def _passed_over(self, numbers: Mapping[str, float], step: int) -> dict[str, float]:
        """Returns how much of the data the run has not learned from, if anything."""
        counts: dict[str, float] = {}
        if skipped := step - int(numbers.get("updates", step)):
            counts["skipped_updates"] = skipped
        if passed_over := self.record.passed_over:
            counts["roll_backs"] = len(passed_over)
            counts["rows_passed_over"] = sum(last - first for first, last in (one.rows for one in passed_over))
        return counts

    def _critical_batch(self, trained: Component, numbers: Mapping[str, float]) -> dict[str, float]:
        noise = self._noise.setdefault(trained.prefix, NoiseScale())
        return {f"{trained.prefix}{name}": value for name, value in noise.update(numbers).items()}

    def _warnings(self, name: str, loss: float, *, step: int, is_logged: bool) -> list[str]:
        """Returns what the loss of a step warns of. Rows of another length begin another curve."""
        key = name, self.curriculum.at(step - 1).first_step
        if key not in self._watches:
            # A run that goes on has lines already.
            self._watches[key] = LossWatch(logged_losses(self.instruments.writers.earlier, name, first_step=key[1]))
        watch = self._watches[key]
        spike = watch.spike(step, loss)
        return [*([] if spike is None else [spike]), *(watch.logged(step, loss) if is_logged else [])]

    def _refuse_unscored(
        self, trained: Component, numbers: Mapping[str, float], *, step: int, run_key: jax.Array
    ) -> None:
        for component in self._scored.begun_without(trained, numbers, step=step):
            batches = self.plan.batches(self.curriculum, start_step=step)
            look_ahead(self.plan.learner, component, batches, run_key, step=step)
            self.instruments.progress.note(
                f"step {step}: nothing of this batch is scored by {component.title}, of later ones is"
            )

    def _speed(self, step: int) -> dict[str, float]:
        """Returns tokens per second and, for known devices, the utilisation; nothing at a first step."""
        phase = self.curriculum.at(step - 1)
        texts = phase.batch_size * self.plan.config.objective.traits.num_members
        rate = self.instruments.throughput.step(texts * phase.sequence_length)
        if rate is None:
            return {}
        flops, devices = self.summaries[phase.sequence_length].flops_per_token, self.plan.learner.mesh.devices.flat
        utilisation = mfu(flops, rate, devices)
        waiting = self.instruments.throughput.waiting_share
        self._warn_of_waiting(waiting)
        speed = {"tokens_per_second": rate, "waiting_for_rows": waiting}
        return speed | ({} if utilisation is None else {"mfu": utilisation})

    def _warn_of_waiting(self, share: float) -> None:
        """Says once that steps wait for their rows, and what helps."""
        throughput = self.instruments.throughput
        if self._warned or share < WAITING_TOO_LONG or throughput.waiting_seconds < WAITING_NOTICED:
            return
        if throughput.num_steps < STEPS_TO_JUDGE:
            return
        self._warned = True
        threads = self.plan.config.data.threads
        self.instruments.progress.note(
            f"steps wait for their rows {share:.0%} of the time: put the prepared data on a local disk, or read ahead "
            f"with more threads (--data.read-threads {max(2 * threads, 4)}, now {threads}); a host that does other "
            f"work, too, may have no time for it"
        )
