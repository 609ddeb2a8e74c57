"""Finds the checkpoint that a start of a run goes on from, and refuses changes that do not fit it.

If the folder has no checkpoint, the run begins, or branches off another run; it is refused if checkpoints were lost.
If the folder has one, the run goes on, with the same data unless ``train.change_on_resume`` names ``data``.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable

from lmjax.data.mixing import weights_by_step, weights_until
from lmjax.naming import naming
from lmjax.objectives.parts.objective import carries_rows
from lmjax.parallel.distributed import is_primary
from lmjax.schedules.learning_rate import build_schedule
from lmjax.tokenizers import Tokenizer, load_tokenizer
from lmjax.train.changes import FREE_IN_A_BRANCH, check_same_mixing, check_same_run
from lmjax.train.checkpoint import CheckpointError, Checkpoints
from lmjax.train.components import components_of
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.corpus import Corpus
from lmjax.train.faults.watch import from_json
from lmjax.train.initial import check_is_there, initial_state
from lmjax.train.metrics import METRICS_FILE, read_metrics
from lmjax.train.record import Record, data_changes, data_facts, read_record
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER, find_step, has_checkpoint, split_checkpoint
from lmjax.train.samples_file import SAMPLES_FILE
from lmjax.train.state import TrainState
from lmjax.train.step import Learner

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint that a start of a run goes on from.

    Attributes:
      run: the run folder that holds the checkpoint: its own, or that of the run it branches off.
      step: the step of the checkpoint; None for the newest.
      config: the configuration that this run folder was trained with until now.
      record: the record in this run folder; None if the run was made before there were records.
      newest: the step of the checkpoint, or of the newest one.
    """

    run: pathlib.Path
    step: int | None
    config: RunConfig
    record: Record | None
    newest: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beginning:
    """What training begins with.

    Attributes:
      state: the state.
      step: the number of steps that it has had; it has had fewer updates if some were skipped.
      seconds: the account of the run's time until its checkpoint, see :class:`lmjax.train.goodput.Goodput`.
    """

    state: TrainState
    step: int = 0
    seconds: object = None


def find_origin(config: RunConfig, tokenizer: Tokenizer) -> Origin | None:
    """Returns the checkpoint that a start with this configuration goes on from; None if the run begins anew.

    Raises:
      ValueError: ``train.branch_from`` names no run, a checkpoint that is not there, or a run of another configuration.
      CheckpointError: all checkpoints of the folder were set aside, or are gone.
    """
    folder = config.run_folder
    own = Checkpoints(folder / CHECKPOINTS, read_only=True)
    own.check_not_only_set_aside()
    record = read_record(folder)
    if own.steps():
        config_until_now = read_config(folder / CONFIG)
        return Origin(run=folder, step=None, config=config_until_now, record=record, newest=max(own.steps()))
    if record is not None and record.last_saved is not None:
        raise CheckpointError(
            f"{folder} was saved at step {record.last_saved} and {folder / CHECKPOINTS} has no checkpoint now: copy "
            f"them back, choose another --folder, or delete the run folder to begin anew"
        )
    if config.train.branch_from is None:
        return None
    origin = branch_origin(config)
    if load_tokenizer(origin.run / TOKENIZER).fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"train.branch_from={config.train.branch_from} was trained with another tokenizer than the data's: set "
            f"tokenizer.path to {origin.run / TOKENIZER}"
        )
    return origin


def check_origin_is_there(config: RunConfig) -> None:
    """Refuses a run that would begin with a checkpoint that is not there; of a run that goes on, nothing is asked.

    Raises:
      ValueError: ``train.init_from`` or ``train.branch_from`` names no run, or a checkpoint that is not there.
    """
    if has_checkpoint(config.run_folder):
        return
    if config.train.init_from is not None:
        check_is_there(config.train.init_from)
    if config.train.branch_from is not None:
        _found_branch_origin(config)


def branch_origin(config: RunConfig) -> Origin:
    """Returns the checkpoint that ``train.branch_from`` names, whatever the tokenizers of the two runs are.

    Raises:
      ValueError: it names no run, a checkpoint that is not there, or a run of another configuration.
    """
    origin = _found_branch_origin(config)
    check_same_run(origin.config, config, folder=origin.run, free=FREE_IN_A_BRANCH)
    return origin


def _found_branch_origin(config: RunConfig) -> Origin:
    """Returns the same, whatever the configurations of the two runs are."""
    named = f"train.branch_from={config.train.branch_from}"
    run, step = split_checkpoint(config.train.branch_from or "")
    if run.resolve() == config.run_folder.resolve():
        raise ValueError(f"{named} is the run's own folder: choose another --folder")
    with naming(named):
        before, record = read_config(run / CONFIG), read_record(run)
        there = Checkpoints(run / CHECKPOINTS, read_only=True)
        step = find_step(there, step)
    if not there.steps() or step not in (None, *there.steps()):
        raise ValueError(f"{named}: there is no such checkpoint; of that run there are steps {there.steps()}")
    newest = max(there.steps()) if step is None else step
    return Origin(run=run, step=step, config=before, record=record, newest=newest)


def check_changes(config: RunConfig, origin: Origin | None, corpus: Corpus, say: Say) -> Record:
    """Refuses data that differ from those that the run has read, and a change of the batch size if it is not possible.

    Returns:
      The record that the run goes on with; its batch sizes are those until now.

    Raises:
      ValueError: such a change was made; the message names it and the remedy.
    """
    facts = data_facts(corpus)
    fresh = Record(data=facts, batch_sizes=((0, config.train.batch_size),))
    if origin is None:
        return fresh
    _check_batch_size(config, origin.config.train.batch_size)
    if origin.record is None:
        say(
            f"{origin.run} does not say what data it was trained on (made by an earlier version): taken to be those "
            f"in {', '.join(one.folder for one in facts)}"
        )
        return dataclasses.replace(fresh, batch_sizes=((0, origin.config.train.batch_size),))
    changes = data_changes(origin.record.data, facts)
    kept = origin.record
    if corpus.sources and not changes:
        kept = _check_mixing(origin, origin.record, corpus, config, say)
    if changes and "data" not in config.train.change_on_resume:
        raise ValueError(
            f"{origin.run} was trained on other data ({'; '.join(changes)}): rows would come in another order, and "
            f"validation text may have been trained on. Name the data it had (data.prepared), choose another "
            f"--folder, or go on with the new data by --train.change-on-resume data"
        )
    if changes:
        say(f"going on with other data than before ({'; '.join(changes)}): losses do not compare across this step")
    return dataclasses.replace(kept, data=facts, last_saved=None)


def _check_mixing(origin: Origin, record: Record, corpus: Corpus, config: RunConfig, say: Say) -> Record:
    """Refuses other weights for the rows that the run has read or passed over.

    Returns:
      The record that the run goes on with. A branch with other weights forgets rows of later steps that were passed
      over, because with these weights they come elsewhere.
    """
    data = origin.config.data
    if not data.source_names:
        raise ValueError(
            f"{origin.run} was trained on a single source, here there are several: choose another --folder"
        )
    names = [fact.source for fact in record.data] if data.sources else data.source_names
    tokens = {name: fact.tokens for name, fact in zip(names, record.data, strict=True)}
    before = weights_by_step(data, {name: tokens[name] for name in data.source_names})
    fixed_until = record.weights_fixed_until(origin.newest)
    if origin.run != config.run_folder and weights_until(before, fixed_until) != weights_until(
        corpus.weights, fixed_until
    ):
        behind = tuple(gap for gap in record.passed_over if gap.first_step <= origin.newest)
        if len(behind) < len(record.passed_over):
            say(
                f"{origin.run} has passed over rows of later steps; with other weights these rows come elsewhere, and "
                f"this run may read them"
            )
        record = dataclasses.replace(record, passed_over=behind)
    fixed_until = record.weights_fixed_until(origin.newest)
    check_same_mixing(before, corpus.weights, step=fixed_until, folder=origin.run)
    return record


def _check_batch_size(config: RunConfig, before: int) -> None:
    now = config.train.batch_size
    parts = components_of(config.objective)
    carries = config.data.packing == "streams" or any(carries_rows(part.objective, config.model) for part in parts)
    if now != before and carries:
        raise ValueError(
            f"train.batch_size={now}: this run carries a memory for each of its {before} rows from step to step: keep "
            f"it at {before}"
        )


def keep_metrics_aside(folder: pathlib.Path, say: Say) -> None:
    """Renames the metrics of an earlier start that saved nothing, because this start begins anew."""
    path = folder / METRICS_FILE
    try:
        past = [line["step"] for line in read_metrics(path) if line["step"] > 0]
    except FileNotFoundError:
        return
    if not past:
        return
    number = 1
    while (aside := path.with_name(f"metrics.{number}.jsonl")).exists():
        number += 1
    os.replace(path, aside)
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / SAMPLES_FILE, folder / f"samples.{number}.jsonl")
    say(
        f"an earlier start came to step {int(max(past))} and had saved nothing: beginning anew; its metrics are "
        f"kept in {aside}"
    )


def first_state(
    config: RunConfig, learner: Learner, origin: Origin | None, checkpoints: Checkpoints, say: Say
) -> Beginning:
    """Returns what training begins with.

    Args:
      config: the configuration of this start.
      learner: the learner of the run.
      origin: the checkpoint to go on from, see :func:`find_origin`.
      checkpoints: the checkpoints of the run itself.
      say: called with each line of text for a person.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
      CheckpointError: there is no intact checkpoint.
    """
    own = origin is not None and origin.run == config.run_folder
    if not own and is_primary():
        keep_metrics_aside(config.run_folder, say)
    if origin is None and config.train.init_from is not None:
        say(f"beginning with the weights of {config.train.init_from}")
        return Beginning(state=initial_state(learner, config.train.init_from, seed=config.train.seed))
    if origin is None:
        return Beginning(state=learner.init(config.train.seed))
    if own:
        beginning = _restored(learner, checkpoints, None)
    else:
        with Checkpoints(origin.run / CHECKPOINTS, read_only=True, notify=say) as others:
            beginning = dataclasses.replace(_restored(learner, others, origin.step), seconds=None)
    announce(origin, config, beginning.step, say)
    return beginning


def _restored(learner: Learner, checkpoints: Checkpoints, step: int | None) -> Beginning:
    state, data = checkpoints.restore(dataclasses.replace(learner.abstract_state, watch=None), step=step)
    saved: dict = data if isinstance(data, dict) else {}
    state = dataclasses.replace(state, watch=from_json(saved.get("watch"), learner.empty_watch()))
    return Beginning(state=state, step=int(saved.get("step", state.step)), seconds=saved.get("seconds"))


def announce(origin: Origin, config: RunConfig, step: int, say: Say) -> None:
    """Tells a person that the run goes on, and how its learning rate and batch size change at this step."""
    where = "" if origin.run == config.run_folder else f", branching off {origin.run}"
    say(f"continuing after step {step} of {config.train.steps}{where}")
    rates = [_learning_rate(one, step) for one in (origin.config, config)]
    if abs(rates[1] - rates[0]) > 1e-6 * max(rates):
        say(f"learning rate: {rates[0]:.4g} at this step until now, {rates[1]:.4g} from here on")
    sizes = [one.train.batch_size for one in (origin.config, config)]
    if sizes[0] != sizes[1]:
        say(f"batch size: {sizes[0]} rows until now, {sizes[1]} from here on")


def _learning_rate(config: RunConfig, step: int) -> float:
    schedule = build_schedule(config.schedule, total_steps=config.train.steps)
    return config.optimizer.learning_rate * float(schedule(step))
