"""The evaluation step, and the steps of mixtures, on CPU devices in place of chips."""

import dataclasses

import jax

from lmjax.compile.step import compile_step, lower, lower_evaluation, resolved_learner
from lmjax.compile.topology import CHIPS, Topology
from lmjax.models.config import ModelConfig
from lmjax.objectives import CausalLM, MaskedLM, Mixture, Part
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig, TrainConfig

CHIP = Topology(name="v5e:1x2", chip=CHIPS["v5e"], extents=(1, 2), devices=jax.devices()[:2])


CONFIG = RunConfig(
    name="small",
    model=ModelConfig(width=32, num_layers=1, num_heads=2, feedforward_width=48),
    objective=Mixture(parts=(Part(name="next", objective=CausalLM()), Part(name="masked", objective=MaskedLM()))),
    tokenizer=TokenizerConfig(kind="bytes"),
    train=TrainConfig(batch_size=4, sequence_length=16, ema_decay=0.9),
    mesh=MeshConfig(fsdp=2),
)


def test_an_evaluation_has_a_third_of_the_flops_and_the_training_state_beside_it():
    step = compile_step(CONFIG, CHIP, evaluation=True)
    held = step.summary.held_bytes
    assert step.memory.held == held["optimizer"] + held["average"] > 2 * held["parameters"]
    assert step.work.flops_per_token == step.summary.flops_per_token / 3
    # The gradients of a training step would be as large as the parameters.
    assert held["parameters"] < step.memory.arguments < 1.2 * held["parameters"]
    assert step.memory.other < held["parameters"]


def test_of_objectives_that_take_turns_the_first_one_is_compiled_on_rows_of_the_mixture():
    config, learner = resolved_learner(CONFIG, CHIP)
    assert learner.objective == CausalLM() and learner.mixture == CONFIG.objective
    # The next token of the last position makes a row longer, and masked rows are cut to what they need.
    assert "tensor<4x17xi32>" in lower(config, learner).as_text()
    assert "tensor<4x17xi32>" in lower_evaluation(*resolved_learner(masked_first(), CHIP, evaluation=True)).as_text()


def masked_first() -> RunConfig:
    mixture = CONFIG.objective
    assert isinstance(mixture, Mixture)
    return dataclasses.replace(CONFIG, objective=dataclasses.replace(mixture, parts=mixture.parts[::-1]))
