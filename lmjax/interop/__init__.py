"""Reads and writes models and tokenizers in the file formats of transformers.

In this package "theirs" means the library transformers, and "ours" means lmjax.
"""

from lmjax.interop.families import FAMILIES
from lmjax.interop.pretrained import Pretrained, load_pretrained
from lmjax.interop.saving import save_pretrained

__all__ = ["FAMILIES", "Pretrained", "load_pretrained", "save_pretrained"]
