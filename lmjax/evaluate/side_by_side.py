"""Several runs on the same texts, by numbers that can be compared.

A perplexity is per token, and another tokenizer makes other tokens, so runs with different tokenizers are compared in
bits per byte. A pseudo-perplexity is compared with other pseudo-perplexities only.
"""

from collections.abc import Mapping, Sequence

from lmjax.evaluate.text import TextOptions, text_evaluation
from lmjax.runs import Run
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.pseudo_perplexity import PseudoPerplexity

IN_BYTES = ("bits_per_byte", "bits_per_character", "standard_error")


def compare_on(
    runs: Mapping[str, Run], files: Sequence[str], options: TextOptions, *, by: str | None = None
) -> dict[str, Reading]:
    """Returns the reading of each run; of runs with different tokenizers, only numbers that can be compared.

    Args:
      runs: the runs by name.
      files: files, folders or globs.
      options: how they are measured.
      by: ``"bits_per_byte"`` compares runs with different tokenizers.

    Raises:
      ValueError: the runs cannot be compared, or cannot be measured on texts.
    """
    evaluations = {name: text_evaluation(run, tuple(files), options) for name, run in runs.items()}
    pseudo = [name for name, one in evaluations.items() if isinstance(one, PseudoPerplexity)]
    if pseudo and len(pseudo) < len(runs):
        raise ValueError(
            f"{', '.join(pseudo)} names masked tokens with the text on both sides, and the others predict each token "
            f"from those before it: these numbers cannot be compared; evaluate runs of one kind"
        )
    first, *others = runs.items()
    differing = [name for name, run in others if run.tokenizer.fingerprint != first[1].tokenizer.fingerprint]
    if differing and (pseudo or by != "bits_per_byte"):
        remedy = (
            "pseudo-perplexities have no bits per byte: evaluate runs of one tokenizer"
            if pseudo
            else "compare bits per byte instead (--by bits_per_byte, or lmjax compare)"
        )
        raise ValueError(
            f"{', '.join(differing)} and {first[0]} have different tokenizers, so a token is not the same amount of "
            f"text and their perplexities cannot be compared: {remedy}"
        )
    if pseudo and by == "bits_per_byte":
        raise ValueError("pseudo-perplexities have no bits per byte: leave out --by")
    readings = {name: run.evaluate(evaluations[name]) for name, run in runs.items()}
    if by != "bits_per_byte":
        return readings
    for name, reading in readings.items():
        if "bits_per_byte" not in reading.numbers:
            raise ValueError(f"{name}: the bytes of its tokens are not known, so it has no bits per byte")
    return {name: _in_bytes(reading) for name, reading in readings.items()}


def _in_bytes(reading: Reading) -> Reading:
    numbers = {name: value for name, value in reading.numbers.items() if name in IN_BYTES}
    counts = {name: value for name, value in reading.counts.items() if name != "tokens"}
    return Reading(numbers=numbers, counts=counts, notes=reading.notes)
