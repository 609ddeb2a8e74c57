"""What a curation has done to the documents, rule by rule; ledgers of units are added up in any order."""

import dataclasses
import hashlib
from typing import Any

EXCERPT = 400
"""Characters of an example's text."""


@dataclasses.dataclass(kw_only=True)
class Count:
    """Documents, and bytes of their text in UTF-8."""

    documents: int = 0
    bytes: int = 0

    def add(self, text_bytes: int, documents: int = 1) -> None:
        """Counts a document, or several."""
        self.documents += documents
        self.bytes += text_bytes


@dataclasses.dataclass(kw_only=True)
class Account:
    """What a rule has done to the documents of a source.

    Attributes:
      seen: the documents that came to the rule.
      dropped: those that it dropped.
      changed: those that it changed and kept; the bytes are those by which they shrank.
    """

    seen: Count = dataclasses.field(default_factory=Count)
    dropped: Count = dataclasses.field(default_factory=Count)
    changed: Count = dataclasses.field(default_factory=Count)


@dataclasses.dataclass(frozen=True, order=True)
class Example:
    """A dropped document; examples are those with the smallest digests, which are a fair sample whatever the order."""

    digest: str
    id: str
    text: str


@dataclasses.dataclass
class Ledger:
    """The accounts of the rules, by number and source; why documents were dropped, with examples; the lengths kept.

    Attributes:
      most_examples: the number of examples to keep for each reason.
      accounts: by rule and source.
      reasons: the number of dropped documents, by rule and reason.
      examples: by rule and reason.
      raw: the documents that were read, by source.
      kept: the documents of the result, by source.
    """

    most_examples: int
    accounts: dict[int, dict[str, Account]] = dataclasses.field(default_factory=dict)
    reasons: dict[int, dict[str, int]] = dataclasses.field(default_factory=dict)
    examples: dict[int, dict[str, list[Example]]] = dataclasses.field(default_factory=dict)
    raw: dict[str, Count] = dataclasses.field(default_factory=dict)
    kept: dict[str, Count] = dataclasses.field(default_factory=dict)

    def account(self, rule: int, source: str) -> Account:
        """Returns the account of a rule with a source."""
        return self.accounts.setdefault(rule, {}).setdefault(source, Account())

    def judged(self, rule: int, source: str, *, id: str, before: str, after: str, reason: str | None) -> None:
        """Notes what a rule did to a document.

        Args:
          rule: its number.
          source: the document's source.
          id: its id.
          before: its text before the rule.
          after: its text after the rule.
          reason: why it was dropped; None if it was kept.
        """
        account, size = self.account(rule, source), len(before.encode())
        account.seen.add(size)
        if reason is not None:
            account.dropped.add(size)
            reasons = self.reasons.setdefault(rule, {})
            reasons[reason] = reasons.get(reason, 0) + 1
            digest = hashlib.blake2b(f"{id}\0{before}".encode(), digest_size=8).hexdigest()
            self._show(rule, reason, [Example(digest, id, before[:EXCERPT])])
        elif after != before:
            account.changed.add(size - len(after.encode()))

    def _show(self, rule: int, reason: str, examples: list[Example]) -> None:
        shown = self.examples.setdefault(rule, {})
        shown[reason] = sorted([*shown.get(reason, []), *examples])[: self.most_examples]

    def add(self, other: "Ledger") -> None:
        """Adds the ledger of another unit."""
        for rule, accounts in other.accounts.items():
            for source, account in accounts.items():
                own = self.account(rule, source)
                for name in ("seen", "dropped", "changed"):
                    count = getattr(account, name)
                    getattr(own, name).add(count.bytes, count.documents)
        for rule, reasons in other.reasons.items():
            own_reasons = self.reasons.setdefault(rule, {})
            for reason, number in reasons.items():
                own_reasons[reason] = own_reasons.get(reason, 0) + number
        for rule, shown in other.examples.items():
            for reason, examples in shown.items():
                self._show(rule, reason, examples)
        for own_counts, counts in ((self.raw, other.raw), (self.kept, other.kept)):
            for source, count in counts.items():
                own_counts.setdefault(source, Count()).add(count.bytes, count.documents)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Ledger":
        """The inverse of ``dataclasses.asdict``, of which JSON has made the numbers of rules texts."""
        return cls(
            most_examples=content["most_examples"],
            accounts={
                int(rule): {
                    source: Account(**{name: Count(**count) for name, count in account.items()})
                    for source, account in accounts.items()
                }
                for rule, accounts in content["accounts"].items()
            },
            reasons={int(rule): dict(reasons) for rule, reasons in content["reasons"].items()},
            examples={
                int(rule): {reason: [Example(**one) for one in examples] for reason, examples in shown.items()}
                for rule, shown in content["examples"].items()
            },
            raw={source: Count(**count) for source, count in content["raw"].items()},
            kept={source: Count(**count) for source, count in content["kept"].items()},
        )
