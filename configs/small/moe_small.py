"""A small mixture of experts of Python (Mixtral's layer, dropless): nothing to download.

    lmjax train configs/small/moe_small.py
    lmjax sample runs/moe_small --prompt "def "

Data: the standard library's own sources in rows of 128 tokens. Every layer has 8 experts, of which a token goes to 2,
together as wide as an ordinary feed-forward layer. `experts/balance` and `experts/max_load` (1 is even) are
among the metrics. The same model without them: `--model.experts.number 0`.

2.9M parameters, 1.1M of them for a token, 400 steps, about a minute on two CPU cores. Validation loss: 4.19 nats a
token (4.86 at step 200); without experts 4.20.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.routing import ExpertsConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def moe_small() -> RunConfig:
    return RunConfig(
        name="moe_small",
        model=ModelConfig(
            width=128,
            num_layers=4,
            num_heads=4,
            feedforward_width=384,
            experts=ExpertsConfig(number=8, per_token=2, width=192, balance_loss=0.01, router_z_loss=0.001),
            execution=ExecutionConfig(scan_layers=False, remat="none"),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=400, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=200),
    )
