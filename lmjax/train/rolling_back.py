"""Goes back to a checkpoint after a faulty step, and writes down which rows the run passes over from then on."""

import dataclasses

from lmjax.parallel.distributed import is_primary
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import write_config
from lmjax.train.curriculum import Curriculum
from lmjax.train.faults import RollBack, StepFault
from lmjax.train.record import PassedOver, Record, write_record
from lmjax.train.resume import Say
from lmjax.train.run_folder import CONFIG
from lmjax.train.saves import texts_of


def roll_back(
    fault: StepFault,
    config: RunConfig,
    record: Record,
    phases: Curriculum,
    checkpoints: Checkpoints,
    *,
    first_step: int,
    say: Say,
) -> Record:
    """Prepares the folder of a run so that it goes on from an earlier checkpoint, without the rows of the faulty step.

    Checkpoints of later steps are deleted, because their states have seen these rows. Then the record is written. A
    process that ends in between finds the fault again when the run is started again, and rolls back again.

    Args:
      fault: what was wrong, with the number of the step.
      config: the configuration of the run.
      record: the record of the run until now.
      phases: the rows of each step until now.
      checkpoints: the checkpoints of the run.
      first_step: the number of steps before this start, from which the run goes on if it has no checkpoint.
      say: called with each line of text for a person.

    Returns:
      The record that the run goes on with.

    Raises:
      StepFault: the policy of the run does not roll back, or has done so too often.
    """
    policy = config.on_fault
    if not isinstance(policy, RollBack) or fault.step == 0:
        raise fault
    if len(record.passed_over) >= policy.limit:
        raise type(fault)(
            f"{fault}. The run has rolled back {len(record.passed_over)} times before (on_fault.limit={policy.limit}): "
            f"look at its learning rate and its data, or raise the limit to go on",
            step=fault.step,
            reason=fault.reason,
        )
    checkpoints.wait()
    faulty = fault.step - 1
    steps = checkpoints.steps()
    begin = max(faulty - policy.before, 0)
    target = max((step for step in steps if step <= begin), default=min(steps, default=first_step))
    begin = min(max(begin, target), faulty)
    last = faulty + policy.after
    stride = phases.at(begin).stride
    gap = phases.gap(begin, last + 1, stages=(0, *(stage.first_step for stage in config.data.stages)))
    rows = gap.first_token // stride, -(-gap.end_token // stride)
    passed = PassedOver(**vars(gap), rows=rows, step=fault.step, reason=fault.reason)
    checkpoints.delete_after(target)
    record = dataclasses.replace(
        record, last_saved=target if steps else None, passed_over=(*record.passed_over, passed)
    )
    if is_primary():
        # The weights of a mixture that the configuration has decide which rows the record passes over.
        write_config(config, config.run_folder / CONFIG)
        write_record(config.run_folder, record)
    if checkpoints.mirror is not None and steps:
        checkpoints.mirror.describe(target, texts_of(config, record))
        checkpoints.mirror.push(target)
    say(
        f"step {fault.step}: {fault.reason}: going back to step {target} and passing over rows {rows[0]} to "
        f"{rows[1] - 1} (roll-back {len(record.passed_over)} of at most {policy.limit})"
    )
    return record
