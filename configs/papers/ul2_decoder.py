"""UL2's mixture of seven denoisers on a single stack (Tay et al. 2022, sections 3 and 4).

    lmjax train configs/papers/ul2_decoder.py --data.path "data/c4/*.jsonl.zst"
    lmjax compile configs/papers/ul2_decoder.py --topology v5e:2x4

Data: documents as JSON lines with a field "text" (C4). A SentencePiece tokenizer of T5's size with the three mode
tokens and enough sentinels is trained on them first. Rows are windows over all documents end to end, each given a
denoiser of the paper's seven, which its first token names.

134M parameters. Cost: 500,000 steps of 128 rows of 1,024 tokens are 66B tokens and 5e19 FLOPs, about 15 hours on
eight A100s at 40% of their peak.

Expected: the paper compares such models on other tasks and reports no pretraining loss. This recipe has not been
run to its end here.

A row is one sequence of 1,024 positions, where the paper's has 512 of input and 512 of targets; the paper's
decoder has 167M parameters.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import UL2
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import Adafactor


def ul2_decoder() -> RunConfig:
    return RunConfig(
        name="ul2_decoder",
        objective=UL2(),
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
            vocab_size=32_256,
            special_tokens=("<pad>", "</s>"),
            named=("[R]", "[S]", "[X]"),
            num_sentinels=128,
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/c4/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=Adafactor(learning_rate=1e-2, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=10_000),
        train=TrainConfig(steps=500_000, batch_size=128, sequence_length=1024, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
