"""The sections of a recipe, one for each stage of `curate`.

A recipe has a `name`, a `seed` and one section per stage. Other packages add sections through the entry point group
`curate.stages` (`prm` does).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, InstanceOf, model_validator

from curate.config import Config, did_you_mean
from curate.prompts import Template

Role = Literal["train", "meta", "test"]
AnswerType = Literal["number", "choice", "yes-no", "text", "expression", "relaxed", "anls", "set"]


# Partitions that stages name.
RESERVED = frozenset({"main", "rollout", "label", "train"})
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
    """A path under `root`, raw bytes, or a Hugging Face Image struct; a list of any of them; or several columns, of
    which empty ones are passed over."""
    domain: str | None = None
    conversation: str | None = None
    """A list of turns with a question and an answer each, {user, assistant} or {from, value}: one problem a turn.
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
    labels_form: Literal["value", "sign", "first-error"] = "value"
    """`value`: true or false, or a number from 0 to 1; `sign`: 1 is right, -1 wrong, 0 has no label; `first-error`: the
    index of the first wrong step, -1 where there is none; what comes after it has no label."""
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


def _known_form(name: str) -> str:
    from curate.sources.forms import FORMS

    if name not in FORMS:
        raise ValueError(f'there is no form "{name}"{did_you_mean(name, list(FORMS))}')
    return name


class MappedSource(_SourceConfig):
    """What sources share whose records have columns."""

    columns: ColumnMap = ColumnMap()
    chain: ChainMap | None = None
    """The chains that the source brings with its problems; they are not rolled out then."""
    form: Annotated[str, AfterValidator(_known_form)] = "plain"
    """How question and answer are written as texts, see `curate.sources.forms`."""
    turns: int | None = Field(default=None, ge=1)
    """Of a conversation, only the first so many questions."""
    choices_form: Literal["list", "commas", "lettered"] = "list"
    """`commas`: one text, parted by commas; `lettered`: one text with the letters in it, "A. 3; B. 4"."""
    answer_form: Literal["text", "index", "accepted"] = "text"
    """`text`: the answer, a letter or a choice's text; `index`: a choice's number, from 0; `accepted`: a list of
    answers that are all right."""
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
    """Of `shuffle`."""
    revision: str | None = None
    """Of the data: what the rows are marked with, and for a hub dataset what is loaded."""

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
    """Local JSON Lines, Parquet, CSV or TSV, with images in columns, in a folder or in a zip archive."""

    kind: Literal["files"]
    path: Path
    """The file; relative paths are relative to the recipe."""
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
    root: Path | None = None
    """Folder or zip archive of the images, where the columns hold paths; of a local folder, the folder itself."""


class PackageSource(MappedSource):
    """Whatever an installed package reads: its adapter is an entry point in the group `curate.sources`."""

    kind: Literal["package"]
    adapter: str
    """Name of the entry point, a class that is made like `Class(config, base)`, see `curate.sources.base.Source`."""
    args: dict[str, Any] = Field(default={})
    """What the adapter needs to know."""


SourceConfig = Annotated[SyntheticSource | FilesSource | HubSource | PackageSource, Field(discriminator="kind")]


class IngestConfig(Config):
    """`curate ingest`: sources to problems, images and rejects."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    max_pixels: int = Field(default=64_000_000, ge=1)
    """An image with more pixels is rejected before it is decoded."""
    max_image_bytes: int = Field(default=64 * 2**20, ge=1)
    """An image file with more bytes is rejected."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names are used twice: {', '.join(twice)}; give each source its own name")
        taken = sorted(set(names) & RESERVED)
        if taken:
            raise ValueError(f"{taken[0]} is a name of the workspace's own; give the source another")
        return self


class DedupConfig(Config):
    """`curate dedup`: of problems that are too much alike, one stays."""

    image_distance: int = Field(default=4, ge=0, le=16)
    """How many of the 64 bits of two pictures' perceptual hashes may differ; candidates are looked at again."""
    text_similarity: float = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of the questions' shingles from which on two questions are the same."""
    across: bool = True
    """Between domains, too."""


class DecontaminateConfig(Config):
    """`curate decontaminate`: training problems that the meta or test set shows are left out."""

    image_distance: int = Field(default=4, ge=0, le=16)
    """How many of the 64 bits of two pictures' perceptual hashes may differ; candidates are looked at again."""
    text_similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of the questions' shingles from which on a text counts as the same."""
    min_characters: int = Field(default=60, ge=1)
    """A shorter question that has a picture is no overlap by its text alone: "How many bars are there?"."""
    clean: tuple[Role, ...] = ("meta", "test")
    """The sets that training must not show."""


def _known_engine(name: str) -> str:
    # Installed packages may add engines, and the table of engines imports this module.
    from curate.engines import known

    names = ["auto", *known()]
    if name not in names:
        raise ValueError(f'there is no engine "{name}"{did_you_mean(name, names)}')
    return name


class EngineConfig(Config):
    """Which engine, on which model."""

    kind: Annotated[str, AfterValidator(_known_engine)] = "auto"
    """One of `vllm`, `server`, `transformers`, `simulated`, or of an installed package; `auto` takes vLLM when it is
    installed, else transformers, and says which."""
    model: str
    """Folder of the model, hub id, or the name that the server knows it by."""
    revision: str | None = None
    urls: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers, for `server`."""
    in_flight: int = Field(default=128, ge=1)
    """Requests that the stage keeps under way at once."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt and output together, in tokens; the model's own limit when null."""
    args: dict[str, Any] = Field(default={})
    """Further arguments of the engine, passed on as they are (vLLM: AsyncEngineArgs; simulated: its faults)."""


class SamplingConfig(Config):
    """How text is drawn; the same for rollouts and completions, so that labels are on-policy."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 is no limit."""
    max_tokens: int = Field(default=1024, ge=1)
    """Budget of the whole chain in tokens; a completion gets what its prefix has left."""


class RolloutConfig(Config):
    """`curate rollout`: problems to chains of thought."""

    engine: EngineConfig
    sampling: SamplingConfig = SamplingConfig()
    samples: Annotated[int, Field(ge=1, le=256)] | dict[Role, Annotated[int, Field(ge=1, le=256)]] = 8
    """Rollouts per problem; one number, or one for each role."""
    prompt: str | InstanceOf[Template] = "structured-five"
    """Name of a prompt template, see `curate.prompts`, or a Jinja2 file of your own (`*.j2`, relative to the recipe)
    with `question`, `choices` and `problem`."""
    max_steps: int = Field(default=12, ge=1)
    """A chain with more steps has its last ones merged into one."""
    min_step_characters: int = Field(default=1, ge=1)
    """A step with fewer letters and digits so far goes on; its marker does not count."""
    roles: tuple[Role, ...] = ("train", "meta", "test")
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of requests that may fail before the command exits 1."""

    @model_validator(mode="after")
    def _samples_for_every_role(self) -> Self:
        missing = [role for role in self.roles if isinstance(self.samples, dict) and role not in self.samples]
        if missing:
            raise ValueError(f"samples has no number for role {', '.join(missing)}; give one, or leave the role out")
        return self

    def samples_for(self, role: str) -> int:
        """Rollouts per problem of this role."""
        return self.samples if isinstance(self.samples, int) else self.samples[role]  # type: ignore[index]


class LabelConfig(Config):
    """`curate label`: rollouts to step labels by Monte Carlo completion, with the rollouts' own engine and sampling."""

    mode: Literal["pooled", "exact", "hard", "legacy"] = "pooled"
    """`pooled`: few completions a step, pooled over the chain; unbiased, and about half the tokens. `exact`: exactly
    `completions` a step, label k/m. `hard`: whether any of `completions` is right, drawn until one is. `legacy`:
    DreamPRM's rule, which stops by what it has seen and is biased by up to 0.05; to compare with its labels."""
    completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Completions a step: exactly so many (`exact`, 8 when null), at most so many (`hard`, 16), at most so many with
    the rollout itself (`legacy`, 11)."""
    mean_completions: Annotated[float, Field(gt=0)] | None = None
    """`pooled`: completions a step in the mean, 2 when null. Cheap late steps and problems whose rollouts disagree get
    more."""
    max_completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """`pooled`: the most that a step gets, 8 when null (or four times the mean)."""
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    """`pooled`: as many completions as these tokens are expected to pay for, instead of `mean_completions`."""
    rollouts: int | None = Field(default=None, ge=1)
    """Label only the first so many rollouts of each problem; all when null. Chosen by index, never by outcome."""
    roles: tuple[Role, ...] = ("train",)
    error_budget: float = Field(default=0.02, ge=0, le=1)

    @model_validator(mode="after")
    def _settings_fit_the_mode(self) -> Self:
        pooled = {"mean_completions", "max_completions", "budget_tokens"}
        strange = {"completions"} if self.mode == "pooled" else pooled
        given = sorted(name for name in strange if getattr(self, name) is not None)
        if given:
            raise ValueError(f"{', '.join(given)} has no effect with mode {self.mode}; leave it out")
        if self.mean_completions is not None and self.budget_tokens is not None:
            raise ValueError("mean_completions and budget_tokens say the same; give one of them")
        if self.mode == "pooled" and self.budget_tokens is None and self.mean > self.most:
            raise ValueError(f"mean_completions {self.mean} is above max_completions {self.most}")
        return self

    @property
    def mean(self) -> float:
        """Completions a step in the mean, for `pooled`."""
        return self.mean_completions if self.mean_completions is not None else 2.0

    @property
    def most(self) -> int:
        """The most completions that a step gets."""
        if self.mode == "pooled":
            return self.max_completions or max(8, min(256, round(4 * self.mean)))
        return self.completions or {"exact": 8, "hard": 16, "legacy": 11}[self.mode]


class ShardConfig(Config):
    """`curate shard`: labelled rollouts to domain-tagged training, meta and test examples."""

    min_graded: int = Field(default=1, ge=1)
    """A step with fewer graded completions has no label (null)."""


SECTIONS: dict[str, type[Config]] = {
    "ingest": IngestConfig,
    "dedup": DedupConfig,
    "decontaminate": DecontaminateConfig,
    "rollout": RolloutConfig,
    "label": LabelConfig,
    "shard": ShardConfig,
}
