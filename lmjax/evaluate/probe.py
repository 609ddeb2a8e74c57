"""Linear probe: how well a linear classifier reads labels off a frozen model's hidden states.

Each text becomes the mean of the model's final hidden states at its tokens. A part of the texts is drawn for testing by
a seed. Multinomial logistic regression with an L2 penalty is fitted to the others, on features of mean 0 and standard
deviation 1. L-BFGS finds its optimum, and there is only one (Alain and Bengio 2016, "Understanding intermediate layers
using linear classifier probes").

Axes: N texts, H labels.
"""

import dataclasses
import functools
import json
import pathlib
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from lmjax.decode.prompts import padded
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives import FeatureObjective
from lmjax.runs import Run
from lmjax.runs.marks import text_marks
from lmjax.train.components import paired
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.json_lines import check_text, read_objects
from lmjax.train.prompts import source_ids
from lmjax.types import make_stream

STEPS = 1000
"""The most steps of L-BFGS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe of labelled texts.

    Attributes:
      path: JSON lines with the fields ``text`` and ``label``; a label is text, a whole number, or true or false.
      test_share: the share of texts to test on.
      penalty: the weight of half the squared norm of the classifier's matrix, beside the mean loss of a text.
      seed: decides which texts are for testing.
      batch_size: the number of texts that the model reads at the same time.
    """

    path: pathlib.Path
    test_share: float = 0.2
    penalty: float = 1e-3
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self):
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}: must lie between 0 and 1")
        if not self.penalty > 0:
            raise ValueError(f"penalty={self.penalty}: must be above 0, or the best classifier may be infinitely far")


def probe(run: Run, options: Probe) -> Reading:
    """Fits a linear classifier on a run's hidden states, and tests it.

    Returns:
      ``accuracy`` on the texts for testing, ``train_accuracy``, and ``majority``, the accuracy of always giving the
      label that is most frequent in the texts for training.

    Raises:
      ValueError: the file cannot be read, has too few texts or labels, or the model cannot read a text.
    """
    texts, labels = _read(options.path)
    names = sorted(set(labels))
    if len(names) < 2:
        raise ValueError(f"{options.path}: all labels are {names[0]}: a classifier needs at least two labels")
    order = np.random.default_rng(options.seed).permutation(len(texts))
    num_test = round(options.test_share * len(texts))
    if not 0 < num_test < len(texts):
        raise ValueError(
            f"{options.path}: {len(texts)} texts leave none for training or none for testing at test_share="
            f"{options.test_share}: label more texts"
        )
    feature_ND = text_features(run, texts, batch_size=options.batch_size)
    label_N = np.array([names.index(label) for label in labels])
    test, train = order[:num_test], order[num_test:]
    mean_D, deviation_D = feature_ND[train].mean(axis=0), feature_ND[train].std(axis=0)
    feature_ND = (feature_ND - mean_D) / np.where(deviation_D > 0, deviation_D, 1.0)
    weights = fit(feature_ND[train], label_N[train], num_labels=len(names), penalty=options.penalty)
    is_right_N = (feature_ND @ weights["matrix_DH"] + weights["bias_H"]).argmax(axis=1) == label_N
    most_frequent = Counter(label_N[train].tolist()).most_common(1)[0][0]
    return Reading(
        numbers={
            "accuracy": float(is_right_N[test].mean()),
            "train_accuracy": float(is_right_N[train].mean()),
            "majority": float((label_N[test] == most_frequent).mean()),
        },
        counts={"labels": len(names), "train_texts": len(train), "test_texts": len(test)},
    )


def _read(path: pathlib.Path) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    for where, (text, label) in read_objects(path, ("text", "label")):
        texts.append(check_text(text, where, "text"))
        if not isinstance(label, str | int):
            raise ValueError(
                f"{where}: 'label' is {json.dumps(label)[:40]}: must be text, a whole number, true or false"
            )
        labels.append(json.dumps(label))
    return texts, labels


def text_features(run: Run, texts: list[str], *, batch_size: int) -> np.ndarray:
    """Returns the mean hidden state of each text, float32 [N, D]; special tokens around a text are among its tokens.

    Raises:
      ValueError: the model reads no text, or a text is too long for it.
    """
    objective, pair, marks = run.config.objective, paired(run.config.objective), text_marks(run)
    if isinstance(objective, FeatureObjective):
        raise ValueError(f"{type(objective).__name__} trains a model that reads vectors, not text: probe another run")
    around = [[] if mark is None else [mark] for mark in (marks.before, marks.after)]
    rows = [
        [*around[0], *run.tokenizer.encode(text).tolist(), *around[1]]
        if pair is None
        else source_ids(run.config.data, run.tokenizer, text, pair)
        for text in texts
    ]
    longest = max(range(len(rows)), key=lambda number: len(rows[number]))
    if run.max_length is not None and len(rows[longest]) > run.max_length:
        raise ValueError(
            f"text {longest + 1} has {len(rows[longest])} tokens and the model has learned {run.max_length} positions: "
            f"shorten it"
        )
    # Texts of similar length share a batch, and so little is padded.
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    feature_ND = np.zeros((len(rows), 0), np.float32)
    for begin in range(0, len(rows), batch_size):
        batch = order[begin : begin + batch_size]
        tokens_BT, lengths_B = padded([rows[number] for number in batch])
        kind = "bidirectional" if pair is not None else objective.traits.attention.replace("prefix", "causal")
        mean_BD = np.asarray(
            _means(
                run.model_params, tokens_BT, lengths_B, spec=run.model_spec, kind=kind, with_encoder=pair is not None
            )
        )
        if not feature_ND.size:
            feature_ND = np.zeros((len(rows), mean_BD.shape[1]), np.float32)
        feature_ND[batch] = mean_BD
    return feature_ND


@functools.partial(jax.jit, static_argnames=("spec", "kind", "with_encoder"))
def _means(
    params: Params, tokens_BT: jax.Array, lengths_B: jax.Array, *, spec: ModuleSpec, kind: str, with_encoder: bool
) -> jax.Array:
    model: Any = spec.bind(params)
    is_real_BT = jnp.arange(tokens_BT.shape[1])[None, :] < lengths_B[:, None]
    stream = make_stream(tokens_BT, is_real_BT.astype(jnp.int32), kind)
    states_BTD = (model.encode(stream) if with_encoder else model(stream)).states_BTD.astype(jnp.float32)
    return jnp.sum(jnp.where(is_real_BT[..., None], states_BTD, 0.0), axis=1) / lengths_B[:, None]


def fit(feature_ND: np.ndarray, label_N: np.ndarray, *, num_labels: int, penalty: float) -> dict[str, np.ndarray]:
    """Returns the matrix [D, H] and the bias [H] that minimise ``mean cross entropy + penalty / 2 |matrix|^2``.

    Args:
      feature_ND: the features of each text.
      label_N: the number of each text's label.
      num_labels: H.
      penalty: the weight of the penalty.
    """
    feature_ND, one_hot_NH = np.asarray(feature_ND, np.float64), np.eye(num_labels)[label_N]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient; the bias is the last row of the weights."""
        weights = flat.reshape(-1, num_labels)
        logits_NH = feature_ND @ weights[:-1] + weights[-1]
        log_chance_NH = logits_NH - special.logsumexp(logits_NH, axis=1, keepdims=True)
        error_NH = (np.exp(log_chance_NH) - one_hot_NH) / len(one_hot_NH)
        gradient = np.vstack([feature_ND.T @ error_NH + penalty * weights[:-1], error_NH.sum(axis=0)])
        value = -np.sum(log_chance_NH * one_hot_NH) / len(one_hot_NH) + penalty / 2 * np.sum(weights[:-1] ** 2)
        return float(value), gradient.ravel()

    start = np.zeros((feature_ND.shape[1] + 1) * num_labels)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "gtol": 1e-6})
    weights = found.x.reshape(-1, num_labels)
    return {"matrix_DH": weights[:-1], "bias_H": weights[-1]}
