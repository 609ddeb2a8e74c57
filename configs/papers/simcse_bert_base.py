"""BERT base as an encoder of sentences, without labels (SimCSE: Gao et al. 2021).

    lmjax train configs/papers/simcse_bert_base.py --data.path "data/sentences/*.txt" \\
        --tokenizer.path runs/bert_base/tokenizer
    lmjax compile configs/papers/simcse_bert_base.py --topology v5e:2x4

Data: a sentence a line; the paper takes a million of the English Wikipedia. Each is read twice under different
dropout, and the two vectors of its first token are a pair; the other sentences of the batch are the negatives.
Sentences longer than 32 tokens are cut.

109M parameters, which begin with those of runs/bert_base (configs/papers/bert_base.py), of which the tokenizer is, too.
Cost: 15,625 steps of 64 sentences are one pass over a million, minutes on one A100.

Expected: the paper reports a Spearman correlation of 76.3 on average over seven tasks of sentence similarity
(table 5), from BERT's own checkpoint, with a dense layer on the first token's state in training, which is not here,
and at the step that is best on the development set of one of them. This recipe has not been run to its end here.
Validation has no dropout: it tells how evenly the vectors are spread, not whether pairs are found.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import Contrastive
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def simcse_bert_base() -> RunConfig:
    return RunConfig(
        name="simcse_bert_base",
        objective=Contrastive(pairs="dropout", pooling="cls", temperature=0.05, max_documents=1),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=512,
            positions="learned",
            norm="layernorm",
            norm_epsilon=1e-12,
            bias=True,
            head_bias=True,
            activation="gelu",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=30_522,
            special_tokens=("<pad>", "<s>", "</s>", "<mask>"),
        ),
        data=DataConfig(
            path="data/sentences/*.txt",
            document_separator="\n",
            packing="examples",
            add_bos=True,
            valid_fraction=0.01,
        ),
        optimizer=AdamW(learning_rate=3e-5, beta2=0.999, weight_decay=0.0),
        schedule=ScheduleConfig(kind="linear", warmup_steps=0),
        train=TrainConfig(steps=15_625, batch_size=64, sequence_length=32, eval_every=250, init_from="runs/bert_base"),
        checkpoint=CheckpointConfig(every_steps=1000),
    )
