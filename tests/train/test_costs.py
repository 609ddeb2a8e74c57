"""What a token costs, by what its objective does with it."""

import dataclasses

import pytest
import tiny

from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.contrastive import Contrastive
from lmjax.objectives.multi_token import MultiTokenLM
from lmjax.objectives.sequential_tokens import SequentialMultiTokenLM
from lmjax.train.costs import flops_per_token

MODEL = dataclasses.replace(tiny.MODEL, windows=(None, 3))


def cost(objective) -> int:
    return flops_per_token(objective.traits, 1000, model=MODEL, sequence_length=10)


@pytest.mark.parametrize("kind", [MultiTokenLM, SequentialMultiTokenLM])
def test_every_further_token_costs_the_output_layer_and_the_attention_of_a_layer(kind):
    output_layer, attention = 6 * 64 * 16, 6 * 2 * (8 + 8) * 3  # three keys in the window of the last layer
    assert cost(CausalLM()) == 1000
    assert cost(kind(num_heads=3)) == 1000 + 2 * (output_layer + attention)


def test_a_text_that_is_compared_with_itself_is_read_twice():
    assert cost(Contrastive(pairs="given", negatives=1)) == 1000
    assert {cost(Contrastive(pairs=pairs)) for pairs in ("dropout", "crops")} == {2000}
