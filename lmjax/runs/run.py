"""A run with what can be done with it."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.decode.contrast import Amateur
from lmjax.decode.speculate import Proposer, Speculation
from lmjax.models.with_extras import EXTRAS
from lmjax.objectives import FillInMiddle
from lmjax.objectives.multi_token import TokensAhead
from lmjax.runs.embedding import Role, embed
from lmjax.runs.filling import Candidate, fill_masks
from lmjax.runs.hf_import import open_hf
from lmjax.runs.opened import Opened, open_folder
from lmjax.runs.prompts import KNOWN_MARKERS, middle_ids
from lmjax.runs.request import Request
from lmjax.runs.scoring import Score, score
from lmjax.runs.writing import stream_continuations, write_texts
from lmjax.train.components import paired
from lmjax.train.evaluations.evaluation import Evaluation, Reading
from lmjax.train.plan import subject_of
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, BestOrStep


class Run(Opened):
    """A trained model with its tokenizer: it writes, scores and embeds text. Make one with :func:`lmjax.runs.open`."""

    def sample(self, prompts: str | Sequence[str], **options: Any) -> list[str]:
        """Writes text after each prompt, or about it where the model has an encoder.

        Args:
          prompts: one prompt or several, of any length.
          **options: fields of :class:`~lmjax.runs.request.Request`, such as ``max_new_tokens``, ``num_samples``,
            ``sampling`` and ``stop``.

        Returns:
          The new text alone, ``num_samples`` texts for each prompt.

        Raises:
          ValueError: a prompt is too long or empty, the model does not write text, or an option is impossible.
        """
        return write_texts(self, [prompts] if isinstance(prompts, str) else prompts, Request(**options))

    def infill(self, prefix: str, suffix: str, **options: Any) -> list[str]:
        """Writes what stands between two texts.

        Args:
          prefix: the text before the gap.
          suffix: the text after the gap.
          **options: as of :meth:`sample`.

        Returns:
          The text in the middle alone, ``num_samples`` of it.

        Raises:
          ValueError: the tokenizer has no fill-in-the-middle markers.
        """
        request = Request(**options)
        texts = [""] * request.num_samples
        for piece in stream_continuations(self, [self.middle_prompt(prefix, suffix)], request):
            texts[piece.number] += piece.text
        return texts

    def middle_prompt(self, prefix: str, suffix: str) -> list[int]:
        """Returns the token ids after which the model writes what stands between two texts.

        Raises:
          ValueError: the tokenizer has no fill-in-the-middle markers.
        """
        objective = self.config.objective
        markers = objective.markers if isinstance(objective, FillInMiddle) else self.config.data.fim_markers
        known = [names for names in (markers, *KNOWN_MARKERS) if set(names) <= self.tokenizer.special_tokens.keys()]
        return middle_ids(self, prefix, suffix, known[0] if known else markers)

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Returns the log-probabilities, loss and bits per byte of texts, see :func:`~lmjax.runs.scoring.score`."""
        return score(self, texts)

    def evaluate(self, evaluation: Evaluation) -> Reading:
        """Measures the run as an evaluation of a recipe does, such as ``TextFiles(name="x", files=("a.txt",))``.

        Args:
          evaluation: one that brings its own text, see :mod:`lmjax.train.evaluations`.

        Returns:
          Its ``numbers``, ``counts``, ``notes`` and ``tables``.

        Raises:
          ValueError: the run cannot be evaluated in this way, or a file cannot be read.
        """
        measure = evaluation.begin(subject_of(self.config, self.learner, self.tokenizer))
        return measure(self.params, lambda: None)

    def embed(self, texts: Sequence[str], *, role: Role = "query") -> np.ndarray:
        """Returns the vectors of texts, float32 [N, D], see :func:`~lmjax.runs.embedding.embed`."""
        return embed(self, texts, role=role)

    def fill_mask(self, texts: Sequence[str], *, top: int = 5) -> list[list[list[Candidate]]]:
        """Returns the most likely tokens at each mask of each text, see :func:`~lmjax.runs.filling.fill_masks`."""
        return fill_masks(self, texts, top=top)

    def speculation(self, other: "Run | None" = None, *, length: int | None = None) -> Speculation:
        """Returns what proposes tokens, in the form that ``sample(speculation=...)`` takes it.

        The text is drawn from the same distribution as without it, and greedy text is the same text.

        Args:
          other: a smaller run that proposes; None for the further heads of this run's own model.
          length: the number of tokens to propose at a time; 4 of another run, and one of each head, if None.

        Raises:
          ValueError: the other run has another tokenizer or reads text in another way; or this run has no further
            heads, or fewer of them.
        """
        if other is not None:
            self._check_reads_alike(other, "speculative decoding", "a draft")
            return Speculation(
                proposer="model",
                length=4 if length is None else length,
                spec=other.model_spec,
                params=other.model_params,
                max_length=other.max_length,
            )
        names: tuple[Proposer, ...] = ("further_heads", "prediction_modules")
        found = [name for name in names if name in self.spec.shapes.get(EXTRAS, {})]
        objective = self.config.objective
        if not found or not isinstance(objective, TokensAhead):
            raise ValueError(
                f"{self.folder} has no heads for further tokens: train with MultiTokenLM or SequentialMultiTokenLM and "
                f"num_heads of at least 2, or name a smaller run that proposes (--draft)"
            )
        most = objective.num_heads - 1
        if length is not None and length > most:
            raise ValueError(f"draft_length={length}: the run has {most} further heads, each of which proposes a token")
        return Speculation(proposer=found[0], length=most if length is None else length)

    def _check_reads_alike(self, other: "Run", purpose: str, role: str) -> None:
        if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise ValueError(
                f"{other.folder} has another tokenizer than {self.folder}: {purpose} compares the models "
                f"token by token; choose {role} with the same tokenizer"
            )
        there, here = other.config.objective.traits.attention, self.config.objective.traits.attention
        if there != here:
            raise ValueError(
                f"{other.folder} reads prompts with a {there} mask and {self.folder} with a {here} one: "
                f"choose {role} that reads as this run does"
            )
        if (paired(other.config.objective) is None) != (paired(self.config.objective) is None):
            raise ValueError(
                f"one of {other.folder} and {self.folder} has an encoder, and the other has none: "
                f"choose {role} of the same form"
            )

    def amateur(self, other: "Run", *, plausibility: float = 0.1, temperature: float = 1.0) -> Amateur:
        """Returns a weaker run in the form that ``sample(amateur=...)`` takes it.

        Args:
          other: the weaker run.
          plausibility: see :class:`~lmjax.decode.contrast.Amateur`.
          temperature: see :class:`~lmjax.decode.contrast.Amateur`.

        Raises:
          ValueError: its tokenizer is another one, or it does not read text as this run does.
        """
        self._check_reads_alike(other, "contrastive decoding", "an amateur")
        return Amateur(
            spec=other.model_spec,
            params=other.model_params,
            plausibility=plausibility,
            temperature=temperature,
            max_length=other.max_length,
        )


def open_run(folder: pathlib.Path | str, *, step: BestOrStep = None) -> Run:
    """Opens a run folder, or a folder that transformers wrote. Parameters are read when they are first needed.

    Args:
      folder: the run folder; or a Hugging Face folder, which is converted in memory.
      step: the checkpoint to use, by its step or ``"best"``; the newest intact one when None.

    Raises:
      ValueError: the folder is neither, has no checkpoint yet, or none of that step.
      CheckpointError: all checkpoints there are damaged.
    """
    folder = pathlib.Path(folder)
    if _is_hugging_face(folder):
        if step is not None:
            raise ValueError(f"step={step}: {folder} is a Hugging Face folder, which has no checkpoints: leave it out")
        opened = open_hf(folder)
    else:
        opened = open_folder(folder, step=step)
    return Run(opened.folder, opened.config, opened.tokenizer, opened.learner, opened.restore, opened.imported)


def _is_hugging_face(folder: pathlib.Path) -> bool:
    """Whether config.json is that of a model of transformers."""
    if (folder / CHECKPOINTS).exists():
        return False
    try:
        content = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "model_type" in content
