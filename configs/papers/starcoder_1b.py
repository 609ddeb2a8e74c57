"""StarCoderBase 1B (Li et al. 2023): a code model that fills in the middle at a rate of one half.

    lmjax train configs/papers/starcoder_1b.py --data.path "data/the-stack/*.jsonl.zst"
    lmjax compile configs/papers/starcoder_1b.py --topology v5e:8x8 --mesh.fsdp 64 --train.microbatches 4

Data: source files as JSON lines with a field "text" (The Stack). A byte-level BPE tokenizer of 49k ids with the
three markers is trained on them first. Rows are windows of 8,192 tokens over all files end to end; what of each
file lies in a row is rewritten with probability 0.5, half of these in PSM and half in SPM order (Bavarian et al.
2022, context-level), and what the markers push over the row's end is cut off.

1.1B parameters. Cost: 500,000 steps of 2M tokens are 1T tokens and 9e21 FLOPs, about a week on 128 A100s at
40% of their peak.

Expected: the authors report no loss; their model solves 15.2% of HumanEval at the first attempt. This recipe has
not been run to its end here.

Shape, steps and tokens are those of the 1B model. The optimizer's figures are those of the paper for the 15.5B model
and of the authors' script for the 7B one; the rule for initial weights is the script's.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import FillInMiddle
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def starcoder_1b() -> RunConfig:
    return RunConfig(
        name="starcoder_1b",
        objective=FillInMiddle(rate=0.5, spm_fraction=0.5, documents_per_row=0),
        model=ModelConfig(
            width=2048,
            num_layers=24,
            num_heads=16,
            num_kv_heads=1,
            feedforward_width=8192,
            max_length=8192,
            positions="learned",
            norm="layernorm",
            bias=True,
            activation="gelu_tanh",
            dropout=0.1,
            attention_dropout=0.1,
            init_std=2048**-0.5,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=49_152,
            special_tokens=("<|endoftext|>",),
            named=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/the-stack/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=3e-4, beta2=0.95, epsilon=1e-8, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(steps=500_000, batch_size=256, sequence_length=8192, eval_every=1000, eval_batches=20),
        checkpoint=CheckpointConfig(every_steps=1000, keep_every=50_000),
    )
