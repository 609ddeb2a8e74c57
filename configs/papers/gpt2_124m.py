"""GPT-2 small (Radford et al. 2019) on web text, trained as nanoGPT trains it.

    lmjax train configs/papers/gpt2_124m.py --data.path "data/openwebtext/*.jsonl.zst"
    lmjax compile configs/papers/gpt2_124m.py --topology v5e:2x4

Data: documents as JSON lines with a field "text" (OpenWebText or another web corpus; .zst needs the extra
`data`), or text files with --data.document-separator. A byte-level BPE tokenizer of GPT-2's size is trained
on them first.

124M parameters. Cost: 600,000 steps of 491,520 tokens are 295B tokens and 2.5e20 FLOPs, about three days on
eight A100s at 40% of their peak. On eight devices each of the five microbatches is 12 rows a device, as in
nanoGPT.

Expected: nanoGPT reports a validation loss of about 2.85 nats a token on OpenWebText, with GPT-2's own
tokenizer. That figure is theirs; this recipe has not been run to its end here.

Unlike nanoGPT's training script, and like the paper, projections and norms have biases.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def gpt2_124m() -> RunConfig:
    return RunConfig(
        name="gpt2_124m",
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=1024,
            positions="learned",
            norm="layernorm",
            bias=True,
            activation="gelu_tanh",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=50_257,
            special_tokens=("<|endoftext|>",),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/openwebtext/*.jsonl.zst", valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=6e-4, beta2=0.95, weight_decay=0.1, decay_embeddings=True),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(
            steps=600_000, batch_size=480, sequence_length=1024, microbatches=5, eval_every=1000, eval_batches=0
        ),
        checkpoint=CheckpointConfig(every_steps=1000, keep_every=50_000),
    )
