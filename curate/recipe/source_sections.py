"""The part of a recipe that says where problems come from: the sources of `ingest`, and how their columns are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from curate.errors import did_you_mean
from curate.graders import GRADERS
from curate.recipe import source_table
from curate.recipe.chain_sections import AnyChainMap
from curate.recipe.parsing import Config
from curate.recipe.variants import OneOf

Role = Literal["train", "meta", "test"]
AnswerType = Annotated[str, AfterValidator(GRADERS.checked)]

# Partitions that stages name and that sources of chains would share; those of rejects begin otherwise than names do.
RESERVED = frozenset({"main"})
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class _SourceConfig(Config):
    """Names a dataset and what it is for."""

    name: str = Field(pattern=NAME)
    """Name of the source in the workspace: letters, digits, dots, dashes and underscores."""
    role: Role = "train"
    """What its problems are for. The three sets share no problem and no image."""
    domain: str | None = None
    """Domain of all its rows. Without it and without `columns.domain`, the domain is the source's name."""
    licence: str | None = None
    """Licence of the data; it is kept with every row."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many rows, the first ones."""

    @property
    def brings_chains(self) -> bool:
        """Whether its rows come with chains of thought."""
        return False

    @property
    def needs_gold(self) -> bool:
        """Whether a row without a gold answer is of no use."""
        return True


class SyntheticSource(_SourceConfig):
    """Draws problems with exact answers and a known truth for every step, with nothing to download."""

    kind: Literal["synthetic"]
    """`synthetic` draws problems itself."""
    task: Annotated[str, AfterValidator(source_table.task)]
    """What is asked: `bars_read`, `bars_difference`, `bars_sum`, `dial_read`, `dots_count`, `dots_more`,
    `grid_distance`, `rectangle_area`, `rectangle_perimeter`, `table_lookup`, `table_largest` or `needles`."""
    rows: int = Field(ge=1)
    """Number of problems."""
    seed: int = 0
    """Seed of the problems. Sources with different names or seeds share no problem."""
    defect: Literal["wrong-gold", "wrong-rule", "swapped-image", "leaked-answer", "near-duplicates"] | None = None
    """A defect that is planted on purpose. `wrong-gold`: many gold answers are wrong; `wrong-rule`: gold answers follow
    a wrong rule; `swapped-image`: each problem shows the image of another; `leaked-answer`: the question gives the
    answer away; `near-duplicates`: the same few problems are repeated with small changes of the image."""


class ColumnMap(Config):
    """Says which column of the source holds what; `null` where the source has none. `a.b` is the field `b` of the
    struct `a`.
    """

    id: str | tuple[str, ...] | None = None
    """Column that names the row, or several columns, whose values are joined by dashes; the row's number when
    `null`."""
    question: str | None = "question"
    """Column of the question, or a template such as `"{hint}\\n{question}"`, of which a line is left out when all its
    columns are empty. `null` where the form of the chains contains the question."""
    answer: str | None = "answer"
    """Column of the gold answer. `null` is allowed only where the source brings chains."""
    choices: str | tuple[str, ...] | None = None
    """Column of the choices: a list, or a list written as JSON or Python text (see `choices_form`); or several columns.
    Empty for a free-form question."""
    image: str | tuple[str, ...] | None = None
    """Column of the image: a path below `root`, bytes (also as base64 or as a data URI), a Hugging Face Image struct,
    or a list of these; or several columns, of which empty ones are skipped. A template such as `"pages/{id}.png"` is a
    path."""
    domain: str | None = None
    """Column of the row's domain."""
    conversation: str | None = None
    """Column of a conversation: a list of turns, each with `user` and `assistant`, or with `from` and `value`, or with
    `role` and `content`. Each question with its answer becomes one problem, and `question` and `answer` are not
    read."""
    answer_type: str | None = None
    """Column that says how the row's answer is graded; `answer_types` translates its values."""
    decimals: str | None = None
    """Column that says to how many decimals a number must be right."""

    def named(self) -> list[tuple[str, str]]:
        """(role, column) of every column that is named."""
        found: list[tuple[str, str]] = []
        for role, value in self:
            if role in ("question", "answer") and self.conversation is not None:
                continue
            for each in (value,) if isinstance(value, str) else value or ():
                found += [(role, column) for column in re.findall(r"\{([^{}]+)\}", each) or [each]]
        return found


def _sound_pattern(text: str) -> str:
    try:
        found = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"{text!r} is not a regular expression ({error}); put a backslash before its special characters"
        ) from None
    if found.groups > 1:
        raise ValueError(f"{text!r} has {found.groups} groups; only one may be the answer, write the others as (?:...)")
    return text


def _known_form(name: str) -> str:
    from curate.text.forms import FORMS

    if name not in FORMS:
        raise ValueError(f'there is no form "{name}"{did_you_mean(name, list(FORMS))}')
    return name


class MappedSource(_SourceConfig):
    """Holds what all sources share whose records have columns."""

    columns: ColumnMap = ColumnMap()
    """Which column of the source holds what; `null` where it has none. `a.b` is the field `b` of the struct `a`."""
    chain: AnyChainMap | None = None
    """Chains of thought that the source brings with its problems; these problems get no rollouts of the policy."""
    form: Annotated[str, AfterValidator(_known_form)] = "plain"
    """How question and answer are written: `plain`, or a dataset's own layout: `cauldron`, `geomverse`, `mathv360k`,
    `geo170k`, `inline-options` ("... Options: A: 3, B: 4") or `instructed` (an instruction as the last line)."""
    turns: int | None = Field(default=None, ge=1)
    """Read at most this many questions of each conversation, the first ones."""
    choices_form: Literal["list", "commas", "lettered"] = "list"
    """How choices are written. `list`: a list. `commas`: one text, separated by commas. `lettered`: one text with
    letters, such as "A. 3; B. 4"."""
    answer_form: Literal["text", "index", "accepted", "solution"] = "text"
    """How the answer is written. `text`: the answer itself, a letter or the text of a choice. `index`: the number of a
    choice (see `answer_from`). `accepted`: a list of answers that are all right. `solution`: a worked solution, whose
    last stated answer is taken."""
    answer_from: Literal[0, 1] = 0
    """Number of the first choice, with `answer_form: index`."""
    answer_behind: Annotated[str, AfterValidator(_sound_pattern)] | None = None
    """Regular expression, such as `'####'`. The answer is the text after its last match, up to the end of the line, or
    what its group matches. A row without a match is rejected."""
    answer_type: AnswerType | None = None
    """How answers are graded (docs/answers.md lists the types); when `null`, this is decided row by row from choices
    and answer. A row with choices is always graded as a choice."""
    answer_types: dict[str, AnswerType] = Field(default={})
    """Translates the values of `columns.answer_type` to answer types."""
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    """How far a number may be off and still be right, as a share of the gold answer (as an amount when that is 0);
    `null` takes the grader's own tolerance."""
    where: dict[str, str | int | bool | tuple[str | int | bool | None, ...] | None] = Field(default={})
    """Read only rows whose column has this value, or one of a list of values; the other rows are counted as not
    wanted."""
    require_image: bool = False
    """Reject rows without an image."""
    ids: tuple[str, ...] = ()
    """Read only the first row with each of these names (see `columns.id`), with all turns of its conversation."""
    shuffle: int | None = Field(default=None, ge=2)
    """Read rows in random order, from a buffer of this size, so that `limit` does not take the first rows only. The
    buffer is filled before the first row comes out."""
    seed: int = 0
    """Seed of `shuffle`."""
    revision: str | None = None
    """Revision of the data. It is kept with every row, and for a hub dataset it is the revision that is loaded."""

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
        for name, is_set, needs, there in (
            ("turns", self.turns is not None, "columns.conversation", columns.conversation),
            ("choices_form", self.choices_form != "list", "columns.choices", columns.choices),
            ("answer_form: index", self.answer_form == "index", "columns.choices", columns.choices),
            ("answer_types", self.answer_types, "columns.answer_type", columns.answer_type),
            ("columns.answer_type", columns.answer_type, "answer_types", self.answer_types),
            ("seed", self.seed, "shuffle", self.shuffle),
            ("answer_from", self.answer_from, "answer_form: index", self.answer_form == "index"),
            ("answer_behind", self.answer_behind, "answer_form: text", self.answer_form == "text"),
        ):
            if is_set and not there:
                raise ValueError(f"{name} has no effect without {needs}; give both or neither")
        return self

    @model_validator(mode="after")
    def _question_and_answer_are_there(self) -> Self:
        columns, chain = self.columns, self.chain
        if chain is not None and columns.conversation is not None:
            raise ValueError("columns.conversation has no effect with chain; give one of them")
        if columns.answer is None and chain is None:
            raise ValueError("columns.answer is needed: only a source with chain may lack gold answers")
        if (columns.question is None) != (chain is not None and chain.brings_question):
            form = chain.form if chain is not None else "none"
            raise ValueError(
                "columns.question must be null with chain.form tagged or conversation, and only then; "
                f"chain.form is {form}"
            )
        return self


class FilesSource(MappedSource):
    """Reads a local JSON Lines, JSON, Parquet, Arrow, CSV or TSV file, with images in columns, in a folder or in a zip
    archive.
    """

    kind: Literal["files"]
    """`files` reads a local file."""
    path: Path
    """The file, which may be compressed by gzip, bzip2 or xz."""
    records: str | None = None
    """Key of a JSON file that holds its rows, where the file has several tables; `a.b` is the key `b` of the object
    `a`."""
    root: Path | None = None
    """Folder or zip archive that image paths are relative to; the file's own folder when `null`. No image outside of it
    is read."""


class HubSource(MappedSource):
    """Reads a dataset from the Hugging Face hub as a stream, through `datasets`."""

    kind: Literal["hub"]
    """`hub` reads a dataset from the Hugging Face hub."""
    dataset: str
    """Id on the hub, or a local folder that `datasets` can load."""
    fallbacks: tuple[str, ...] = ()
    """Other ids of the same data; they are tried in order when the first one cannot be opened."""
    config: str | None = None
    """Configuration (subset) of the dataset; its default when `null`."""
    split: str = "train"
    """Split of the dataset."""
    records: str | None = None
    """Key of a JSON file that holds its rows, where the file has several tables; `a.b` is the key `b` of the object
    `a`."""
    root: Path | None = None
    """Folder or zip archive of the images, where columns hold paths; the dataset's own folder when `null`."""


class DreamPrmSource(_SourceConfig):
    """Reads a train or meta file of DreamPRM: chains with step labels, or with outcomes."""

    kind: Literal["dreamprm"]
    """`dreamprm` reads a file of DreamPRM."""
    path: Path
    """The JSON file."""
    root: Path | None = None
    """Folder or zip archive that image paths are relative to; the file's own folder when `null`."""
    answer_type: AnswerType | None = None
    """How answers are graded (docs/answers.md lists the types); when `null`, this is decided row by row from choices
    and answer."""
    revision: str | None = None
    """Revision of the data; it is kept with every row."""

    @property
    def brings_chains(self) -> bool:
        """Every row is one, or a part of one."""
        return True

    @property
    def needs_gold(self) -> bool:
        """Meta rows have outcomes instead."""
        return False


class PackageSource(MappedSource):
    """Reads through an adapter that an installed package provides as an entry point in the group `curate.sources`."""

    kind: Literal["package"]
    """`package` reads through an adapter of an installed package."""
    adapter: Annotated[str, AfterValidator(source_table.adapter)]
    """Name of the entry point: a class that is constructed as `Class(config, base)`."""
    args: dict[str, Any] = Field(default={})
    """Arguments of the adapter."""


SourceConfig = Annotated[SyntheticSource | FilesSource | HubSource | DreamPrmSource | PackageSource, OneOf("kind")]
