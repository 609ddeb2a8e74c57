"""A small model of Python that predicts four tokens at once (Gloeckle et al. 2024): nothing to download.

    lmjax train configs/small/multi_token_small.py
    lmjax sample runs/multi_token_small --prompt "def "

Data: the standard library's own sources in rows of 128 tokens. Validation reports the next token's loss as
`loss` and that of the tokens after it as `token_2/loss` and so on; sampling uses the first head alone.

1.5M parameters, 400 steps, about a minute on two CPU cores. Validation loss: 5.09 for the next token (5.69 at step
200), 5.76, 6.06 and 6.18 for those after it.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import MultiTokenLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def multi_token_small() -> RunConfig:
    return RunConfig(
        name="multi_token_small",
        objective=MultiTokenLM(num_heads=4),
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
