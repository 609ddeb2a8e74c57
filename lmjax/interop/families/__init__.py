"""Model families, one small file each; :data:`FAMILIES` has them by name, which is usually their ``model_type``."""

from lmjax.interop.families.albert import ALBERT
from lmjax.interop.families.bart import BART
from lmjax.interop.families.bert import BERT, CAMEMBERT, ROBERTA, XLM_ROBERTA
from lmjax.interop.families.deepseek_v3 import DEEPSEEK_V3
from lmjax.interop.families.distilbert import DISTILBERT
from lmjax.interop.families.electra import ELECTRA, ELECTRA_DISCRIMINATOR
from lmjax.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from lmjax.interop.families.gpt2 import GPT2
from lmjax.interop.families.gpt_neo import GPT_NEO
from lmjax.interop.families.gpt_neox import GPT_NEOX
from lmjax.interop.families.gpt_oss import GPT_OSS
from lmjax.interop.families.gptj import GPTJ
from lmjax.interop.families.granite import GRANITE
from lmjax.interop.families.llama import LLAMA
from lmjax.interop.families.mamba2 import MAMBA2
from lmjax.interop.families.mistral import MISTRAL, MIXTRAL
from lmjax.interop.families.modernbert import MODERNBERT
from lmjax.interop.families.modernbert_decoder import MODERNBERT_DECODER
from lmjax.interop.families.olmo import OLMO
from lmjax.interop.families.olmo2 import OLMO2, OLMO3
from lmjax.interop.families.opt import OPT
from lmjax.interop.families.phi import PHI, PHI3
from lmjax.interop.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from lmjax.interop.families.smollm3 import SMOLLM3
from lmjax.interop.families.starcoder import GPT_BIGCODE, STARCODER2
from lmjax.interop.families.t5 import MT5, T5, UMT5
from lmjax.interop.family import Family

_ALL = (
    LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3, MIXTRAL, QWEN3_MOE, GPT2, GPT_NEO, GPT_NEOX,
    GPTJ, OPT, BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT, ELECTRA, ELECTRA_DISCRIMINATOR, ALBERT, MODERNBERT,
    DEEPSEEK_V3, GEMMA, GPT_BIGCODE, GPT_OSS, GRANITE, MAMBA2, MODERNBERT_DECODER, OLMO, OLMO3, PHI, PHI3, SMOLLM3,
    STARCODER2, T5, MT5, UMT5, BART,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""All families by name, in the order in which the export tries them."""
