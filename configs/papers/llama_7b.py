"""Llama 2 7B (Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models") on web text.

    lmjax train configs/papers/llama_7b.py --data.path "data/web/**/*.jsonl.zst"
    lmjax compile configs/papers/llama_7b.py --topology v5e:16x16

Data: documents as JSON lines with a field "text" (DCLM, FineWeb-Edu, Dolma, ...), 2T tokens. A SentencePiece tokenizer
of 32,000 ids, with bytes for what it does not know, is trained on them first. Documents do not see each other, which
the paper does not say.

6.7B parameters. Cost: 477,000 steps of 4.2M tokens are 2T tokens and 9.2e22 FLOPs, about five weeks on 256 TPU v5e at
60% of their peak; the paper used 184,320 hours of A100s. Parameters, gradients and optimizer state, 108 GB, are split
over these chips, and each has one row in flight.

Expected: figure 5 of the paper shows a loss of training of about 1.75 nats a token after 2T tokens, of their data and
their tokenizer. This recipe has not been run to its end here.

As in the paper (section 2.2): the model, which is that of LLaMA 7B (Touvron et al. 2023, "LLaMA: Open and Efficient
Foundation Language Models"), rows of 4,096 tokens (LLaMA: 2,048), batch, peak rate, AdamW with its betas and epsilon,
decay and clipping, 2,000 steps of warm-up, a cosine down to a tenth.
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


def llama_7b() -> RunConfig:
    return RunConfig(
        name="llama_7b",
        model=ModelConfig(
            width=4096,
            num_layers=32,
            num_heads=32,
            feedforward_width=11_008,
            activation="swiglu",
            norm="rmsnorm",
            tie_embeddings=False,
            execution=ExecutionConfig(dtype="bfloat16", remat="products", table_gradient="microbatch"),
        ),
        tokenizer=TokenizerConfig(
            kind="sentencepiece_bpe",
            vocab_size=32_000,
            special_tokens=("<s>", "</s>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=3e-4, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(
            steps=477_000, batch_size=1024, sequence_length=4096, microbatches=4, eval_every=1000, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, fsdp=256),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
