"""The training loop: it fetches a batch, starts a step and reads the step before; then it evaluates, saves and stops.

The host never waits for the step it has just started: it reads the metrics of step k when step
k + 1 is under way.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

import jax

from lmjax.data.mixing import described
from lmjax.data.stored import place_of
from lmjax.models.summary import ModelSummary, describe
from lmjax.naming import naming_file
from lmjax.parallel import distributed
from lmjax.parallel.signals import kept
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.components import turn_of
from lmjax.train.config import VALID, RunConfig
from lmjax.train.curriculum import Curriculum
from lmjax.train.epochs import check_epochs, epochs_at
from lmjax.train.evaluations.round import Evaluations, Numbers, not_finite_losses
from lmjax.train.faults import StepFault, check_finite
from lmjax.train.goodput import Goodput
from lmjax.train.initial import check_initial
from lmjax.train.instruments import open_instruments
from lmjax.train.integrity import Integrity
from lmjax.train.mirrored import mirrored
from lmjax.train.open_corpus import Progress
from lmjax.train.other_run import check_same_model
from lmjax.train.plan import Plan, make_plan
from lmjax.train.profile import Profiler
from lmjax.train.progress import short_number
from lmjax.train.record import Record, data_changes
from lmjax.train.resume import Beginning, Origin, check_changes, find_origin, first_state
from lmjax.train.rolling_back import roll_back
from lmjax.train.run_folder import CHECKPOINTS, check_name, claim, has_checkpoint, held
from lmjax.train.saves import Saves
from lmjax.train.step_reports import StepReports, summaries_of

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
      folder: the run folder.
      step: the number of steps done.
      stopped_by: the signal that ended the run early, or None.
      saved_step: the step of the newest checkpoint; None if there is none.
      evaluated: the numbers that the evaluations found for the last state, by the names of the evaluations.
    """

    folder: pathlib.Path
    step: int
    stopped_by: str | None
    saved_step: int | None
    evaluated: Mapping[str, Mapping[str, float]]

    @property
    def valid(self) -> Mapping[str, float]:
        """The numbers of the validation of the last state; empty if there are none."""
        return self.evaluated.get(VALID, {})


def train(config: RunConfig, *, progress: Progress | None = None, say: Say = print) -> Finished:
    """Trains a run from its beginning, or from its last checkpoint, and returns how it ended.

    Args:
      config: the configuration of the run.
      progress: called while data are prepared, see :func:`lmjax.train.open_corpus.open_corpus`.
      say: called with each line of text for a person.

    Raises:
      ValueError: the user has to change something, which the message names.
      StepFault, CheckpointError: training or saving failed; earlier checkpoints are intact.
    """
    started = time.time()
    distributed.start(config.distributed)
    say = say if distributed.is_primary() else lambda _: None
    check_name(config.run_folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(config.run_folder))
        mirror = stack.enter_context(mirrored(config, say))
        go_on = has_checkpoint(config.run_folder)
        stays = f"{config.place} is as it was: the same command goes on from its last checkpoint"
        stack.enter_context(kept(stays if go_on else "no step was done: the same command begins anew"))
        # All of this comes before the folder is claimed, so that an unusable configuration leaves no run behind.
        plan = make_plan(config, progress=progress)
        config = plan.config
        origin = find_origin(config, plan.corpus.tokenizer)
        record = check_changes(config, origin, plan.corpus, say)
        if config.train.init_from is not None and origin is None:
            source = check_initial(plan.learner, config.train.init_from)
            for line in check_same_model(source.config, config):
                say(line)
        with naming_file(config.run_folder):
            folder = claim(config, plan.corpus.tokenizer)
            with Checkpoints(folder / CHECKPOINTS, config.checkpoint, notify=say, mirror=mirror) as checkpoints:
                while isinstance(ended := _train(plan, origin, record, checkpoints, say, started), Record):
                    record, origin = ended, find_origin(config, plan.corpus.tokenizer)
                    # A profile counts its steps from the start of the process.
                    plan = plan.without_profile()
                return ended


def _train(
    plan: Plan, origin: Origin | None, record: Record, checkpoints: Checkpoints, say: Say, started: float
) -> Finished | Record:
    """Trains from the run's origin until the last step, a signal or a fault after which the run rolls back.

    Returns:
      How the run ended; or, after a roll-back, the record with which it goes on.
    """
    beginning = first_state(plan.config, plan.learner, origin, checkpoints, say)
    first_step = beginning.step
    record = record.at(first_step, batch_size=plan.config.train.batch_size)
    saves = _begin_saves(plan, origin, record, checkpoints, first_step)
    phases = _phases(plan, record)
    check_epochs(plan.rows, phases, steps=plan.config.train.steps, limits=plan.config.data.max_epochs)
    try:
        return _steps(plan, phases, beginning, saves, Goodput(beginning.seconds, started=started), say)
    except StepFault as fault:
        return roll_back(fault, plan.config, saves.record, phases, checkpoints, first_step=first_step, say=say)


def _steps(plan: Plan, phases: Curriculum, beginning: Beginning, saves: Saves, goodput: Goodput, say: Say) -> Finished:
    """Trains from a state until the last step or a signal."""
    train, learner, folder = plan.config.train, plan.learner, plan.config.run_folder
    state, first_step = beginning.state, beginning.step
    summaries = summaries_of(plan, phases, state)
    _announce(plan, phases, summaries[train.sequence_length], say)
    with contextlib.ExitStack() as stack:
        grace = saves.checkpoints.grace
        tools = stack.enter_context(open_instruments(plan.config, first_step=first_step, goodput=goodput, grace=grace))
        integrity = Integrity(train, tools)
        stack.enter_context(jax.set_mesh(learner.mesh))
        batches = stack.enter_context(contextlib.closing(plan.batches(phases, start_step=first_step)))
        reports = StepReports(plan=plan, curriculum=phases, summaries=summaries, instruments=tools, record=saves.record)
        best_by = plan.config.checkpoint.best_by if plan.config.checkpoint.keep_best else None
        evaluations = Evaluations(begun=plan.evaluations, instruments=tools, decides=best_by)
        numbers: Numbers = {}
        step = first_step
        if step == 0:
            # Later numbers are compared with these. Also, an evaluation that cannot run should fail now.
            numbers = evaluations.run(evaluations.due(step), state.averaged, step)
            check_finite(not_finite_losses(numbers), step=step, last_checkpoint=saves.saved_step)
        profiler = stack.enter_context(
            Profiler(
                folder / "profile",
                train.profile,
                steps_left=train.steps - step,
                goodput=tools.goodput,
                note=tools.progress.note,
            )
        )
        while step < train.steps:
            profiler.before_step(state.step)
            with tools.goodput.spending("data"):
                rows = next(batches)
            component, phase = turn_of(plan.config.objective, step).component, phases.at(step)
            integrity.check_step(learner.of(component), state, rows, step + 1)
            program = component.name, phase.sequence_length, phase.batch_size
            with tools.running(program), jax.transfer_guard("disallow"):
                state, metrics = learner.of(component).train_step(state, rows)
            reports.read(state.key, saves.saved_step)
            step, numbers = step + 1, {}
            reports.unread = step, metrics
            tools.watchdog.touch(step)
            integrity.check_state(state, step)
            if step == first_step + 1:
                # From here on there is something to save.
                stack.enter_context(tools.graceful)
            if due := evaluations.due(step):
                reports.read(state.key, saves.saved_step)
                numbers = evaluations.run(due, state.averaged, step)
            if saves.is_due(step, numbers):
                reports.read(state.key, saves.saved_step)
                saves.save(step, state, numbers, tools, ends=step == train.steps)
            profiler.after_step(state.step)
            if tools.graceful.should_stop(step):
                break
        reports.read(state.key, saves.saved_step)
        if first_step < step == train.steps:
            numbers = {**numbers, **evaluations.run(evaluations.missing(numbers), state.averaged, step)}
        check_finite(not_finite_losses(numbers), step=step, last_checkpoint=saves.saved_step)
        if step >= train.steps or (plan.config.checkpoint.on_signal and saves.fits(step, tools.graceful, say)):
            saves.save(step, state, numbers, tools, ends=True)
        tools.watchdog.expect_long()
        saves.checkpoints.wait()
        if step > first_step:
            saves.remember()
            tools.progress.note(tools.goodput.summary())
    # The signal may have reached only another process.
    stopped_by = None if step >= train.steps else tools.graceful.signal_name or "a signal to another process"
    return Finished(folder, step, stopped_by, saves.saved_step, numbers)


def _begin_saves(plan: Plan, origin: Origin | None, record: Record, checkpoints: Checkpoints, first_step: int) -> Saves:
    """Returns the saves of a run, and forgets which checkpoint was best if other data decided that.

    A start that goes on from a checkpoint does not change the files of configuration and record before its first save,
    because both describe the checkpoint that is there.
    """
    goes_on = origin is not None and origin.run == plan.config.run_folder
    saved_step = first_step if goes_on else None
    saves = Saves(config=plan.config, checkpoints=checkpoints, record=record, saved_step=saved_step)
    if not goes_on:
        saves.remember()
    if origin is not None and origin.record is not None and data_changes(origin.record.data, record.data):
        checkpoints.forget_best()
    return saves


def _phases(plan: Plan, record: Record) -> Curriculum:
    """Returns the plan's curriculum, or another one if the batch size has changed or rows were passed over."""
    if len(record.batch_sizes) == 1 and not record.passed_over:
        return plan.curriculum
    return record.curriculum(plan.config)


def _announce(plan: Plan, phases: Curriculum, summary: ModelSummary, say: Say) -> None:
    """Tells a person which model will be trained, and on which data."""
    corpus, steps = plan.corpus, plan.config.train.steps
    tokens = corpus.total("train", "tokens")
    epochs = phases.at(steps).consumed(steps) / tokens
    say(describe(summary))
    say(f"data: {place_of(corpus.folder)}, {short_number(tokens)} training tokens, {epochs:.2f} epochs in all")
    for name, times in epochs_at(plan.rows, phases, steps).items():
        own = corpus.sources[name].manifest.total("train", "tokens")
        say(f"data: {name}: {short_number(own)} training tokens, {times:.2f} epochs in all")
    for first_step, shares in corpus.weights if corpus.sources else ():
        say(f"data: from step {first_step} on: {described(shares)}")
    for one in corpus.each():
        for note in one.manifest.notes:
            say(f"data: {note}")
    say(f"run: {plan.config.place}, {steps} steps")
