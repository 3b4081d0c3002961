"""Responses in which no rule reads an answer: counted by domain, and said aloud with a few of their ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from curate.graders import NO_ANSWER
from curate.tables.rows import columns_of
from curate.tables.schema import ROLLOUTS
from curate.tables.store import CommittedFiles, Partition, among

_SHOWN, _DOMAINS = 3, 5
# Of a response, so many characters at its end are shown.
_TAIL = 80


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _Ruling:
    """Which rule decided on a rollout."""

    rollout_id: str
    domain: str
    outcome_rule: str


def sentence(partition: Partition) -> str | None:
    """The sentence on a partition of `rollouts`; null where every graded response has an answer.

    A response that was cut short, or whose outcome its source stated, is not counted.
    """
    total, missing, shown = Counter[str](), Counter[str](), list[str]()
    for row in partition.rows(_Ruling):
        total[row.domain] += 1
        if row.outcome_rule == NO_ANSWER:
            missing[row.domain] += 1
            if len(shown) < _SHOWN:
                shown.append(row.rollout_id)
    if not missing:
        return None
    texts = (
        CommittedFiles(partition.files(), partition.table)
        .read(["text"], among("rollout_id", shown))["text"]
        .to_pylist()
    )
    examples = ", ".join(repr(text.strip()[-_TAIL:]) for text in texts)
    of_all = f"{missing.total():,} of {total.total():,} responses"
    return (
        f"{of_all} have no answer that a rule reads{_by_domain(missing, total)}; "
        f"{'this one ends' if len(texts) == 1 else f'{len(texts)} of them end'}: {examples}."
    )


def _by_domain(missing: Counter[str], total: Counter[str]) -> str:
    """The counts of the domains with most of them, where there are several domains."""
    if len(total) < 2:
        return ""
    maximum = [f"{domain} {count:,} of {total[domain]:,}" for domain, count in missing.most_common(_DOMAINS)]
    return f" ({', '.join(maximum)}{', ...' if len(missing) > _DOMAINS else ''})"
