"""Curation: raw text is cleaned, filtered and freed of duplicates by rules, and a report says what each rule did."""

from lmjax.curate.config import Curation, RawText
from lmjax.curate.contamination import Decontaminate
from lmjax.curate.curate import curate
from lmjax.curate.duplicates import Duplicates, ExactDuplicates, NearDuplicates
from lmjax.curate.origin import Language, Pages
from lmjax.curate.quality import C4Quality, FineWebQuality, GopherQuality, GopherRepetition
from lmjax.curate.rule import JudgingRule, PlugIn, Rule
from lmjax.curate.text import Normalize, PersonalData

__all__ = [
    "C4Quality",
    "Curation",
    "Decontaminate",
    "Duplicates",
    "ExactDuplicates",
    "FineWebQuality",
    "GopherQuality",
    "GopherRepetition",
    "JudgingRule",
    "Language",
    "NearDuplicates",
    "Normalize",
    "Pages",
    "PersonalData",
    "PlugIn",
    "RawText",
    "Rule",
    "curate",
]
