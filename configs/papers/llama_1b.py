r"""A decoder of the shapes of Llama 3.2 1B (Llama Team 2024, "The Llama 3 Herd of Models") on web text.

    lmjax train configs/papers/llama_1b.py --data.path "data/web/**/*.jsonl.zst" --mesh.fsdp 8
    lmjax compile configs/papers/llama_1b.py --topology v5e:8x8 --mesh.fsdp 64 --train.microbatches 4 \
      --model.execution.remat products

Data: documents as JSON lines with a field "text" (DCLM, FineWeb-Edu, Dolma, ...), 100B tokens or more. A
byte-level BPE tokenizer of Llama's size is trained on them first. Documents do not see each other.

1.24B parameters. Cost: 50,000 steps of 2.1M tokens are 105B tokens and 9.5e20 FLOPs, about eleven days on
eight A100s at 40% of their peak, or ten hours on 64 H100s. Parameters, gradients and optimizer state, 20 GB,
are split over mesh.fsdp devices. More devices join as mesh.data; train.microbatches x all devices must divide
the batch of 512 rows, so that 64 devices go with --train.microbatches 4. With --model.execution.remat products
the backward pass keeps the results of matrix products and of the attention kernel: 10% fewer cycles, for 15 GiB a
chip with mesh.fsdp=64.

Expected: the fit of Hoffmann et al. (2022, approach 3) gives 2.36 nats a token for this size and these
tokens, of their text and their smaller tokenizer. This recipe has not been run to its end here.

The learning rate stays up until the last fifth (WSD, Hu et al. 2024), so that a run can be made longer from
any checkpoint before it.
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


def llama_1b() -> RunConfig:
    return RunConfig(
        name="llama_1b",
        model=ModelConfig(
            width=2048,
            num_layers=16,
            num_heads=32,
            num_kv_heads=8,
            feedforward_width=8192,
            rope_theta=500_000.0,
            activation="swiglu",
            norm="rmsnorm",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=128_256,
            special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=4e-4, beta2=0.95, weight_decay=0.1),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2000, decay_fraction=0.2),
        train=TrainConfig(
            steps=50_000, batch_size=512, sequence_length=4096, microbatches=16, eval_every=1000, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
