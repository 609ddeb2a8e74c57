"""The measure of a text that fits a run: perplexity, pseudo-perplexity, or the bound of a diffusion model."""

import dataclasses
from typing import Any

from lmjax.objectives import MaskedDiffusion
from lmjax.objectives.parts.naming_tokens import check_names_tokens, check_predicts_next
from lmjax.runs import Run
from lmjax.runs.marks import text_marks
from lmjax.train.evaluations.diffusion_bound import DiffusionBound
from lmjax.train.evaluations.evaluation import Evaluation
from lmjax.train.evaluations.pseudo_perplexity import PseudoPerplexity
from lmjax.train.evaluations.text_files import TextFiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How texts are measured. An option that does not concern a run's kind of model has to be None.

    Attributes:
      window: tokens the model reads at once; None for the length of the run's rows.
      stride: tokens that a window after the first one scores; None for half the window.
      documents: documents to take of each file; 0 for all.
      prefix_token: the special token before each text, by name; None for what the run's documents follow.
      draws: draws of noise; None for 8.
    """

    window: int | None = None
    stride: int | None = None
    documents: int = 0
    prefix_token: str | None = None
    draws: int | None = None


def text_evaluation(run: Run, files: tuple[str, ...], options: TextOptions) -> Evaluation:
    """Returns the evaluation that measures text files with a run's model.

    Raises:
      ValueError: the model names no tokens or reads with an encoder, or an option does not concern it.
    """
    objective = run.config.objective
    check_names_tokens(objective)
    common: dict[str, Any] = {"name": "text", "files": files, "window": options.window, "documents": options.documents}
    if isinstance(objective, MaskedDiffusion):
        _refuse(options, ("stride", "prefix_token"), "a diffusion model")
        return DiffusionBound(**common, draws=DiffusionBound.draws if options.draws is None else options.draws)
    if objective.traits.attention == "bidirectional" and not objective.traits.reads_with_encoder:
        _refuse(options, ("stride", "prefix_token", "draws"), "an encoder")
        marks, names = text_marks(run), {i: name for name, i in run.tokenizer.special_tokens.items()}
        before, after = (None if mark is None else names[mark] for mark in (marks.before, marks.after))
        return PseudoPerplexity(**common, before=before, after=after)
    if objective.traits.reads_with_encoder:
        raise ValueError(
            f"{type(objective).__name__} reads a text with an encoder, so that no token of it is left to predict: "
            f"prepare the text with the run's tokenizer and measure the run's own objective on it (lmjax evaluate RUN "
            f"--prepared FOLDER)"
        )
    check_predicts_next(objective)
    _refuse(options, ("draws",), "a model that reads from left to right")
    return TextFiles(**common, stride=options.stride, prefix_token=options.prefix_token)


def _refuse(options: TextOptions, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"{name}={value!r} does not concern {kind}: leave it out")
