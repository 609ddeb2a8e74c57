"""Rules that change texts: Unicode normalisation, and personal data."""

import dataclasses
import unicodedata
from typing import Any, Literal

from lmjax.curate.rule import Judge, JudgingRule, require
from lmjax.field_types import check_literals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalize(JudgingRule):
    """Brings texts to one of Unicode's normal forms, so that the same characters are the same bytes."""

    form: Literal["NFC", "NFKC", "NFD", "NFKD"] = "NFC"
    """NFC joins letters and accents; NFKC also replaces compatible characters (ligatures, full-width letters, and the
    exponent in 10², which then reads 102)."""

    def __post_init__(self):
        check_literals(self, "Normalize.")

    def judge(self) -> Judge:
        """Returns a judge that keeps all documents."""

        def judge(document: Any) -> None:
            document.text = unicodedata.normalize(self.form, document.text)

        return judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonalData(JudgingRule):
    """Replaces e-mail addresses and public IP addresses, as FineWeb does (datatrove's ``PIIFormatter``)."""

    emails: bool = True
    """Replace e-mail addresses."""
    ip_addresses: bool = True
    """Replace IP addresses."""
    email_replacement: str = "email@example.com"
    """What is put in place of an e-mail address."""
    ip_replacement: str = "192.0.2.1"
    """What is put in place of an IP address; 192.0.2.0/24 is reserved for documentation (RFC 5737)."""

    def judge(self) -> Judge:
        """Returns a judge that keeps all documents."""
        formatter = require("datatrove.pipeline.formatters").PIIFormatter(
            remove_emails=self.emails,
            remove_ips=self.ip_addresses,
            email_replacement=self.email_replacement,
            ip_replacement=self.ip_replacement,
        )

        def judge(document: Any) -> None:
            document.text = formatter.format(document.text)

        return judge
