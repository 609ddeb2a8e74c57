"""A small encoder-decoder trained on UL2's mixture of seven denoisers (Tay et al. 2022): nothing to download.

    lmjax train configs/small/ul2_encoder_decoder_small.py

Data: windows over the standard library's own sources, end to end. Each is given one of the denoisers, named by
the first token the encoder reads: [R] regular spans, [X] long spans or many, [S] the window's last quarter.

1.2M parameters, 800 steps, about a minute on two CPU cores. Validation loss: 4.46 nats a token of the targets
(5.20 at step 200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import UL2
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def ul2_encoder_decoder_small() -> RunConfig:
    return RunConfig(
        name="ul2_encoder_decoder_small",
        objective=UL2(form="encoder_decoder"),
        model=ModelConfig(
            width=128,
            encoder_layers=2,
            num_layers=2,
            num_heads=4,
            positions="relative",
            relative_past_only=True,
            init_std=0.05,
            execution=ExecutionConfig(scan_layers=False, remat="none"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=2048,
            named=("[R]", "[S]", "[X]"),
            num_sentinels=32,
            max_train_bytes=8_000_000,
        ),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=32, sequence_length=64, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
