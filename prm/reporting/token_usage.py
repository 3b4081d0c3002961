"""What the data cost: tokens of every domain and role, by what they were generated for. Reads tables."""

from __future__ import annotations

from dataclasses import dataclass

from curate.runtime.frames import pl
from curate.tables.schema import COMPLETIONS, JUDGEMENTS, ROLLOUTS, Table
from curate.tables.store import Store

_KINDS: dict[str, Table] = {"rollouts": ROLLOUTS, "completions": COMPLETIONS, "judge": JUDGEMENTS}


@dataclass(frozen=True)
class TokenUsage:
    """Generated tokens of one domain in one role, by kind; `prompt` are those read, of all kinds, each request's own.

    None: no row of that kind, or their tokens are not known (chains that a source brought).
    """

    domain: str
    role: str
    rollouts: int | None
    completions: int | None
    judge: int | None
    prompt: int | None

    @property
    def generated(self) -> int:
        """Tokens of all kinds that are known."""
        return sum(part or 0 for part in (self.rollouts, self.completions, self.judge))


def spent(workspace: Store) -> tuple[TokenUsage, ...]:
    """By domain and role, as the tables have it; a replayed rollout counts with what it cost when it was made."""
    places = pl.DataFrame(workspace.read(ROLLOUTS, ["problem_id", "domain", "role"])).unique("problem_id")
    found: dict[tuple[str, str], dict[str, int | None]] = {}
    for kind, table in _KINDS.items():
        rows = pl.DataFrame(workspace.read(table, ["problem_id", "tokens", "prompt_tokens"]))
        sums = (
            rows.join(places, on="problem_id").group_by("domain", "role").agg(_total("tokens"), _total("prompt_tokens"))
        )
        for domain, role, tokens, prompt_tokens in sums.iter_rows():
            book = found.setdefault((domain, role), dict.fromkeys((*_KINDS, "prompt")))
            book[kind] = tokens
            if prompt_tokens is not None:
                book["prompt"] = (book["prompt"] or 0) + prompt_tokens
    return tuple(TokenUsage(domain, role, **book) for (domain, role), book in sorted(found.items()))


def _total(column: str) -> pl.Expr:
    """Sum of what is known; null where nothing is."""
    return pl.when(pl.col(column).count() > 0).then(pl.col(column).sum()).alias(column)
