"""T5 1.1 base (Shazeer 2020, "GLU Variants Improve Transformer", and the t5 library): T5 with gates, without dropout.

    lmjax train configs/papers/t5_1_1_base.py --data.path "data/c4/*.jsonl.zst"
    lmjax compile configs/papers/t5_1_1_base.py --topology v5e:4x4 --train.microbatches 16

Data: documents as JSON lines with a field "text"; the released model saw C4, 750 GB. A SentencePiece tokenizer of
32,000 pieces and 100 sentinels is trained on them first. Windows of 568 tokens over all documents, end to end,
become 512 that the encoder reads and 114 that the decoder writes.

248M parameters. Cost: 1,000,000 steps of 2,048 rows are 1.0T tokens read and 8.7e20 FLOPs, about ten days on eight
A100s at 40% of their peak.

Expected: Shazeer (2020, table 1) gives 1.633 nats a token of the targets to a model of these shapes after 524,288
steps of 128 rows, with a rate that falls linearly over the last tenth of them. That figure is his; this recipe has
not been run to its end here.

The weight of the log-normaliser (z_loss) is that of the t5 library. Not as released: the learning rate rises over the
first 10,000 steps, where it was 0.01 there.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SpanCorruption
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import Adafactor


def t5_1_1_base() -> RunConfig:
    return RunConfig(
        name="t5_1_1_base",
        objective=SpanCorruption(form="encoder_decoder", density=0.15, mean_span=3.0, z_loss=1e-4),
        model=ModelConfig(
            width=768,
            encoder_layers=12,
            num_layers=12,
            num_heads=12,
            feedforward_width=2048,
            positions="relative",
            relative_past_only=True,
            activation="geglu",
            norm_epsilon=1e-6,
            attention_scale=1.0,
            tie_embeddings=False,
            init_std=None,
            embedding_init_std=1.0,
            residual_init="plain",
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
        optimizer=Adafactor(learning_rate=0.01, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=10_000),
        train=TrainConfig(steps=1_000_000, batch_size=2048, sequence_length=512, eval_every=5000, eval_batches=10),
        mesh=MeshConfig(data=-1),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
