"""Runs as models of lm-evaluation-harness, so that its tasks are measured on them by name.

This is for lm-eval 0.4; everything that depends on it is in this file. A text that the harness scores from its
beginning follows an explicit prefix token, once (:func:`lmjax.train.evaluations.texts.prefix_id`, or else the
end-of-text token).
"""

import difflib
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from lmjax.decode.logits import SamplingConfig
from lmjax.objectives.parts.naming_tokens import check_predicts_next
from lmjax.runs import Run
from lmjax.runs.request import Request
from lmjax.runs.writing import stream_continuations
from lmjax.train.evaluations.texts import prefix_id
from lmjax.train.evaluations.token_scores import TokenScorer
from lmjax.train.evaluations.windows import check_sizes, windows

NEW_TOKENS = 256
"""The largest number of tokens to write where a task does not say, as in the harness."""
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names that tasks give to that number; the first one that is there counts."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
BOOTSTRAP = 1000
"""Resamples for the standard errors that have no formula."""


class HarnessModel(TemplateLM):
    """A run that reads from left to right, as the harness asks models."""

    def __init__(
        self,
        run: Run,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        prefix_token: str | None = None,
    ):
        """Prepares the run; nothing is compiled before it is needed.

        Args:
          run: the run.
          window: the largest number of tokens that the model reads at once; None for the learned positions, or else for
            the length of the rows that the run was trained on.
          batch_size: rows of a batch; None for as many as make 16,384 tokens.
          prefix_token: the special token before texts that are scored from their beginning, by name.

        Raises:
          ValueError: the run gives no probability of the next token, or there is no token to begin with.
        """
        super().__init__()
        check_predicts_next(run.config.objective)
        self._run, self._batch_size = run, batch_size or 32
        self._window = window or run.max_length or run.config.train.sequence_length
        check_sizes(self._window, self._window, max_length=run.max_length)
        vocabulary = run.tokenizer.vocabulary
        prefix = prefix_id(run.config.data, vocabulary, named=prefix_token)
        if prefix is None:
            prefix = vocabulary.require("eos", needed_by="lm-evaluation-harness, which begins texts with a token,")
        self._prefix = prefix
        self._scorer = TokenScorer(run.learner, width=self._window, batch_size=batch_size)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text; the prefix where the tokenizer has none."""
        eos_id = self._run.tokenizer.vocabulary.eos_id
        return self._prefix if eos_id is None else eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id that a text without a context follows."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others."""
        return self._run.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Returns the ids of a text, after the beginning-of-text token where the run's documents have it, once.

        Args:
          string: the text; if it begins with the name of that token, it is the token.
          add_special_tokens: False for the ids of the text alone.
          **kwargs: not used.
        """
        tokenizer = self._run.tokenizer
        bos_id = tokenizer.vocabulary.bos_id
        name = next((name for name, token_id in tokenizer.special_tokens.items() if token_id == bos_id), None)
        begins = name is not None and string.startswith(name)
        if begins:
            assert name is not None
            string = string.removeprefix(name)
        begins = begins or (self._run.config.data.add_bos and add_special_tokens is not False)
        return [*([bos_id] if begins else []), *tokenizer.encode(string).tolist()]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Returns for each context and continuation the log-probability of the latter, and whether greedy decoding
        writes it. A context that is too long loses its beginning.
        """
        found = []
        for number, (names, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self._window:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens, and the model reads 1 to {self._window} at once "
                    f"(window): {str(names)[:80]}"
                )
            ids = [*(context or [self._prefix]), *continuation][-self._window - 1 :]
            unscored = len(ids) - 1 - len(continuation)
            (own,) = windows(
                np.array(ids[1:], np.int32),
                prefix=ids[0],
                window=self._window,
                stride=self._window,
                scored_N=np.arange(len(ids) - 1) >= unscored,
                label=number,
            )
            found.append(own)
        # Windows of similar length fill rows best.
        found.sort(key=lambda window: -len(window.inputs_N))
        answers = [(0.0, True)] * len(requests)
        for window, scores in self._scorer(self._run.params, found):
            answers[window.label] = (
                float(scores.log_probability_N.sum(dtype="float64")),
                bool((scores.rank_N == 0).all()),
            )
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-probability of each whole text; of a long one, window by window, see
        :func:`lmjax.train.evaluations.windows.windows`.
        """
        totals = [0.0] * len(requests)

        def cut() -> Any:
            for number, request in enumerate(requests):
                ids = self._run.tokenizer.encode(request.args[0])
                size = self._window
                yield from windows(ids, prefix=self._prefix, window=size, stride=size, label=number)

        for window, scores in self._scorer(self._run.params, cut()):
            totals[window.label] += float(scores.log_probability_N.sum(dtype="float64"))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns what the model writes after each context, up to a stop string, greedily unless a task samples."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        for numbers in groups.values():
            asked = self._request(requests[numbers[0]].args[1])
            room = self._window - (asked.max_new_tokens or 0)
            if room < 1:
                raise ValueError(
                    f"a task asks for {asked.max_new_tokens} new tokens, and the model reads {self._window} at once: "
                    f"set generation_kwargs.max_gen_toks of the task lower, or the window higher"
                )
            prompts = [self.tok_encode(requests[number].args[0])[-room:] or [self._prefix] for number in numbers]
            for piece in stream_continuations(self._run, prompts, asked):
                texts[numbers[piece.number]] += piece.text
        return texts

    def _request(self, options: dict[str, Any]) -> Request:
        """The harness' options of writing as ours."""
        options = dict(options)
        stop = options.pop("until", None) or []
        given = [options.pop(name, None) for name in LIMITS]
        limit = next((int(value) for value in given if value is not None), NEW_TOKENS)
        sampled = options.pop("do_sample", None)
        sampling = {name: options.pop(name) for name in SAMPLING if options.get(name) is not None}
        if sampled is False or (sampled is None and not sampling.get("temperature")):
            sampling["temperature"] = 0.0
        if left := {name: value for name, value in options.items() if value is not None}:
            raise ValueError(f"generation_kwargs of a task: {left} cannot be done with a run: leave them out")
        return Request(
            max_new_tokens=limit,
            stop=tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text),
            sampling=SamplingConfig(**sampling),
            batch_size=self._batch_size,
        )


class Tasks(TaskManager):
    """The tasks of the harness and of the user's folders; one that cannot be loaded is the user's to mend."""

    def load(self, spec: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads tasks and their data.

        Raises:
          ValueError: a task's data are not there, or its file is wrong.
        """
        try:
            return super().load(spec, *args, **kwargs)
        except Exception as error:
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
            raise ValueError(
                f"the tasks {' '.join(map(str, spec))} cannot be loaded ({type(error).__name__}: {said[:300]}): their "
                f"data must be in the cache of Hugging Face datasets, within reach, or on a path that a task's file "
                f"names"
            ) from error


def evaluate_tasks(
    run: Run,
    names: Sequence[str],
    *,
    task_path: pathlib.Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    window: int | None = None,
    prefix_token: str | None = None,
    run_code: bool = False,
) -> dict[str, dict[str, float]]:
    """Measures tasks of the harness on a run.

    Args:
      run: the run.
      names: tasks, groups or patterns.
      task_path: a folder with task files of the user's own; the Python functions that they name are run.
      num_fewshot: examples before each question; None for what a task says.
      limit: questions of each task, from the first on; None for all.
      window: see :class:`HarnessModel`.
      prefix_token: see :class:`HarnessModel`.
      run_code: whether tasks may run code that the model has written (HumanEval).

    Returns:
      The metrics of each task and group. A filter other than ``none`` is part of a metric's name
      (``exact_match,strict-match``).

    Raises:
      ValueError: a task is not known or its data are not there, or the run cannot do what it asks for.
    """
    if task_path is not None and not task_path.is_dir():
        raise ValueError(f"{task_path} is no folder: name one with task files (.yaml)")
    for name in ("lm_eval", "huggingface_hub", "datasets"):
        # Without a network they warn ten times of what is then said once.
        logging.getLogger(name).setLevel(logging.ERROR)
    model = HarnessModel(run, window=window, prefix_token=prefix_token)
    manager = _manager(names, task_path)
    # The harness would fork this process to resample, which the threads of jax do not survive.
    with mock.patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}):
        found = simple_evaluate(
            model=model,
            tasks=list(names),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=False,
            bootstrap_iters=BOOTSTRAP,
            confirm_run_unsafe_code=run_code,
        )
    return {task: _metrics(metrics) for task, metrics in found["results"].items()}


def _manager(names: Sequence[str], task_path: pathlib.Path | None) -> Tasks:
    """Returns the tasks of a folder where these are all that is asked for, because it takes long to list the others."""
    if task_path is not None:
        own = Tasks(include_path=str(task_path), include_defaults=False)
        if all(own.match_tasks([name]) for name in names):
            return own
    manager = Tasks(include_path=None if task_path is None else str(task_path))
    for name in names:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = (
                f": did you mean {' or '.join(near)}?" if near else ": name one of lm-evaluation-harness, or its folder"
            )
            raise ValueError(f"no task is called {name!r}{hint}")
    return manager


def _metrics(given: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of a task; the standard error of ``NAME`` is called ``NAME_stderr``."""
    found = {}
    for name, value in given.items():
        metric, _, kind = name.partition(",")
        if kind and isinstance(value, int | float):
            own = metric.removesuffix("_stderr")
            label = own if kind == "none" else f"{own},{kind}"
            found[label if own == metric else f"{label}_stderr"] = value
    return found
