"""What a run's model would put in the place of masks."""

import dataclasses
from collections.abc import Sequence

from lmjax.decode.fill_mask import fill_mask
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.runs.marks import text_marks
from lmjax.runs.opened import Opened
from lmjax.train.prompts import ids_with_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that may stand at a mask.

    Attributes:
      token: its text, or its name if it is a special token.
      token_id: its id.
      probability: how likely the model finds it.
    """

    token: str
    token_id: int
    probability: float


def fill_masks(run: Opened, texts: Sequence[str], *, top: int = 5) -> list[list[list[Candidate]]]:
    """Returns, for each text and each mask in it, the most likely tokens, the likeliest first.

    Args:
      run: a run of an encoder that names masked tokens.
      texts: each with one or more masks, written as the tokenizer's mask token is called.
      top: the number of tokens to name.

    Raises:
      ValueError: the model does not name masked tokens, or a text has no mask or is too long.
    """
    objective, tokenizer = run.config.objective, run.tokenizer
    check_names_tokens(objective)
    if objective.traits.attention != "bidirectional" or objective.traits.reads_with_encoder:
        raise ValueError(
            f"{type(objective).__name__} does not train a model to name masked tokens: use a run of a masked language "
            f"model, or continue a text with `lmjax sample`"
        )
    if top < 1:
        raise ValueError(f"top={top}: must be at least 1")
    mask_id = tokenizer.vocabulary.require("mask", needed_by="fill-mask")
    (name,) = [name for name, token_id in tokenizer.special_tokens.items() if token_id == mask_id][:1]
    marks = text_marks(run)
    around = [[token_id] if token_id is not None else [] for token_id in (marks.before, marks.after)]
    rows = []
    for text in texts:
        row = [*around[0], *ids_with_names(tokenizer, text), *around[1]]
        if mask_id not in row:
            raise ValueError(f"{text!r} has no mask: write {name} where a token is to be named")
        if run.max_length is not None and len(row) > run.max_length:
            raise ValueError(
                f"a text of {len(row)} tokens is longer than the {run.max_length} positions the model has learned: "
                f"shorten it"
            )
        rows.append(row)
    hidden = objective.hidden if isinstance(objective, MaskedDiffusion) else None
    found = fill_mask(run.spec, run.params, rows, vocabulary=tokenizer.vocabulary, top=top, hidden=hidden)
    names = {token_id: special for special, token_id in tokenizer.special_tokens.items()}
    return [
        [
            [
                Candidate(
                    token=names.get(token_id) or tokenizer.token_bytes[token_id].decode(errors="replace"),
                    token_id=token_id,
                    probability=probability,
                )
                for token_id, probability in candidates
            ]
            for candidates in of_text
        ]
        for of_text in found
    ]
