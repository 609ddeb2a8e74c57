"""T5's span corruption on a single stack, as UL2's paper compares it (Tay et al. 2022, sections 4.1 and 4.2).

    lmjax train configs/papers/span_corruption_decoder.py --data.path "data/c4/*.jsonl.zst"
    lmjax compile configs/papers/span_corruption_decoder.py --topology v5e:2x4

Data: documents as JSON lines with a field "text" (C4). A SentencePiece tokenizer of T5's size with 100 sentinels is
trained on them first. Rows are windows over all documents end to end; 15% of a window is dropped in spans of 3
tokens on average, the rest is read in both directions, and what was dropped is written after it.

134M parameters. Cost: 500,000 steps of 128 rows of 640 tokens are 41B tokens and 3e19 FLOPs, about nine hours on
eight A100s at 40% of their peak.

Expected: the paper compares such models on other tasks and reports no pretraining loss. This recipe has not been
run to its end here.

A row is one sequence of 640 positions, where the paper's has 512 of input and up to 512 of targets; the paper's
decoder has 167M parameters.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SpanCorruption
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import Adafactor


def span_corruption_decoder() -> RunConfig:
    return RunConfig(
        name="span_corruption_decoder",
        objective=SpanCorruption(density=0.15, mean_span=3.0),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            feedforward_width=2048,
            positions="relative",
            activation="swiglu",
            norm="rmsnorm",
            norm_epsilon=1e-6,
            tie_embeddings=False,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="sentencepiece_unigram",
            vocab_size=32_100,
            special_tokens=("<pad>", "</s>"),
            num_sentinels=100,
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/c4/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=Adafactor(learning_rate=1e-2, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=10_000),
        train=TrainConfig(steps=500_000, batch_size=128, sequence_length=640, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
