"""Llama 2 70B (Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models") on web text.

    lmjax train configs/papers/llama_70b.py --data.path "data/web/**/*.jsonl.zst"
    lmjax compile configs/papers/llama_70b.py --topology v5p:8x8x16

Data: documents as JSON lines with a field "text" (DCLM, FineWeb-Edu, Dolma, ...), 2T tokens. A SentencePiece tokenizer
of 32,000 ids, with bytes for what it does not know, is trained on them first. Documents do not see each other, which
the paper does not say.

69.0B parameters. Cost: 477,000 steps of 4.2M tokens are 2T tokens and 8.9e23 FLOPs, about five weeks on the 1,024 chips
of a TPU v5p-2048 at 60% of their peak; the paper used 1,720,320 hours of A100s. Parameters, gradients and optimizer
state, 1.1 TB, are split over 512 of these chips, and each chip has one row of a batch.

Expected: figure 5 of the paper shows a loss of training of about 1.5 nats a token after 2T tokens, of their data and
their tokenizer. This recipe has not been run to its end here.

As in the paper (section 2.2 and table 1): the model with eight key-value heads, rows of 4,096 tokens, batch, peak rate,
AdamW with its betas and epsilon, decay and clipping, 2,000 steps of warm-up, a cosine down to a tenth.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def llama_70b() -> RunConfig:
    return RunConfig(
        name="llama_70b",
        model=ModelConfig(
            width=8192,
            num_layers=80,
            num_heads=64,
            num_kv_heads=8,
            feedforward_width=28_672,
            activation="swiglu",
            norm="rmsnorm",
            tie_embeddings=False,
            execution=ExecutionConfig(dtype="bfloat16", remat="products"),
        ),
        tokenizer=TokenizerConfig(
            kind="sentencepiece_bpe",
            vocab_size=32_000,
            special_tokens=("<s>", "</s>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=1.5e-4, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(
            steps=477_000, batch_size=1024, sequence_length=4096, microbatches=1, eval_every=1000, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, fsdp=512),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
