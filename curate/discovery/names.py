"""Names that data sets give to what a recipe asks for, the commonest first; letters and digits only, in lower case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from curate.discovery.table import SampledColumn

QUESTION = (
    "question", "problem", "query", "questiontext", "problemtext", "prompt", "instruction", "stem", "questionstem",
    "originalquestion", "q", "problemstatement", "ques", "annotattext", "input", "text", "body", "utterance", "task",
)  # fmt: skip
ANSWER = (
    "answer", "goldanswer", "finalanswer", "groundtruthanswer", "correctanswer", "groundtruth", "answerkey", "gold",
    "answers", "label", "target", "correctoption", "correctchoice", "correctletter", "correct", "answervalue", "gt",
    "ans", "referenceanswer", "reference", "answertext", "expectedanswer", "answeridx", "answerindex",
    "solutionanswer", "groundtruths", "multiplechoiceanswer", "fullanswer", "labels", "solution", "rationale", "output",
    "response", "completion",
)  # fmt: skip
# Of these a text is rather how the answer was come to than the answer.
WORKED = frozenset({"solution", "rationale", "output", "response", "completion"})
CHOICES = (
    "choices", "options", "option", "choice", "candidates", "answerchoices", "multiplechoices", "answeroptions",
    "answeroptionlist", "alternatives", "choicelist", "optionlist", "endings", "possibleanswers",
)  # fmt: skip
IMAGE = (
    "image", "images", "decodedimage", "picture", "img", "figure", "imagepath", "imgpath", "imagefile", "filename",
    "imagename", "imgname", "photo", "diagram", "chart", "pictures", "imagepaths",
)  # fmt: skip
ID = (
    "id", "pid", "qid", "uid", "questionid", "problemid", "uniqueid", "key", "idx", "index", "uuid", "sampleid",
    "itemid", "annotid", "dataid", "queid",
)  # fmt: skip
DOMAIN = ("domain", "subject", "topic", "category", "dataset", "source", "task", "subset", "skill", "datasource")
STEPS = (
    "steps", "step", "solutionsteps", "reasoningsteps", "completions", "process", "modifiedprocess", "reasoning",
    "thoughts", "chain", "originalprocess", "stepswithscore",
)  # fmt: skip
OUTCOME = ("finalanswercorrect", "isfinalanswercorrect", "outcome", "iscorrect", "answercorrect", "correct")
POLICY = ("generator", "model", "policy", "modelname", "solver", "generatormodel")
# What stands before a question and is needed to answer it.
CONTEXT = ("context", "passage", "hint", "body", "table", "premise", "paragraph", "background", "article")
UNIT = ("unit",)


def ranked(
    columns: Sequence[SampledColumn], names: Sequence[str], test: Callable[[SampledColumn], bool]
) -> list[SampledColumn]:
    """The columns that pass a test and have one of the names, or one that ends or begins with it; the best first."""
    found = [
        (rank, place, column) for place, column in enumerate(columns) if (rank := _rank(column, names)) is not None
    ]
    return [column for _, _, column in sorted(found, key=lambda each: each[:2]) if test(column)]


def _rank(column: SampledColumn, names: Sequence[str]) -> float | None:
    """0 for the commonest name; a field of a struct comes behind the same name of its own."""
    deeper = 0.5 * min(column.name.count("."), 1)
    if column.plain in names:
        return names.index(column.plain) + deeper
    near = [place for place, name in enumerate(names) if len(name) >= 5 and column.plain.endswith(name)]
    near += [place for place, name in enumerate(names) if len(name) >= 5 and column.plain.startswith(name)]
    return len(names) + near[0] + deeper if near else None
