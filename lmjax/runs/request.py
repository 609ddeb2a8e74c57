"""How to write with a run's model."""

import dataclasses
from collections.abc import Iterable

from lmjax.decode.beam import BeamConfig
from lmjax.decode.contrast import Amateur
from lmjax.decode.contrastive_search import ContrastiveSearch
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.speculate import Speculation
from lmjax.decode.unmask import Order

NEW_TOKENS = 200
"""The number of new tokens where none is asked for."""


RANDOM = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon")
"""The fields of :class:`SamplingConfig` that say how to draw a token."""

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram")
"""Its fields that look back on the text before a token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """How to write.

    Attributes:
      num_samples: continuations of each prompt.
      max_new_tokens: the largest number of tokens to add; None for 200, or as many as the learned positions leave.
      sampling: how to choose tokens.
      beam: how to search with several beams instead of sampling, or None.
      contrastive: how to search for text that does not repeat itself instead of sampling, or None.
      amateur: a weaker run whose preferences are avoided (contrastive decoding), or None.
      speculation: what proposes tokens, several for each pass of the model, or None.
      stop: strings that end a text; they are not part of it.
      batch_size: the number of texts that are written at the same time.
      seed: of the random choices.
      unmask_steps: for diffusion models, the number of passes in which the masks are replaced.
      order: for diffusion models, which masks are replaced first.
    """

    num_samples: int = 1
    max_new_tokens: int | None = None
    sampling: SamplingConfig = SamplingConfig()
    beam: BeamConfig | None = None
    contrastive: ContrastiveSearch | None = None
    amateur: Amateur | None = None
    speculation: Speculation | None = None
    stop: tuple[str, ...] = ()
    batch_size: int = 32
    seed: int = 0
    unmask_steps: int = 64
    order: Order = "random"

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens", "batch_size", "unmask_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be from 0 to {2**32 - 1}")
        if len(self.ways) > 1:
            raise ValueError(f"{' and '.join(self.ways)}: a text is written in one of these ways: give one")
        if self.beam is not None or self.contrastive is not None:
            for name in changed(self.sampling, RANDOM):
                value = getattr(self.sampling, name)
                if (name, value) != ("temperature", 0):
                    raise ValueError(f"{name}={value}: concerns random choices, and a search makes none: leave it out")
        if "" in self.stop:
            raise ValueError("stop: an empty string ends every text before it begins: leave it out")

    def with_limit(self, max_new_tokens: int) -> "Request":
        """Returns the request with another largest number of new tokens."""
        return dataclasses.replace(self, max_new_tokens=max_new_tokens)

    @property
    def ways(self) -> list[str]:
        """The names of what is asked for beside plain sampling."""
        names = ("beam", "contrastive", "amateur", "speculation")
        return [name for name in names if getattr(self, name) is not None]


def changed(options: object, names: Iterable[str]) -> list[str]:
    """Returns which of the named fields of a dataclass do not have their default."""
    return [name for name in names if getattr(options, name) != getattr(type(options), name)]
