"""A small encoder trained by masking spans of words (SpanBERT: Joshi et al. 2020): nothing to download.

    lmjax train configs/small/spanbert_small.py

Data: windows over the standard library's own sources, end to end, of which 15% of the words are hidden in runs
of 1 to 10 and asked of the tokens beside them too; a word is whatever stands between white space.

0.98M parameters, 800 steps, about a minute on two CPU cores. Validation loss: 5.76 nats a hidden token (6.40 at step
200), and 6.03 asked of the tokens beside the span (6.39); without that term (--objective.boundary-weight 0) 5.57.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SpanMaskedLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def spanbert_small() -> RunConfig:
    return RunConfig(
        name="spanbert_small",
        objective=SpanMaskedLM(boundary_weight=1.0),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
