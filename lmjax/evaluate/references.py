"""BLEU and ROUGE: how much of what a run writes is in texts that people wrote for the same prompts.

BLEU is that of sacrebleu over the whole file (Papineni et al. 2002; Post 2018). ROUGE-1, ROUGE-2 and ROUGE-L are the
F-measures of rouge-score, without stemming, as means over prompts, each with the reference that fits best (Lin 2004).
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.decode.logits import SamplingConfig
from lmjax.evaluate.extras import needed
from lmjax.runs import Run
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.json_lines import check_text, read_objects

ROUGE = ("rouge1", "rouge2", "rougeL")


def read_references(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    """Returns the prompts and the references of each, from JSON lines with ``prompt`` and ``reference``.

    Args:
      path: the file; a reference is a text, or a list of texts that are all right.

    Raises:
      ValueError: the file cannot be read, or a field is not text.
    """
    prompts, references = [], []
    for where, (prompt, given) in read_objects(path, ("prompt", "reference")):
        several = given if isinstance(given, list) else [given]
        if not several:
            raise ValueError(f"{where}: 'reference' is []: give at least one text")
        prompts.append(check_text(prompt, where, "prompt"))
        references.append([check_text(one, where, "reference") for one in several])
    return prompts, references


def overlaps(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns ``bleu`` (0 to 100) and ``rouge1``, ``rouge2`` and ``rougeL`` (0 to 1).

    Args:
      texts: what was written.
      references: for each of them the texts that are right.

    Raises:
      ValueError: sacrebleu or rouge-score is not installed.
    """
    sacrebleu = needed("sacrebleu", package="sacrebleu", what="BLEU")
    rouge_scorer = needed("rouge_score.rouge_scorer", package="rouge-score", what="ROUGE")
    most = max(map(len, references))
    # The first references of all texts, then the second ones, and so on; None where a text has fewer.
    columns = [[own[n] if n < len(own) else None for own in references] for n in range(most)]
    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=False)
    scores = [scorer.score_multi(own, text) for text, own in zip(texts, references, strict=True)]
    rouge = {name: float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE}
    return {"bleu": float(sacrebleu.corpus_bleu(list(texts), columns).score)} | rouge


def measure_writing(run: Run, path: pathlib.Path, *, output: pathlib.Path | None = None, **options: Any) -> Reading:
    """Lets a run answer prompts, greedily unless asked otherwise, and compares its texts with references.

    Args:
      run: the run.
      path: the file of prompts and references, see :func:`read_references`.
      output: a file for the texts, in JSON lines; None to drop them.
      **options: as of :meth:`lmjax.runs.Run.sample`.

    Raises:
      ValueError: a file cannot be read or written, a package is missing, or the run does not write text.
    """
    for module, package in (("sacrebleu", "sacrebleu"), ("rouge_score.rouge_scorer", "rouge-score")):
        needed(module, package=package, what="comparing with references")
    prompts, references = read_references(path)
    texts = [text.strip() for text in run.sample(prompts, **{"sampling": SamplingConfig(temperature=0.0), **options})]
    if output is not None:
        rows = zip(prompts, texts, references, strict=True)
        lines = [json.dumps({"prompt": p, "text": t, "reference": r}, ensure_ascii=False) for p, t, r in rows]
        output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Reading(numbers=overlaps(texts, references), counts={"prompts": len(prompts)})
