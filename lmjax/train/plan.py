"""A run's plan: what it will do, computed once, before anything is written to its folder."""

import dataclasses
from collections.abc import Generator

from lmjax.data.rows.pipeline import device_batches
from lmjax.data.rows.source import RowSource
from lmjax.train.config import VALID, RunConfig
from lmjax.train.corpus import Corpus, Progress, open_corpus
from lmjax.train.curriculum import Curriculum
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Subject
from lmjax.train.evaluations.validation import Validation
from lmjax.train.setup import lay_out, learner_on, resolve
from lmjax.train.step import Learner
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    Attributes:
      config: the configuration, with what depends on the tokenizer filled in.
      curriculum: the phases of a run that keeps its batch size.
      corpus: the data and the tokenizer.
      learner: the steps; its ``mesh`` is the run's.
      rows: the training rows, of the longest length.
      evaluations: what is measured, each with the function that measures it.
    """

    config: RunConfig
    curriculum: Curriculum
    corpus: Corpus
    learner: Learner
    rows: RowSource
    evaluations: tuple[tuple[Evaluation, Measure], ...]

    def batches(self, curriculum: Curriculum, *, start_step: int) -> Generator[Rows]:
        """Yields the batches of ``start_step``, ``start_step + 1``, ..., on the devices.

        Args:
          curriculum: the plan's, or that of a run whose batch size has changed.
          start_step: updates done before the first batch.
        """
        sharding = self.learner.row_sharding
        return device_batches(curriculum.batches(self.rows, start_step=start_step, sharding=sharding), sharding)


def make_plan(config: RunConfig, *, progress: Progress | None = None) -> Plan:
    """Returns the plan of a run, whose data are prepared if they are not yet.

    Args:
      config: the run.
      progress: of the preparation, see :func:`lmjax.train.corpus.open_corpus`.

    Raises:
      ValueError: something for the user to change; nothing was written but prepared data.
    """
    # First, because preparing the data may take hours.
    layout = lay_out(config)
    corpus = open_corpus(config.data, config.tokenizer, progress=progress)
    vocabulary = corpus.tokenizer.vocabulary
    config = resolve(config, vocabulary)
    learner = learner_on(layout, config, vocabulary)
    subject = subject_of(config, learner, corpus)
    return Plan(
        config=config,
        curriculum=layout.curriculum,
        corpus=corpus,
        learner=learner,
        rows=layout.curriculum.rows(corpus, seed=config.train.seed),
        evaluations=tuple((one, one.begin(subject)) for one in evaluations_of(config, corpus)),
    )


def evaluations_of(config: RunConfig, corpus: Corpus) -> tuple[Evaluation, ...]:
    """Returns the evaluations of a run; the first is the validation, unless nothing was kept for it."""
    train = config.train
    validation = Validation(name=VALID, every_steps=train.eval_every, batches=train.eval_batches)
    return (*((validation,) if corpus.has("valid") else ()), *config.evaluations)


def subject_of(config: RunConfig, learner: Learner, corpus: Corpus) -> Subject:
    """Returns what evaluations are told of a run.

    Args:
      config: of the run, resolved.
      learner: of the run.
      corpus: the run's data, or other data to evaluate it on.
    """
    return Subject(
        learner=learner,
        corpus=corpus,
        model=config.model,
        batch_size=config.train.batch_size,
        sequence_length=config.train.sequence_length,
    )
