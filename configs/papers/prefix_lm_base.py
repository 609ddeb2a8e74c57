"""A prefix language model on a single stack, as T5's paper compares it (Raffel et al. 2020, section 3.2).

    lmjax train configs/papers/prefix_lm_base.py --data.path "data/c4/*.jsonl.zst"
    lmjax compile configs/papers/prefix_lm_base.py --topology v5e:2x4

Data: documents as JSON lines with a field "text"; the paper uses C4, 750 GB. A SentencePiece tokenizer of 32,000
pieces is trained on them first. Windows of 512 tokens over all documents, end to end, are each cut at a random
place; what is before is read in both directions, what comes after is predicted.

110M parameters. Cost: 524,288 steps of 128 rows are 34B tokens and 2.5e19 FLOPs, about seven hours on eight A100s at
40% of their peak.

Expected: the paper compares such models on other tasks and reports no pretraining loss. This recipe has not been
run to its end here.

Not as in the paper: the learning rate rises over the first 10,000 steps, where the paper holds 0.01; the tokenizer is
trained on English alone.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import PrefixLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import Adafactor


def prefix_lm_base() -> RunConfig:
    return RunConfig(
        name="prefix_lm_base",
        objective=PrefixLM(z_loss=1e-4),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            feedforward_width=3072,
            positions="relative",
            activation="relu",
            norm_epsilon=1e-6,
            attention_scale=1.0,
            logit_scale=768**-0.5,
            dropout=0.1,
            attention_dropout=0.1,
            init_std=None,
            embedding_init_std=1.0,
            residual_init="plain",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="sentencepiece_unigram",
            vocab_size=32_000,
            special_tokens=("<pad>", "</s>"),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/c4/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=Adafactor(learning_rate=0.01, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=10_000),
        train=TrainConfig(steps=524_288, batch_size=128, sequence_length=512, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
