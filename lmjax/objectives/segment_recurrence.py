"""Causal language modelling with a memory of the rows before: Transformer-XL (Dai et al. 2019).

Row b of a step goes on where row b of the step before ended (``data.packing="streams"``), and its layers
attend to what they held then. Training and evaluation both carry the memory from step to step; it is part of
the training state, so a resumed run remembers.
"""

import dataclasses

import jax

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.segment_memory import SegmentMemory, empty_memory, run_with_memory
from lmjax.models.transformer import Transformer
from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.parts.objective import Terms
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentRecurrentLM(CausalLM):
    """Next-token prediction with a memory; documents are not kept apart, as in the paper."""

    memory_length: int = 128
    """How many states of the rows before each layer keeps."""

    def __post_init__(self):
        super().__post_init__()
        if self.memory_length < 1:
            raise ValueError(f"objective.memory_length={self.memory_length}: must be at least 1")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses positions that are not relative, and layers that remember otherwise."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if model.positions in ("learned", "sinusoidal"):
            raise ValueError(
                f"model.positions={model.positions!r}: a memory lies before position 0, which absolute positions do "
                f"not have: use rope, alibi, relative or none"
            )
        if model.recurrent:
            raise ValueError(
                f"model.mixers={model.mixers}: {', '.join(model.recurrent)} keep a state and not a memory of rows: "
                f"use attention alone with SegmentRecurrentLM"
            )

    def check_data(self, data: DataConfig) -> None:
        """Refuses rows that do not go on where others ended."""
        super().check_data(data)
        if data.packing != "streams":
            raise ValueError(
                f"data.packing={data.packing!r}: SegmentRecurrentLM reads rows that go on from step to step: set it "
                f"to streams"
            )

    def initial_carry(self, model: ModelConfig, num_rows: int) -> SegmentMemory:
        """Returns an empty memory for each row."""
        return empty_memory(model, num_rows=num_rows, length=self.memory_length)

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the loss, with the memory of these rows as what is carried to the next step."""
        hidden, memory = run_with_memory(model, batch.inputs.tokens_BT, batch.carry, key=key)
        loss = self.token_loss(model, model.head_states(hidden.states_BTD), batch.targets_BP, batch.weights["loss"])
        return Terms({"loss": loss}, hidden.routing, carry=memory)
