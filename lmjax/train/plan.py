"""The plan of a run: what the run will do. It is computed once, before anything is written to the run's folder."""

import dataclasses
from collections.abc import Generator

from lmjax.data.rows.pipeline import device_batches
from lmjax.data.rows.source import RowSource
from lmjax.tokenizers import Tokenizer
from lmjax.train.config import VALID, RunConfig
from lmjax.train.corpus import Corpus
from lmjax.train.curriculum import Curriculum
from lmjax.train.epochs import check_epochs
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Subject
from lmjax.train.evaluations.validation import Validation
from lmjax.train.open_corpus import Progress, open_corpus
from lmjax.train.profile import check_profile
from lmjax.train.resume import check_origin_is_there
from lmjax.train.setup import lay_out, learner_on, resolve
from lmjax.train.step import Learner
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run.

    Attributes:
      config: the configuration; the fields that depend on the tokenizer are filled in.
      curriculum: the phases of the run if its batch size does not change.
      corpus: the data and the tokenizer.
      learner: the training and evaluation steps; its ``mesh`` is the mesh of the run.
      rows: the training rows, cut to the longest length.
      evaluations: the evaluations, each with the function that measures it.
    """

    config: RunConfig
    curriculum: Curriculum
    corpus: Corpus
    learner: Learner
    rows: RowSource
    evaluations: tuple[tuple[Evaluation, Measure], ...]

    def without_profile(self) -> "Plan":
        """Returns the same plan without a profile of steps."""
        train = dataclasses.replace(self.config.train, profile=None)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, train=train))

    def batches(self, curriculum: Curriculum, *, start_step: int) -> Generator[Rows]:
        """Yields the batches of ``start_step``, ``start_step + 1``, ..., on the devices.

        Args:
          curriculum: the plan's curriculum, or another one if the batch size of the run has changed.
          start_step: number of updates done before the first batch.
        """
        sharding = self.learner.row_sharding
        threads = self.config.data.threads
        local = curriculum.batches(self.rows, start_step=start_step, sharding=sharding, num_threads=threads)
        return device_batches(local, sharding)


def make_plan(config: RunConfig, *, progress: Progress | None = None) -> Plan:
    """Returns the plan of a run; if the data are not prepared yet, it prepares them first.

    Args:
      config: the configuration of the run.
      progress: called during the preparation, see :func:`lmjax.train.open_corpus.open_corpus`.

    Raises:
      ValueError: the user has to change something; nothing but prepared data was written.
    """
    # These come first, because preparing the data may take hours.
    config.tracker.check()
    check_profile(config.train.profile, steps_left=config.train.steps)
    check_origin_is_there(config)
    layout = lay_out(config)
    corpus = open_corpus(config.data, config.tokenizer, progress=progress)
    vocabulary = corpus.tokenizer.vocabulary
    config = resolve(config, vocabulary)
    learner = learner_on(layout, config, vocabulary)
    subject = subject_of(config, learner, corpus.tokenizer, corpus)
    rows = layout.curriculum.rows(corpus, seed=config.train.seed)
    check_epochs(rows, layout.curriculum, steps=config.train.steps, limits=config.data.max_epochs)
    return Plan(
        config=config,
        curriculum=layout.curriculum,
        corpus=corpus,
        learner=learner,
        rows=rows,
        evaluations=tuple((one, one.begin(subject)) for one in evaluations_of(config, corpus)),
    )


def evaluations_of(config: RunConfig, corpus: Corpus) -> tuple[Evaluation, ...]:
    """Returns the evaluations of a run. The first is the validation, unless no documents were kept for it."""
    train = config.train
    validation = Validation(name=VALID, every_steps=train.eval_every, batches=train.eval_batches)
    return (*((validation,) if corpus.has("valid") else ()), *config.evaluations)


def subject_of(config: RunConfig, learner: Learner, tokenizer: Tokenizer, corpus: Corpus | None = None) -> Subject:
    """Returns the facts about a run that evaluations are given.

    Args:
      config: the resolved configuration of the run.
      learner: the learner of the run.
      tokenizer: its tokenizer.
      corpus: the run's data, or other data to evaluate it on; None for evaluations that bring their own.
    """
    return Subject(
        learner=learner,
        tokenizer=tokenizer,
        data=config.data if corpus is None else corpus.config,
        corpus=corpus,
        model=config.model,
        batch_size=config.train.batch_size,
        sequence_length=config.train.sequence_length,
    )
