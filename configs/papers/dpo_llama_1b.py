"""Preferences for the model of configs/papers/llama_1b.py (DPO: Rafailov et al. 2023).

    lmjax train configs/papers/dpo_llama_1b.py --data.path "data/preferences/*.jsonl.zst" --mesh.fsdp 8 \\
        --tokenizer.path runs/llama_1b/tokenizer
    lmjax compile configs/papers/dpo_llama_1b.py --topology v5e:4x4

Data: JSON lines with the fields "prompt", "chosen" and "rejected", such as the 170,000 dialogues of Anthropic's
helpful and harmless assistant. The prompt is cut at its beginning where it does not fit. The run begins with the
weights of runs/llama_1b and has its tokenizer; the paper trains the model on the chosen answers first.

2.47B parameters, half of them the reference, which has no gradient and no optimizer state. Cost: 2,500 steps of 64
pairs are one pass over the data, at most 0.66B tokens and 6.5e18 FLOPs, about two hours on eight A100s.

Expected: the paper (section 6.2, a model of 2.8B parameters) finds that of the methods it compares only DPO's
answers, and the best of 128 samples, are preferred to the data's own. This recipe has not been run to its end here.

Loss, batch, learning rate and warm-up are those of the paper's appendix B, but for AdamW in place of RMSProp; the
gradient's norm is limited as in the authors' code, which has rows of 512 tokens, not 2,048.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import DPO
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def dpo_llama_1b() -> RunConfig:
    return RunConfig(
        name="dpo_llama_1b",
        objective=DPO(beta=0.1),
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
        ),
        data=DataConfig(
            path="data/preferences/*.jsonl.zst",
            prompt_field="prompt",
            members=("chosen", "rejected"),
            packing="examples",
            add_bos=True,
            valid_fraction=0.01,
        ),
        optimizer=AdamW(learning_rate=1e-6, beta2=0.99, weight_decay=0.0, clip_norm=10.0),
        schedule=ScheduleConfig(kind="constant", warmup_steps=150),
        train=TrainConfig(
            steps=2500,
            batch_size=64,
            sequence_length=2048,
            microbatches=4,
            eval_every=250,
            watchdog_minutes=30,
            init_from="runs/llama_1b",
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
        checkpoint=CheckpointConfig(every_steps=250),
    )
