"""HuBERT base (Hsu et al. 2021) on spectra, with the clusters of a random projection (Chiu et al. 2022).

    lmjax train configs/papers/hubert_base.py --data.path "data/librispeech/*.jsonl.zst"
    lmjax compile configs/papers/hubert_base.py --topology v5e:2x4

Data: recordings as JSON lines with a field "text": a frame every 20 ms, 80 log-mel energies each, scaled to the
numbers from 0 to 127 with mean 64 and deviation 20 and written as the characters of these codes
(docs/objectives/masked_reconstruction.md has the lines of Python for it). The authors use the 960 hours of
LibriSpeech, which are 14 GB of such text.

87M parameters. Cost: 250,000 steps of 184 recordings of 15 s are 35B frames and 2e19 FLOPs, about six hours on eight
A100s at 40% of their peak.

Expected: fine-tuned on 100 hours of transcribed speech after a second such training on clusters of its own states,
the authors' model, with a 4-gram language model, has a word error rate of 3.4% on clean and 8.1% on other test speech
(table II). This recipe has not been run to its end here.

Not as in the paper: spectra in place of a convolutional network over the waveform; clusters by a frozen random
projection and not by k-means (objective.centroids takes those); one iteration; sinusoidal positions in place of a
convolution; no layers are dropped.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import FeatureSource, MaskedFrames
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def hubert_base() -> RunConfig:
    return RunConfig(
        name="hubert_base",
        objective=MaskedFrames(
            source=FeatureSource(kind="values", width=80, offset=64.0, scale=20.0),
            start_rate=0.08,
            span=10,
            num_clusters=8192,
            temperature=0.1,
            cluster_width=256,
        ),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            positions="sinusoidal",
            residual="post",
            final_norm=False,
            embedding_norm=True,
            norm="layernorm",
            bias=True,
            residual_init="plain",
            activation="gelu",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path="data/librispeech/*.jsonl.zst", packing="examples", add_eos=False, valid_fraction=0.01),
        optimizer=AdamW(learning_rate=5e-4, beta2=0.98, epsilon=1e-6, weight_decay=0.01, clip_norm=10.0),
        schedule=ScheduleConfig(kind="linear", warmup_steps=20_000),
        train=TrainConfig(steps=250_000, batch_size=184, sequence_length=768, eval_every=2500, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=2500, keep_every=50_000),
    )
