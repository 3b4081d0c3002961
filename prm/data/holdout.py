"""Held-out training problems: a share of each domain's, by hash; no problem or image is on both sides. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from curate.seeds import digest
from prm.data.examples import Example


def held_out(examples: Iterable[Example], share: float) -> frozenset[str]:
    """Ids of the problems to hold out of these training examples.

    Problems that show an image together, also by way of others, go together. Groups are taken in the order of their
    hashes while no domain gets more than its share: at least one problem, at most all but one. So a domain gives none
    where all its problems hang together. Neither seed, model nor settings change the choice.
    """
    domain_of, groups = _linked(examples)
    room = {
        domain: min(count - 1, max(1, round(share * count))) for domain, count in Counter(domain_of.values()).items()
    }
    taken: set[str] = set()
    for group in sorted(groups, key=lambda group: digest("held-out", min(group))):
        wanted = Counter(domain_of[problem] for problem in group)
        if all(count <= room[domain] for domain, count in wanted.items()):
            taken |= group
            for domain, count in wanted.items():
                room[domain] -= count
    return frozenset(taken)


def _linked(examples: Iterable[Example]) -> tuple[dict[str, str], list[set[str]]]:
    """Problem -> domain, and the problems in groups that share no image with one another."""
    domain_of: dict[str, str] = {}
    group_of: dict[str, set[str]] = {}
    by_image: dict[str, str] = {}
    for example in examples:
        problem = example.problem_id
        domain_of[problem] = example.domain
        group_of.setdefault(problem, {problem})
        for image in example.image_hashes:
            one, other = group_of[problem], group_of[by_image.setdefault(image, problem)]
            if one is not other:
                # The smaller into the larger, so that all of it takes n log n steps.
                small, large = sorted((one, other), key=len)
                large |= small
                group_of.update(dict.fromkeys(small, large))
    return domain_of, list({id(group): group for group in group_of.values()}.values())
