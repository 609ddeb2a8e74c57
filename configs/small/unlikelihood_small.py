"""A small model of Python that learns not to repeat itself (Welleck et al. 2019): nothing to download.

    lmjax train configs/small/unlikelihood_small.py
    lmjax sample runs/unlikelihood_small --prompt "def "

Data: the standard library's own sources in rows of 128 tokens. Beside the next token's likelihood, the
unlikelihood of all tokens of the context so far.

0.9M parameters, 400 steps, under a minute on two CPU cores. Validation loss: 4.20 nats a token (4.79 at step 200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import UnlikelihoodLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def unlikelihood_small() -> RunConfig:
    return RunConfig(
        name="unlikelihood_small",
        objective=UnlikelihoodLM(alpha=1.0),
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
