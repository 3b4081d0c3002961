"""The part of a recipe that says where problems come from: the sources of `ingest`, and how their columns are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from curate.errors import did_you_mean
from curate.recipe.parsing import Config

Role = Literal["train", "meta", "test"]
AnswerType = Literal["number", "choice", "yes-no", "text", "expression", "relaxed", "anls", "set"]

# Partitions that stages name and that sources of chains would share; those of rejects begin otherwise than names do.
RESERVED = frozenset({"main"})
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class _SourceConfig(Config):
    name: str = Field(pattern=NAME)
    """Name of the source in the workspace; letters, digits, dot, dash, underscore."""
    role: Role = "train"
    """What its problems are for; the three sets are kept disjoint by problem and by image."""
    domain: str | None = None
    """Domain of all its rows; the source's name when neither this nor a `domain` column is given."""
    licence: str | None = None
    """Licence of the data, kept with every row."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first so many rows."""

    @property
    def brings_chains(self) -> bool:
        """Whether its rows come with chains of thought."""
        return False

    @property
    def needs_gold(self) -> bool:
        """Whether a row without a gold answer is of no use."""
        return True


class SyntheticSource(_SourceConfig):
    """Problems drawn by the program, with exact answers and exact step truth."""

    kind: Literal["synthetic"]
    task: str
    """Which task, see `curate.sources.synthetic.tasks`."""
    rows: int = Field(ge=1)
    """How many problems."""
    seed: int = 0
    """Which problems; sources with different seeds or names do not share any."""
    defect: Literal["wrong-gold", "wrong-rule", "swapped-image", "leaked-answer", "near-duplicates"] | None = None
    """A defect planted on purpose, so that the domain is bad and known to be."""


class ColumnMap(Config):
    """Which column of the source holds what; null where the source has none. `a.b` is field b of the struct a."""

    id: str | tuple[str, ...] | None = None
    """Names the row, several columns joined by dashes; the row's number when null."""
    question: str | None = "question"
    """A column, or a template such as "{hint}\\n{question}"; a line of it whose columns are all empty is left out.
    Null where the chain's form has it."""
    answer: str | None = "answer"
    """The gold answer. Null where the source has none and brings chains instead."""
    choices: str | tuple[str, ...] | None = None
    """A list, or a JSON or Python list in a string (see `choices_form`), or several columns; empty for free-form
    questions."""
    image: str | tuple[str, ...] | None = None
    """A path under `root`, bytes (also as base64 or in a data URI), or a Hugging Face Image struct; a list of any of
    them; or several columns, of which empty ones are passed over. A template such as "pages/{id}.png" is a path."""
    domain: str | None = None
    conversation: str | None = None
    """A list of turns with a question and an answer each, {user, assistant}, {from, value} or {role, content} (a text,
    or parts of which those of type text are read): one problem a turn.
    `question` and `answer` are not read then."""
    answer_type: str | None = None
    """Says how the row's answer is meant, see `answer_types`."""
    decimals: str | None = None
    """To how many decimals a number must be right."""

    def named(self) -> list[tuple[str, str]]:
        """(role, column) of every column that is named."""
        found: list[tuple[str, str]] = []
        for role, value in self:
            if role in ("question", "answer") and self.conversation is not None:
                continue
            for each in (value,) if isinstance(value, str) else value or ():
                found += [(role, column) for column in re.findall(r"\{([^{}]+)\}", each) or [each]]
        return found


class ChainMap(Config):
    """Chains of thought that the source brings: each row becomes a rollout, with step labels where it has them."""

    form: Literal["columns", "tagged", "conversation", "rated"] = "columns"
    """`columns`: steps and labels are columns; `tagged`: Math-Shepherd, a text whose steps end in a tag and its twin
    with + or - there; `conversation`: VisualPRM400K, a step a turn, answered by + or -; `rated`: PRM800K, alternatives
    of every step with ratings -1, 0 and 1."""
    steps: str
    """Column of the steps, a list of texts; of the text, the turns or the rated steps in the other forms. `a.b` is
    field b of every struct in the list a."""
    labels: str | None = None
    """Column of the labels: one a step, or one number, see `labels_form`; of the marked twin for `tagged`."""
    labels_form: Literal["value", "sign", "first-error", "wrong-steps"] = "value"
    """`value`: true or false, or a number from 0 to 1; `sign`: 1 is right, -1 wrong, 0 has no label; `first-error`: the
    index of the first wrong step (of a list the least), null or -1 where there is none; what comes after it has no
    label; `wrong-steps`: a list of the indices of all wrong steps, the others are right."""
    labels_from: Literal[0, 1] = 0
    """The index of the first step where labels are indices; where that is 1, 0 says that no step is wrong, too."""
    right: str | None = None
    """Column of the numbers of right completions, one a step."""
    graded: str | None = None
    """Column of the numbers of all graded completions, one a step."""
    outcome: str | None = None
    """Column that says whether the final answer is right; graded against the gold answer when null."""
    policy: str | None = None
    """Column that names the model that wrote the chain."""

    @model_validator(mode="after")
    def _settings_fit_the_form(self) -> Self:
        if (self.right is None) != (self.graded is None):
            raise ValueError("right and graded belong together; give both or neither")
        if self.form == "tagged" and self.labels is None:
            raise ValueError("form tagged needs labels, the column of the marked text")
        if self.form != "columns" and (self.right or self.labels_form != "value"):
            raise ValueError(f"right, graded and labels_form have no effect with form {self.form}")
        if self.form in ("conversation", "rated") and self.labels:
            raise ValueError(f"labels has no effect with form {self.form}, which has them in its steps")
        if self.labels_from and self.labels_form not in ("first-error", "wrong-steps"):
            raise ValueError("labels_from has no effect without labels_form first-error or wrong-steps")
        if self.labels is None and self.labels_form != "value":
            raise ValueError("labels_form has no effect without labels; give both or neither")
        return self

    @property
    def brings_question(self) -> bool:
        """Whether the form has the question too."""
        return self.form in ("tagged", "conversation")

    def named(self) -> list[tuple[str, str]]:
        """(role, column) of every column that is named."""
        roles = ("steps", "labels", "right", "graded", "outcome", "policy")
        return [(role, column) for role in roles if (column := getattr(self, role))]


def _sound_pattern(text: str) -> str:
    try:
        found = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"{text!r} is no regular expression ({error}); write the marks of one behind a backslash"
        ) from None
    if found.groups > 1:
        raise ValueError(f"{text!r} has {found.groups} groups; one is the answer, the others are written (?:...)")
    return text


def _known_form(name: str) -> str:
    from curate.text.forms import FORMS

    if name not in FORMS:
        raise ValueError(f'there is no form "{name}"{did_you_mean(name, list(FORMS))}')
    return name


class MappedSource(_SourceConfig):
    """What sources share whose records have columns."""

    columns: ColumnMap = ColumnMap()
    chain: ChainMap | None = None
    """The chains that the source brings with its problems; they are not rolled out then."""
    form: Annotated[str, AfterValidator(_known_form)] = "plain"
    """How question and answer are written as texts, see `curate.text.forms`."""
    turns: int | None = Field(default=None, ge=1)
    """Read only the first so many questions of a conversation."""
    choices_form: Literal["list", "commas", "lettered"] = "list"
    """`commas`: one text, parted by commas; `lettered`: one text with the letters in it, "A. 3; B. 4"."""
    answer_form: Literal["text", "index", "accepted", "solution"] = "text"
    """`text`: the answer, a letter or a choice's text; `index`: a choice's number, see `answer_from`; `accepted`: a
    list of answers that are all right; `solution`: a worked solution, whose last stated answer is taken."""
    answer_from: Literal[0, 1] = 0
    """The number of the first choice, for `answer_form: index`."""
    answer_behind: Annotated[str, AfterValidator(_sound_pattern)] | None = None
    """A regular expression, such as '####': the answer is what stands behind its last match, to the end of the line,
    or what its group matches. A row without a match is rejected."""
    answer_type: AnswerType | None = None
    """How answers are graded; decided row by row from choices and answer when null. Rows with choices are choices."""
    answer_types: dict[str, AnswerType] = Field(default={})
    """What the values of `columns.answer_type` mean."""
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    """How far off a number is still right, as a share of it (an amount where it is 0); the grader's own when null."""
    where: dict[str, str | int | bool | tuple[str | int | bool | None, ...] | None] = Field(default={})
    """Take only rows whose column has this value, or one of these; the others are counted as not wanted."""
    require_image: bool = False
    """Reject rows without an image."""
    ids: tuple[str, ...] = ()
    """Take only the first row of each of these names (see `columns.id`), with all turns of its conversation."""
    shuffle: int | None = Field(default=None, ge=2)
    """Draw rows from a buffer of so many in random order, so that `limit` takes others than the first; the buffer has
    to be read first."""
    seed: int = 0
    """Seed of `shuffle`."""
    revision: str | None = None
    """Revision of the data: what the rows are marked with, and for a hub dataset what is loaded."""

    @property
    def brings_chains(self) -> bool:
        """Whether the rows bring rollouts of their own."""
        return self.chain is not None

    @property
    def needs_gold(self) -> bool:
        """Whether the rows have a gold answer to grade by."""
        return self.columns.answer is not None

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        columns = self.columns
        for is_set, needs, there in (
            (self.turns is not None, "columns.conversation", columns.conversation),
            (self.choices_form != "list", "columns.choices", columns.choices),
            (self.answer_form == "index", "columns.choices", columns.choices),
            (self.answer_types, "columns.answer_type", columns.answer_type),
            (columns.answer_type, "answer_types", self.answer_types),
            (self.seed, "shuffle", self.shuffle),
            (self.answer_from, "answer_form: index", self.answer_form == "index"),
            (self.answer_behind, "answer_form: text", self.answer_form == "text"),
        ):
            if is_set and not there:
                raise ValueError(f"a setting has no effect without {needs}; give both or neither")
        return self

    @model_validator(mode="after")
    def _question_and_answer_are_there(self) -> Self:
        columns, chain = self.columns, self.chain
        if chain is not None and columns.conversation is not None:
            raise ValueError("columns.conversation has no effect with chain; give one of them")
        if columns.answer is None and chain is None:
            raise ValueError("columns.answer is needed: only a source with chain can do without gold answers")
        if (columns.question is None) != (chain is not None and chain.brings_question):
            form = chain.form if chain is not None else "none"
            raise ValueError(
                f"columns.question is null with chain.form tagged or conversation only; chain.form: {form}"
            )
        return self


class FilesSource(MappedSource):
    """Local JSON Lines, JSON, Parquet, Arrow, CSV or TSV, with images in columns, in a folder or in a zip archive."""

    kind: Literal["files"]
    path: Path
    """The file, also packed by gzip, bzip2 or xz; relative paths are relative to the recipe."""
    records: str | None = None
    """The key of a JSON file that holds its rows, where it has several tables; `a.b` is key b of the object a."""
    root: Path | None = None
    """Folder or zip archive that image paths are relative to; the file's own folder when null. No image outside it is
    read."""


class HubSource(MappedSource):
    """A dataset on the Hugging Face hub, read through `datasets`, streaming."""

    kind: Literal["hub"]
    dataset: str
    """Hub id, or a local folder that `datasets` can load."""
    fallbacks: tuple[str, ...] = ()
    """Other ids of the same data, tried in order when the first cannot be opened."""
    config: str | None = None
    split: str = "train"
    records: str | None = None
    """The key of a JSON file that holds its rows, where it has several tables; `a.b` is key b of the object a."""
    root: Path | None = None
    """Folder or zip archive of the images, where the columns hold paths; the dataset's own folder when null."""


class DreamPrmSource(_SourceConfig):
    """A train or meta file of DreamPRM: chains with step labels, or with outcomes; see `curate.sources.dreamprm`."""

    kind: Literal["dreamprm"]
    path: Path
    """The JSON file; relative paths are relative to the recipe."""
    root: Path | None = None
    """Folder or zip archive that image paths are relative to; the file's own folder when null."""
    answer_type: AnswerType | None = None
    """How answers are graded; decided row by row from choices and answer when null."""
    revision: str | None = None
    """Revision of the data: what the rows are marked with."""

    @property
    def brings_chains(self) -> bool:
        """Every row is one, or a part of one."""
        return True

    @property
    def needs_gold(self) -> bool:
        """Meta rows have outcomes instead."""
        return False


class PackageSource(MappedSource):
    """Whatever an installed package reads: its adapter is an entry point in the group `curate.sources`."""

    kind: Literal["package"]
    adapter: str
    """Name of the entry point, a class that is made like `Class(config, base)`, see `curate.sources.base.Source`."""
    args: dict[str, Any] = Field(default={})
    """What the adapter needs to know."""


SourceConfig = Annotated[
    SyntheticSource | FilesSource | HubSource | DreamPrmSource | PackageSource, Field(discriminator="kind")
]
