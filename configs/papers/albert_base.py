"""ALBERT base (Lan et al. 2020): one block in every layer, a narrow token table, sentence order.

    lmjax train configs/papers/albert_base.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/albert_base.py --topology v5e:4x4 --train.microbatches 32

Data: documents as JSON lines with a field "text"; the authors use Wikipedia and BookCorpus, 16 GB. A SentencePiece
tokenizer of 30k ids with <mask>, <cls> and <sep> is trained on them first. Documents are packed into rows of 512,
each is cut in two between sentences, and half of them have their parts exchanged.

12M parameters, those of a block used twelve times. Cost: 125,000 steps of 4,096 rows are 260B tokens and 1.6e20 FLOPs,
about two days on eight A100s at 40% of their peak.

Expected: after these steps the authors report an accuracy of 54.0% on masked tokens and 86.5% on sentence order, and
an average of 80.1 on five tasks (table 5). This recipe has not been run to its end here.

Not as in the paper: AdamW in place of LAMB, with a learning rate for it (LAMB's is 1.76e-3); single tokens are masked,
not n-grams of up to three words; a tokenizer that keeps case; a pair is a whole document, or as much of it as fits a
row.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SentencePairs
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def albert_base() -> RunConfig:
    return RunConfig(
        name="albert_base",
        objective=SentencePairs(task="sentence_order", rate=0.15, tokens_per_pair=256),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            share_layers=True,
            embedding_width=128,
            max_length=512,
            positions="learned",
            num_types=2,
            pooler=True,
            pair_head=True,
            residual="post",
            final_norm=False,
            embedding_norm=True,
            norm="layernorm",
            norm_epsilon=1e-12,
            bias=True,
            head_bias=True,
            head_transform=True,
            residual_init="plain",
            activation="gelu_tanh",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="sentencepiece_unigram", vocab_size=30_000, max_train_bytes=200_000_000),
        data=DataConfig(path="data/wikibooks/*.jsonl.zst", packing="best_fit", add_eos=False, valid_fraction=0.001),
        optimizer=AdamW(learning_rate=1e-3, beta2=0.999, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=3125),
        train=TrainConfig(
            steps=125_000, batch_size=4096, sequence_length=512, microbatches=4, eval_every=2500, eval_batches=0
        ),
        checkpoint=CheckpointConfig(every_steps=2500, keep_every=25_000),
    )
