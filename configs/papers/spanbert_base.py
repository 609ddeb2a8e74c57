"""SpanBERT base (Joshi et al. 2020): spans of words are hidden, and asked of the tokens beside them too.

    lmjax train configs/papers/spanbert_base.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/spanbert_base.py --topology v5e:2x4

Data: documents as JSON lines with a field "text"; the authors use Wikipedia and BookCorpus. A byte-level BPE
tokenizer of 29k ids with <mask> is trained on them first. Whole documents are packed into rows of 512 and do not
see each other; 15% of the words are hidden, in spans of 3.8 words on average.

110M parameters, 2M of them for the span-boundary term and not needed afterwards. Cost: 2,400,000 steps of 256
rows are 315B tokens and 2e20 FLOPs, about two and a half days on eight A100s at 40% of their peak.

Expected: the authors report no pretraining loss; fine-tuned on SQuAD 1.1 their base model has an F1 of 92.4 on the
development set (their repository). This recipe has not been run to its end here.

The paper's settings (its section 4.2) are for the large model (width 1024, 24 layers, 16 heads); the base model
was released with the code, whose command has a weight decay of 0.01. Not as in the paper: the share to hide is
counted in words, not in tokens; the boundary term is asked of 20 tokens of a span at most, which is the default of
the authors' code (15 in its command).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SpanMaskedLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def spanbert_base() -> RunConfig:
    return RunConfig(
        name="spanbert_base",
        objective=SpanMaskedLM(rate=0.15, length_p=0.2, max_words=10, boundary_weight=1.0),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=512,
            positions="learned",
            residual="post",
            final_norm=False,
            embedding_norm=True,
            norm="layernorm",
            norm_epsilon=1e-12,
            bias=True,
            head_bias=True,
            head_transform=True,
            residual_init="plain",
            activation="gelu",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=28_996,
            special_tokens=("<pad>", "<s>", "</s>", "<mask>"),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/wikibooks/*.jsonl.zst", packing="best_fit", add_bos=True, valid_fraction=0.001),
        optimizer=AdamW(learning_rate=1e-4, beta2=0.999, epsilon=1e-8, weight_decay=0.1, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
        train=TrainConfig(steps=2_400_000, batch_size=256, sequence_length=512, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
