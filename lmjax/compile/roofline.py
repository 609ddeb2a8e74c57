"""What the time of compiled decoding is made of, and its figures; as one dictionary, for JSON too.

Each token of a row is a product of all weights with one vector a row, so that decoding often waits for the memory and
not for the arithmetic (roofline: Williams et al. 2009; "How to Scale Your Model", Austin et al. 2025, chapter 7).
"""

from typing import Any

from lmjax.compile.decoding import CompiledDecoding
from lmjax.compile.prediction import program_figures
from lmjax.compile.pricing import Pricing
from lmjax.runs.writing import EVERY

READS = (
    "decoding: a token takes at least the time in which the memory is read for the weights (in the arithmetic's dtype, "
    "without a table whose rows are looked up) and for the whole caches; the compiler's cycles count this reading only "
    "where it is not done ahead, at about three quarters of the bandwidth"
)
SAMPLING = f"texts are drawn as `lmjax sample` draws them by default, {EVERY} tokens a call; no text ends early"


def predict_decoding(found: CompiledDecoding) -> dict[str, Any]:
    """Returns every figure of prefill and decoding by name; ``decode`` is missing where prefill does not fit."""
    prefill, _ = program_figures(found.prefill)
    assumed = dict.fromkeys((SAMPLING, READS, *prefill.pop("assumed", ())))
    figures: dict[str, Any] = {
        "recipe": found.config.name,
        "topology": found.prefill.topology.name,
        "chips": found.prefill.mesh.size,
        "mesh": dict(found.prefill.mesh.shape),
        "batch_size": len(found.prompts.lengths_B),
        "prompt_length": found.prompt_length,
        "max_new_tokens": max(found.prompts.limits),
        "cache_length": found.cache_length,
        "parameters": found.summary.parameters,
        "fits": found.prefill.fits and found.decode is not None and found.decode.fits,
        "prefill": prefill,
    }
    if found.decode is not None:
        decode, pricing = program_figures(found.decode)
        figures["decode"] = decode
        if pricing is not None:
            decode |= decode_times(found, pricing)
        assumed |= dict.fromkeys(decode.pop("assumed", ()))
    return figures | {"assumed": list(assumed)}


def decode_times(found: CompiledDecoding, pricing: Pricing) -> dict[str, Any]:
    """Returns the seconds of a token of each row, tokens a second, and what bounds them.

    Args:
      found: what was compiled, both programs.
      pricing: the estimate of the second.
    """
    assert found.decode is not None and found.reads is not None
    chip, work = found.decode.topology.chip, found.decode.work
    rows, chips = len(found.prompts.lengths_B), found.decode.mesh.size
    exposed = (pricing.seconds - pricing.computing) / EVERY
    parts = {
        "reading the weights": found.reads.weights / chip.hbm_bandwidth,
        "reading the caches": found.reads.cache / chip.hbm_bandwidth,
        "arithmetic": rows * work.flops_per_token / chips / chip.peak_flops,
        "collectives that nothing hides": exposed,
    }
    read = parts["reading the weights"] + parts["reading the caches"]
    computing = pricing.computing / EVERY
    parts["other work by the compiler's cycles"] = max(computing - max(read, parts["arithmetic"]), 0.0)
    seconds = max(computing, read) + exposed
    return {
        "tokens_per_call": EVERY,
        "reads": {"weights": found.reads.weights, "cache": found.reads.cache},
        "computing_seconds_per_token": computing,
        "seconds_by_bound": parts,
        "bound": max(parts, key=lambda name: parts[name]),
        "seconds_per_token": seconds,
        "tokens_per_second": rows / seconds,
        "tokens_per_second_per_chip": rows / seconds / chips,
        "tokens_per_second_per_row": 1 / seconds,
        "mfu": rows * work.flops_per_token / (seconds * chips * chip.peak_flops),
    }
