"""How a source's rows hold chains of thought and their step labels: a variant for each form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import model_validator

from curate.recipe.parsing import Variant
from curate.recipe.variants import OneOf


class ChainMap(Variant):
    """Says where the source has chains of thought. Each row then becomes a rollout, with step labels where the source
    has them, and the policy does not sample for it.
    """

    stored: ClassVar[Mapping[str, Any]] = {
        "labels": None, "labels_form": "value", "labels_from": 0, "right": None, "graded": None,
    }  # fmt: skip
    brings_question: ClassVar[bool] = False
    """Whether the form has the question too."""

    form: Literal["columns", "tagged", "conversation", "rated"]
    """How chains are written. `columns`: steps and labels are columns. `tagged` (Math-Shepherd): a text whose steps end
    in a tag, and a copy of it with + or - in place of the tag. `conversation` (VisualPRM400K): one step per turn,
    answered by + or -. `rated` (PRM800K): alternatives of every step with ratings -1, 0 and 1."""
    steps: str
    """Column of the steps: a list of texts, or the text, the turns or the rated steps of the other forms. `a.b` is the
    field `b` of every struct in the list `a`."""
    outcome: str | None = None
    """Column that says whether the final answer is right; when `null`, the answer is graded against the gold answer."""
    policy: str | None = None
    """Column that names the model that wrote the chain."""

    def named(self) -> list[tuple[str, str]]:
        """(role, column) of every column that is named."""
        roles = ("steps", "labels", "right", "graded", "outcome", "policy")
        return [(role, column) for role in roles if (column := getattr(self, role, None))]


class ColumnChains(ChainMap):
    """Base of the forms in which steps and labels are columns of their own."""

    form: Literal["columns"] = "columns"
    """Steps and labels are columns."""
    steps: str
    """Column of the steps: a list of texts. `a.b` is the field `b` of every struct in the list `a`."""
    labels_form: Literal["value", "sign", "first-error", "wrong-steps"]
    labels: str | None = None
    right: str | None = None
    """Column of the number of right completions per step."""
    graded: str | None = None
    """Column of the number of graded completions per step."""

    @model_validator(mode="after")
    def _counts_belong_together(self) -> Self:
        if (self.right is None) != (self.graded is None):
            raise ValueError("right and graded belong together; give both or neither")
        return self


class ValueChains(ColumnChains):
    """Has a label from 0 to 1 per step, or counts of completions, or no labels."""

    labels_form: Literal["value"] = "value"
    """True, false or a number from 0 to 1 per step."""
    labels: str | None = None
    """Column of the labels, one per step."""


class SignChains(ColumnChains):
    """Has a label of -1, 0 or 1 per step."""

    labels_form: Literal["sign"] = "sign"
    """1 for a right step, -1 for a wrong one, 0 for no label."""
    labels: str
    """Column of the labels, one per step."""


class IndexChains(ColumnChains):
    """Names the wrong steps by their indices."""

    labels_form: Literal["first-error", "wrong-steps"]
    """`first-error`: index of the first wrong step (the smallest of a list), `null` or -1 when all are right; later
    steps get no label. `wrong-steps`: list of the indices of all wrong steps; the others are right."""
    labels: str
    """Column of the index, or of the list of indices."""
    labels_from: Literal[0, 1] = 0
    """Index of the first step. With 1, an index of 0 means that no step is wrong."""


AnyColumnChains = Annotated[ValueChains | SignChains | IndexChains, OneOf("labels_form", "value")]


class TaggedChains(ChainMap):
    """Has a text whose steps end in a tag, and a copy of it with + or - in place of the tag (Math-Shepherd)."""

    brings_question: ClassVar[bool] = True

    form: Literal["tagged"] = "tagged"
    """(Math-Shepherd) a text whose steps end in a tag, and a copy of it with + or - in place of the tag."""
    steps: str
    """Column of the text."""
    labels: str
    """Column of the copy with + and -."""


class ConversationChains(ChainMap):
    """Has one step per turn, answered by + or - (VisualPRM400K)."""

    brings_question: ClassVar[bool] = True

    form: Literal["conversation"] = "conversation"
    """(VisualPRM400K) one step per turn, answered by + or -."""
    steps: str
    """Column of the turns."""


class RatedChains(ChainMap):
    """Has alternatives of every step with ratings (PRM800K)."""

    form: Literal["rated"] = "rated"
    """(PRM800K) alternatives of every step with ratings -1, 0 and 1."""
    steps: str
    """Column of the rated steps."""


AnyChainMap = Annotated[AnyColumnChains | TaggedChains | ConversationChains | RatedChains, OneOf("form", "columns")]
