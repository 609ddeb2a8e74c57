"""GPT-2's weights trained further on text of a new domain, with tokens of its own (continual pretraining).

    lmjax train configs/small/continue_from_hf.py

It begins with runs/gpt2_extended, what `lmjax import` made of a folder of transformers and `lmjax extend` of that:
docs/how-to/continue-pretraining.md has the commands. A new token begins as the mean of those it was written with; the
table grows from 50,257 rows to 50,304 or more, and then model.vocab_size here must be what `lmjax extend` says.

Data: three rows in four are of the new domain, the fourth replays old text (web pages are a fair stand-in for what
GPT-2 read); both are prepared with the extended tokenizer. The learning rate is warmed up again to a fifth of what it
was in the beginning and decays to nothing (Gupta et al. 2023; Ibrahim et al. 2024, who replay as well); a higher one
learns faster and forgets more.

124M parameters. Cost: 10,000 steps of 0.5M tokens are 5B tokens and 4e18 FLOPs, about ten hours on one A100.

Expected: depends on the domain; `lmjax compare` prints bits per byte before and after on both texts and the share
retained. This recipe has not been run to its end here; docs/how-to/continue-pretraining.md runs all of it in small.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def continue_from_hf() -> RunConfig:
    return RunConfig(
        name="continue_from_hf",
        model=ModelConfig(
            vocab_size=50_304,
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=1024,
            positions="learned",
            activation="gelu_tanh",
            norm="layernorm",
            bias=True,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(path="runs/gpt2_extended/tokenizer"),
        data=DataConfig(mixture=("data/new", "data/old"), mixture_weights=(0.75, 0.25), packing="segments"),
        optimizer=AdamW(learning_rate=1.2e-4, beta2=0.95, weight_decay=0.1),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=200, decay_fraction=0.3),
        train=TrainConfig(
            steps=10_000,
            batch_size=512,
            sequence_length=1024,
            microbatches=32,
            init_from="runs/gpt2_extended",
            eval_every=500,
        ),
        checkpoint=CheckpointConfig(every_steps=500),
    )
