"""BERT base as its paper has it (Devlin et al. 2019): masked tokens and next-sentence prediction.

    lmjax train configs/papers/bert_base_nsp.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/bert_base_nsp.py --topology v5e:2x4

Data: passages of a few sentences as JSON lines with a field "text"; the authors use Wikipedia and BookCorpus, 16 GB.
A byte-level BPE tokenizer of 30k ids with <mask>, <cls> and <sep> is trained on them first. Passages are packed into
rows and do not see each other; each is cut in two between sentences, and half of the second parts are exchanged
with those of other passages of the row. A passage alone in its row trains masked tokens only, so most should be
well below 128 tokens.

110M parameters. Cost: 1,000,000 steps of 256 rows, the first nine tenths of them 128 tokens long and the others 512,
are 43B tokens and 3e19 FLOPs, about eight hours on eight A100s at 40% of their peak.

Expected: for next-sentence prediction the authors report an accuracy of 97% to 98% (section 3.1), and no loss;
fine-tuned, an average of 79.6 on GLUE (table 1). This recipe has not been run to its end here.

Not as in the paper: masks and pairs are drawn anew at every step, and not ten times before; a wrong second part
comes from the same row and not from the whole corpus; a tokenizer that keeps case.
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


def bert_base_nsp() -> RunConfig:
    return RunConfig(
        name="bert_base_nsp",
        # Rows of 125 tokens and one pair's markers, or of four times as many.
        objective=SentencePairs(task="next_sentence", rate=0.15, tokens_per_pair=125),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
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
            activation="gelu",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=30_522, max_train_bytes=200_000_000),
        data=DataConfig(path="data/wikibooks/*.jsonl.zst", packing="best_fit", add_eos=False, valid_fraction=0.001),
        optimizer=AdamW(learning_rate=1e-4, beta2=0.999, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=256,
            sequence_length=512,
            sequence_warmup=((900_000, 128),),
            warmup_keeps="rows",
            eval_every=5000,
            eval_batches=0,
        ),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
