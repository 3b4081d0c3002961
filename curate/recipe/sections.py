"""The sections of a recipe, one for each stage of `curate`.

A recipe has a `name`, a `seed` and one section per stage. Other packages add sections through the entry point group
`curate.stages` (`prm` does).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, InstanceOf, model_validator

from curate.errors import did_you_mean
from curate.graders.extraction.languages import Words, words
from curate.recipe.engine_table import known as known_engines
from curate.recipe.parsing import Config
from curate.recipe.source_sections import RESERVED, Role, SourceConfig
from curate.text.prompts import Template


class IngestConfig(Config):
    """`curate ingest`: sources to problems, images and rejects."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    max_pixels: int = Field(default=64_000_000, ge=1)
    """An image with more pixels is rejected before it is decoded."""
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
    """`curate dedup`: of problems that are the same, one stays."""

    image_distance: int = Field(default=4, ge=0, le=16)
    """How many of the 64 bits of two images' perceptual hashes may differ; candidates are looked at again."""
    text_similarity: float = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of the questions' shingles from which on two questions are the same."""
    across: bool = True
    """Between domains, too."""


class DecontaminateConfig(Config):
    """`curate decontaminate`: training problems that the meta or test set shows are left out."""

    image_distance: int = Field(default=4, ge=0, le=16)
    """How many of the 64 bits of two images' perceptual hashes may differ; candidates are looked at again."""
    text_similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of the questions' shingles, with their choices, from which on a text counts as the same."""
    other_images: bool = False
    """Whether the same text with other images, or with none on one side, is an overlap where the answers agree, too.
    Templates ("Is the function linear?") have the same text, and often the same answer, with every image."""
    min_characters: int = Field(default=60, ge=1)
    """With `other_images`: a shorter question that has an image is no overlap by its text: "How many bars?"."""
    clean: tuple[Role, ...] = ("meta", "test")
    """The sets that training must not show."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.min_characters != type(self).model_fields["min_characters"].default and not self.other_images:
            raise ValueError("min_characters has no effect without other_images: true; leave it out")
        return self


def _known_engine(name: str) -> str:
    names = ["auto", *known_engines()]
    if name not in names:
        raise ValueError(f'there is no engine "{name}"{did_you_mean(name, names)}')
    return name


class EngineConfig(Config):
    """Which engine, on which model."""

    kind: Annotated[str, AfterValidator(_known_engine)] = "auto"
    """One of `vllm`, `server`, `transformers`, `simulated`, `replay`, or of an installed package; `auto` takes vLLM
    when it is installed, else transformers, and says which."""
    model: str
    """Folder of the model, hub id, or the name that the server knows it by; for `replay`, path of a workspace."""
    revision: str | None = None
    urls: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers, for `server`."""
    in_flight: int = Field(default=128, ge=1)
    """Requests that the stage keeps under way at once."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt and output together, in tokens; the model's own limit when null."""
    max_pixels: int | None = Field(default=None, ge=1)
    """A larger image is scaled down to so many pixels before the model's own limit; null leaves it to that. A part of
    the policy."""
    stall_minutes: float = Field(default=30, gt=0)
    """When no request was answered for so long, the engine is started again; when that does not help, the command ends
    and says where it stood."""
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


class AnswerWords(Config):
    """Words of a language that announce answers or say yes and no, beside those that are known."""

    answer: tuple[str, ...] = ()
    """Nouns before an answer: `svar` for "Svar: 7"."""
    verbs: tuple[str, ...] = ()
    """What may stand between such a noun and the answer: `är` for "svaret är 7"."""
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()

    @property
    def table(self) -> Words:
        """The table of words that answers are read with."""
        return words(self.answer, self.verbs, self.yes, self.no)

    def settings(self) -> dict[str, Any]:
        """What lineage keeps of it; nothing where no word is added."""
        return {"answer_words": self.model_dump()} if self != AnswerWords() else {}


class RolloutConfig(Config):
    """`curate rollout`: problems to chains of thought."""

    engine: EngineConfig
    sampling: SamplingConfig = SamplingConfig()
    samples: Annotated[int, Field(ge=1, le=256)] | dict[Role, Annotated[int, Field(ge=1, le=256)]] = 8
    """Rollouts per problem; one number, or one for each role."""
    prompt: str | InstanceOf[Template] = "structured-five"
    """Name of a prompt template, see `curate.text.prompts`, or a Jinja2 file of your own (`*.j2`, relative to the
    recipe) with `question`, `choices` and `problem`."""
    max_steps: int = Field(default=12, ge=1)
    """A chain with more steps has its last ones merged into one."""
    min_step_characters: int = Field(default=1, ge=1)
    """A step with fewer letters and digits so far goes on; its marker does not count."""
    answer_words: AnswerWords = AnswerWords()
    """Words that announce an answer, or say yes or no, in a language that is not known yet."""
    roles: tuple[Role, ...] = ("train", "meta", "test")
    domains: tuple[str, ...] = ()
    """Only problems of these domains; of all when empty."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many problems of each domain and role, by hash of their id: a larger limit adds to a smaller one."""
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of all that is wanted, done before or not, that may fail before the command exits 1."""

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
    """Share of all prefixes, done before or not, that may fail before the command exits 1."""

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

    def takes(self, sample_index: int) -> bool:
        """Whether rollouts of this index get labels; their outcomes have no say."""
        return self.rollouts is None or sample_index < self.rollouts

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


class JudgeSamplingConfig(SamplingConfig):
    """How a judgement is drawn."""

    temperature: float = Field(default=0.0, ge=0)
    """0 asks for the judge's one opinion; several votes need more."""
    max_tokens: int = Field(default=2048, ge=1)
    """Budget of one judgement in tokens, its reasons included."""


class JudgeConfig(Config):
    """`curate judge`: a language model's opinion of labelled rollouts: which step is the first wrong one."""

    engine: EngineConfig
    sampling: JudgeSamplingConfig = JudgeSamplingConfig()
    samples: int = Field(default=1, ge=1, le=256)
    """Votes per rollout; of several the majority of those that can be read counts, step by step."""
    prompt: str | InstanceOf[Template] = "first-error"
    """Name of a judge's template, see `curate.text.prompts`, or a Jinja2 file of your own (`*.j2`, relative to the
    recipe) with `question`, `choices`, `problem`, `steps` and `solution`."""
    roles: tuple[Role, ...] = ("train",)
    limit: int | None = Field(default=None, ge=1)
    """Only so many rollouts of each domain and role, by hash of their id: a larger limit adds to a smaller one."""
    error_budget: float = Field(default=0.02, ge=0, le=1)
    """Share of all that is wanted, done before or not, that may fail before the command exits 1."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.samples} votes at temperature 0 are all the same; set sampling.temperature, too")
        if self.engine.kind == "replay":
            raise ValueError("the engine replay has rollouts and completions, no judgements; name another engine")
        return self


class ConsensusConfig(Config):
    """Train only on step labels that the judge agrees with (consensus filtering, arXiv 2501.07301)."""

    mask: Literal["steps", "chains"] = "steps"
    """`steps`: a step has weight 0 where its label and the judge's verdict disagree. `chains`: the published rule; all
    steps of a chain have, unless both find the first wrong step at the same place, and then the steps behind it."""
    threshold: float = Field(default=0.0, ge=0, lt=1)
    """A label above it calls its step right; 0 is the published any-of-N rule."""
    unjudged: Literal["keep", "mask"] = "keep"
    """What becomes of a labelled step without a verdict: not judged, no vote that can be read, or votes that tie."""


class ShardConfig(Config):
    """`curate shard`: labelled rollouts to domain-tagged training, meta and test examples."""

    min_graded: int = Field(default=1, ge=1)
    """A step with fewer graded completions has no label (null). Without effect on steps that mode `pooled` labels from
    later ones."""
    harvest: float | None = Field(default=None, gt=0, le=1)
    """Weight of steps out of completions: each completion is one more chain, whose new steps have its own outcome as
    label. Costs no tokens; null leaves completions out."""
    consensus: ConsensusConfig | None = None
    """Mask labels of training examples that the judge of `curate judge` disagrees with; null masks none."""

    @model_validator(mode="after")
    def _completions_are_not_judged(self) -> Self:
        if self.harvest is not None and self.consensus is not None and self.consensus.unjudged == "mask":
            raise ValueError("harvest has no effect with consensus.unjudged mask: no judge saw the completions")
        return self


SECTIONS: dict[str, type[Config]] = {
    "ingest": IngestConfig,
    "dedup": DedupConfig,
    "decontaminate": DecontaminateConfig,
    "rollout": RolloutConfig,
    "label": LabelConfig,
    "judge": JudgeConfig,
    "shard": ShardConfig,
}
