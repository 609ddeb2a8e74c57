"""A transformer of Wikipedia articles with token-level unlikelihood (Welleck et al. 2020).

    lmjax train configs/papers/unlikelihood.py --data.path "data/wikitext103/*.jsonl"
    lmjax compile configs/papers/unlikelihood.py --topology v5e:2x4

Data: WikiText-103 as JSON lines, an article each, 103M words. Beside the next token's likelihood, with weight 1, the
unlikelihood of all distinct tokens of the context.

235M parameters. Cost: 150,000 steps of 36,864 tokens are 5.5B tokens and 8.6e18 FLOPs, two and a half hours on eight
A100s at 40% of their peak; the candidates, 1,536 ids a position, are gathered from logits made a second time in the
backward pass.

Expected: in the paper (table 2, test) 28.3% of the 4-grams of greedy continuations are repeated, 44.2% after plain
training, at a perplexity of 26.9 a word in place of 25.6; far fewer with the sequence-level loss, with which
`sequence_unlikelihood` goes on. Those figures are theirs; this recipe has not been run to its end here.

As in the paper: 16 layers of width 1024, 8 heads and feed-forward width 4096, rows of 1,536 tokens, 150,000 updates;
in the authors' scripts, 24 rows a batch.
Not as in the paper: byte-level BPE and not words, AdamW, rotary positions.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import UnlikelihoodLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def unlikelihood() -> RunConfig:
    return RunConfig(
        name="unlikelihood",
        objective=UnlikelihoodLM(alpha=1.0),
        model=ModelConfig(
            width=1024,
            num_layers=16,
            num_heads=8,
            feedforward_width=4096,
            norm="layernorm",
            bias=True,
            activation="relu",
            dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=32_768, max_train_bytes=200_000_000),
        data=DataConfig(path="data/wikitext103/*.jsonl", valid_fraction=0.005),
        optimizer=AdamW(learning_rate=5e-4, beta2=0.98, weight_decay=0.01),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=4000, final_fraction=0.01),
        train=TrainConfig(steps=150_000, batch_size=24, sequence_length=1536, eval_every=10_000, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=2000, keep_every=10_000),
    )
