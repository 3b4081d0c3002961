"""The sections of a recipe, one for each stage of `curate`.

A recipe has a `name`, a `seed` and one section per stage, see `curate.pipeline.STAGES`. Other packages add sections
through the entry point group `curate.stages` (`prm` does).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, InstanceOf, model_validator

from curate.errors import did_you_mean
from curate.graders.extraction.languages import Words, words
from curate.recipe.engine_table import AUTO, ENGINES
from curate.recipe.parsing import Config, Variant
from curate.recipe.source_sections import RESERVED, Role, SourceConfig
from curate.recipe.variants import OneOf
from curate.text.prompts import Template


class IngestConfig(Config):
    """Says which sources `curate ingest` reads, and how large their images may be."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Datasets to read. Each has a `kind`, which decides its other keys."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """An image with more pixels is rejected without being decoded."""
    max_image_bytes: int = Field(default=64 * 2**20, ge=1)
    """An image file with more bytes is rejected."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        # Some file systems do not tell capital letters from small ones.
        names = [source.name.casefold() for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names are used twice: {', '.join(twice)}; give each source its own name")
        taken = sorted(set(names) & RESERVED)
        if taken:
            raise ValueError(f'a source cannot have the name "{taken[0]}", which the workspace uses itself; rename it')
        return self


class DedupConfig(Config):
    """Says when `curate dedup` takes two problems for the same. Of those that are the same, it keeps one."""

    image_distance: int = Field(default=4, ge=0, le=16)
    """Two images are compared in detail when at most this many of the 64 bits of their perceptual hashes differ."""
    text_similarity: float = Field(default=0.9, gt=0, le=1)
    """Two questions count as the same when the Jaccard similarity of their 5-character shingles is at least this."""
    across: bool = True
    """Compare problems of different domains, too; `false` compares within each domain only."""


class DecontaminateConfig(Variant):
    """Says when `curate decontaminate` drops a training problem because the meta or test set contains it."""

    stored: ClassVar[Mapping[str, Any]] = {"min_characters": 60}

    image_distance: int = Field(default=4, ge=0, le=16)
    """Two images are compared in detail when at most this many of the 64 bits of their perceptual hashes differ."""
    text_similarity: float = Field(default=0.8, gt=0, le=1)
    """Two questions (with their choices) count as the same text when the Jaccard similarity of their 5-character
    shingles is at least this."""
    clean: tuple[Role, ...] = ("meta", "test")
    """The sets that training problems must not overlap with."""


class DecontaminateSameImages(DecontaminateConfig):
    """Takes the same text with another image for another problem."""

    other_images: Literal[False] = False
    """A text that another image, or an image on one side only, goes with is not an overlap: templates ("Is the
    function linear?") repeat the same text, and often the same answer, with every image."""


class DecontaminateOtherImages(DecontaminateConfig):
    """Takes the same text and answer with another image for an overlap as well."""

    other_images: Literal[True]
    """A text that another image, or an image on one side only, goes with is an overlap when the answers agree."""
    min_characters: int = Field(default=60, ge=1)
    """A question that is shorter than this and has an image is not compared by its text, because short questions ("How
    many bars?") repeat."""


AnyDecontaminateConfig = Annotated[DecontaminateSameImages | DecontaminateOtherImages, OneOf("other_images", False)]


def _known_engine(name: str) -> str:
    if name != AUTO and name not in ENGINES:
        raise ValueError(f'there is no engine "{name}"{did_you_mean(name, [AUTO, *ENGINES])}')
    return name


class EngineConfig(Config):
    """Names the engine that generates text, and the model that it runs."""

    kind: Annotated[str, AfterValidator(_known_engine)] = "auto"
    """One of `vllm`, `server` (any OpenAI-compatible endpoint), `transformers`, `simulated` (no model, for tests) and
    `replay` (the samples of an earlier workspace), or an engine of an installed package. `auto` takes vLLM where it is
    installed, otherwise transformers, and prints its choice."""
    model: str
    """Folder of the model, its id on the hub, or the name by which the server knows it. For `replay`, the path of a
    workspace."""
    revision: str | None = None
    """Revision (branch, tag or commit) of a model on the hub."""
    urls: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers (engine `server`); several share the load."""
    in_flight: int = Field(default=128, ge=1)
    """Number of requests that are kept in progress at once."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Maximum length of prompt and output together, in tokens; `null` takes the model's own limit."""
    max_pixels: int | None = Field(default=None, ge=1)
    """An image with more pixels is scaled down to this many before the model's own limit applies; `null` leaves the
    size to the model. It belongs to the policy: rollouts with different values are never mixed."""
    stall_minutes: float = Field(default=30, gt=0)
    """When no request is answered for this many minutes, the engine is restarted. When that does not help, the command
    ends and says what it was waiting for."""
    args: dict[str, Any] = Field(default={})
    """Further arguments of the engine, passed on unchanged: `AsyncEngineArgs` for vLLM, a world and faults for
    `simulated`."""


class SamplingConfig(Config):
    """Sets how text is sampled. Rollouts and completions share these settings, so that labels are on-policy."""

    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling threshold: only the most likely tokens that together have this probability are sampled."""
    top_k: int = Field(default=0, ge=0)
    """Only this many of the most likely tokens are sampled; 0 sets no limit."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum length of a whole chain, in tokens. A completion gets what its prefix has left of it."""


class AnswerWords(Config):
    """Adds words of a language to those that already announce an answer, or say yes or no."""

    answer: tuple[str, ...] = ()
    """Nouns that stand before an answer, such as `svar` for "Svar: 7"."""
    verbs: tuple[str, ...] = ()
    """Verbs that may stand between such a noun and the answer, such as `är` for "svaret är 7"."""
    yes: tuple[str, ...] = ()
    """Words that mean yes."""
    no: tuple[str, ...] = ()
    """Words that mean no."""

    @property
    def table(self) -> Words:
        """The table of words that answers are read with."""
        return words(self.answer, self.verbs, self.yes, self.no)

    def settings(self) -> dict[str, Any]:
        """What lineage keeps of it; nothing where no word is added."""
        return {"answer_words": self.model_dump()} if self != AnswerWords() else {}


class RolloutConfig(Config):
    """Says how `curate rollout` samples chains of thought for each problem, and how it cuts and grades them."""

    engine: EngineConfig
    sampling: SamplingConfig = SamplingConfig()
    samples: Annotated[int, Field(ge=1, le=256)] | dict[Role, Annotated[int, Field(ge=1, le=256)]] = 8
    """Number of rollouts per problem: one number, or one for each role, such as `{train: 4, meta: 8}`."""
    prompt: str | InstanceOf[Template] = "structured-five"
    """Name of a prompt template (`structured-five`, `short-five` or `free`), or a Jinja2 file of your own (`*.j2`,
    relative to the recipe) that may use `question`, `choices` and `problem`."""
    max_steps: int = Field(default=12, ge=1)
    """Maximum number of steps of a chain; the last one takes the rest of the text."""
    min_step_characters: int = Field(default=1, ge=1)
    """A step with fewer letters and digits is joined with the text after it. The step's marker ("Step 2:") is not
    counted."""
    answer_words: AnswerWords = AnswerWords()
    """Words that announce an answer, or say yes or no, in a language that is not built in."""
    roles: tuple[Role, ...] = ("train", "meta", "test")
    """Only problems of these roles get rollouts."""
    domains: tuple[str, ...] = ()
    """Only problems of these domains get rollouts; an empty list means all domains."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of problems per domain and role, chosen by a hash of their id. A larger limit adds problems to
    those of a smaller one."""
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of the requested work (finished or not) that may fail before the command exits with code 1."""

    @model_validator(mode="after")
    def _samples_for_every_role(self) -> Self:
        missing = [role for role in self.roles if isinstance(self.samples, dict) and role not in self.samples]
        if missing:
            raise ValueError(f"samples has no number for role {', '.join(missing)}; give one, or leave the role out")
        return self

    @property
    def words(self) -> Words:
        """The table of words that answers are read with."""
        return self.answer_words.table

    def samples_for(self, role: str) -> int:
        """Rollouts per problem of this role."""
        return self.samples if isinstance(self.samples, int) else self.samples[role]  # type: ignore[index]


class LabelConfig(Variant, ABC):
    """Says how `curate label` estimates step labels: by completing prefixes with the rollouts' own engine and
    sampling.
    """

    stored: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("completions", "mean_completions", "max_completions", "budget_tokens")
    )

    mode: Literal["pooled", "exact", "hard", "legacy"]
    """How a label is estimated. `pooled` samples a few completions per step and pools them over the chain; it is
    unbiased and needs about half the tokens of `exact`. `exact` samples exactly `completions` per step; the label is
    the share that is right. `hard` samples until one completion is right; the label is 1 if one is, otherwise 0.
    `legacy` is DreamPRM's rule, which stops early and is biased by up to 0.05; use it only to compare with its
    labels."""
    rollouts: int | None = Field(default=None, ge=1)
    """Label only this many rollouts of each problem, the first ones by index (never chosen by outcome); `null` labels
    all."""
    roles: tuple[Role, ...] = ("train",)
    """Only rollouts of these roles are labelled."""
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of the requested work (finished or not) that may fail before the command exits with code 1."""

    def takes(self, sample_index: int) -> bool:
        """Whether rollouts of this index get labels; their outcomes have no say."""
        return self.rollouts is None or sample_index < self.rollouts

    @property
    @abstractmethod
    def max_per_step(self) -> int:
        """Largest number of completions that a step gets; `legacy` counts the rollout itself."""


class PooledLabels(LabelConfig):
    """Samples a few completions per step and pools them over the chain; this is unbiased and needs about half the
    tokens of `exact`.
    """

    mode: Literal["pooled"] = "pooled"
    """A few completions per step, pooled over the chain; unbiased, and about half the tokens of `exact`."""
    mean_completions: Annotated[float, Field(gt=0)] | None = None
    """Mean number of completions per step, 2 when `null`. Late steps, which are cheap, and problems whose rollouts
    disagree get more."""
    max_completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Maximum number of completions per step; 8, or four times the mean if that is more, when `null`."""
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    """In place of `mean_completions`: samples as many completions as this number of tokens is expected to pay for."""

    @model_validator(mode="after")
    def _mean_fits(self) -> Self:
        if self.mean_completions is not None and self.budget_tokens is not None:
            raise ValueError("mean_completions and budget_tokens say the same; give one of them")
        if self.budget_tokens is None and self.mean > self.max_per_step:
            raise ValueError(f"mean_completions {self.mean} is above max_completions {self.max_per_step}")
        return self

    @property
    def mean(self) -> float:
        """Completions per step in the mean, where no budget decides."""
        return self.mean_completions if self.mean_completions is not None else 2.0

    @property
    def max_per_step(self) -> int:
        """Largest number of completions that a step gets."""
        return self.max_completions or max(8, min(256, round(4 * self.mean)))


class CountedLabels(LabelConfig):
    """Base of the modes that are given a number of completions per step."""

    when_null: ClassVar[int]

    completions: Annotated[int, Field(ge=1, le=256)] | None = None

    @property
    def max_per_step(self) -> int:
        """Largest number of completions that a step gets; `legacy` counts the rollout itself."""
        return self.completions or self.when_null


class ExactLabels(CountedLabels):
    """Samples a fixed number of completions per step; the label is the share that is right."""

    when_null: ClassVar[int] = 8

    mode: Literal["exact"] = "exact"
    """Exactly `completions` per step; the label is the share that is right."""
    completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Number of completions per step, 8 when `null`."""


class HardLabels(CountedLabels):
    """Samples completions until one is right; the label is 1 if one is, otherwise 0."""

    when_null: ClassVar[int] = 16

    mode: Literal["hard"] = "hard"
    """Completions until one is right; the label is 1 if one is, otherwise 0."""
    completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Maximum number of completions per step, 16 when `null`."""


class LegacyLabels(CountedLabels):
    """Follows DreamPRM's rule, which stops early and is biased by up to 0.05; use it only to compare with DreamPRM's
    labels.
    """

    when_null: ClassVar[int] = 11

    mode: Literal["legacy"] = "legacy"
    """DreamPRM's rule, which stops early and is biased by up to 0.05; use it only to compare with its labels."""
    completions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Maximum number of samples per step, the rollout itself included; 11 when `null`."""


AnyLabelConfig = Annotated[PooledLabels | ExactLabels | HardLabels | LegacyLabels, OneOf("mode", "pooled")]


class JudgeSamplingConfig(SamplingConfig):
    """Sets how a judgement is sampled."""

    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 is greedy decoding: one opinion. Several votes need a temperature above 0."""
    max_tokens: int = Field(default=2048, ge=1)
    """Maximum length of one judgement with its reasons, in tokens."""


class JudgeConfig(Config):
    """Says how `curate judge` asks a language model which step of a labelled rollout is the first wrong one."""

    engine: EngineConfig
    sampling: JudgeSamplingConfig = JudgeSamplingConfig()
    samples: int = Field(default=1, ge=1, le=256)
    """Number of votes per rollout. The majority of the votes that can be read decides, step by step."""
    prompt: str | InstanceOf[Template] = "first-error"
    """Name of a template for judges (`first-error`), or a Jinja2 file of your own (`*.j2`, relative to the recipe) that
    may use `question`, `choices`, `problem`, `steps` and `solution`."""
    roles: tuple[Role, ...] = ("train",)
    """Only rollouts of these roles are judged."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of rollouts per domain and role, chosen by a hash of their id. A larger limit adds rollouts to
    those of a smaller one."""
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of the requested work (finished or not) that may fail before the command exits with code 1."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.samples} votes at temperature 0 are all the same; set sampling.temperature, too")
        if self.engine.kind == "replay":
            raise ValueError("the engine replay has rollouts and completions, no judgements; name another engine")
        return self


class ConsensusConfig(Config):
    """Keeps only those step labels that the judge agrees with (consensus filtering, arXiv 2501.07301)."""

    mask: Literal["steps", "chains"] = "steps"
    """`steps` removes a step from training when its label and the judge's verdict disagree. `chains` is the published
    rule: it removes all steps of a chain unless label and judge find the first wrong step in the same place, and then
    the steps after it."""
    threshold: float = Field(default=0.0, ge=0, lt=1)
    """A label above this counts its step as right; 0 is the published rule (at least one completion is right)."""
    unjudged: Literal["keep", "mask"] = "keep"
    """What happens to a labelled step without a verdict (not judged, no readable vote, or a tie): `keep` its label, or
    `mask` it."""


class ShardConfig(Config):
    """Says how `curate shard` turns labelled rollouts into training, meta and test examples."""

    min_graded: int = Field(default=1, ge=1)
    """A step with fewer graded completions gets no label (`null`). Steps that mode `pooled` labels from later steps are
    not affected."""
    harvest: float | None = Field(default=None, gt=0, le=1)
    """Weight of the steps of harvested completions. Each completion becomes one more training chain, whose new steps
    have the completion's outcome as their label; this costs no tokens. `null` does not use completions."""
    consensus: ConsensusConfig | None = None
    """Removes labels from training that the judge of `curate judge` disagrees with; `null` removes none."""

    @model_validator(mode="after")
    def _completions_are_not_judged(self) -> Self:
        if self.harvest is not None and self.consensus is not None and self.consensus.unjudged == "mask":
            raise ValueError("harvest has no effect with consensus.unjudged mask: no judge saw the completions")
        return self
