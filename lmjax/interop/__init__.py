"""Models and tokenizers in the form transformers has them, in and out."""

from lmjax.interop.families import FAMILIES
from lmjax.interop.pretrained import Pretrained, load_pretrained, save_pretrained

__all__ = ["FAMILIES", "Pretrained", "load_pretrained", "save_pretrained"]
