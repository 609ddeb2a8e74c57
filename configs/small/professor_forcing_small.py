"""A small model of Python with professor forcing (Lamb et al. 2016): nothing to download.

    lmjax train configs/small/professor_forcing_small.py
    lmjax sample runs/professor_forcing_small --prompt "def "

Data: the standard library's own sources in rows of 128 tokens. In each step and row the model continues a prompt
of 16 tokens by 32, and a discriminator tells the states it has there from those it has on the text itself. Samples
at temperature 0.5 are far enough from text for a discriminator to learn of them in a minute; at 1 it does not.

1.1M parameters, 400 steps, about a minute on two CPU cores. Validation loss: 4.50 nats a token (5.11 at step 200).
The discriminator is right about 0.5 of the pieces at first, about 0.75 after 300 steps.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import ProfessorForcing
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def professor_forcing_small() -> RunConfig:
    return RunConfig(
        name="professor_forcing_small",
        objective=ProfessorForcing(weight=0.1, prompt_length=16, free_tokens=32, temperature=0.5),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=400, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=200),
    )
