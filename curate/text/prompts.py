"""Prompt templates, by name and version: the user turn that asks for a chain of thought, or for a verdict on one.

`structured-five` asks for the five roles of DreamPRM's structured thinking (arXiv 2505.20241, its public README): the
question in own words, evidence from the image, outside knowledge, the argument, the conclusion. A judge is asked for
the first wrong step, as in ProcessBench (arXiv 2412.06559). A user's own template is the text of a Jinja2 file, see
`from_file`; it is rendered in a process of its own (`curate.runtime.sandbox`).
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import UserError, did_you_mean
from curate.runtime import sandbox
from curate.seeds import digest
from curate.text import image_marks

# How the name of a user's own template ends, and what its text may use.
SUFFIX = ".j2"
MAX_BYTES = 2**18
VARIABLES = ("question", "choices", "problem")
# The same of a judge's template.
JUDGE_VARIABLES = (*VARIABLES, "steps", "solution")


@dataclass(frozen=True)
class Template:
    """`text` holds `{problem}` once, and a judge's `{solution}`, or is Jinja2 where `jinja` says so; a changed text is
    a new version, because labels belong to one prompt.
    """

    name: str
    version: int | str
    text: str
    jinja: bool = False


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            "structured-five",
            1,
            "Answer the question about the image in exactly five steps, each on its own line and headed "
            "'Step 1:' to 'Step 5:'.\n"
            "Step 1: say in your own words what is asked.\n"
            "Step 2: list what the image shows that matters.\n"
            "Step 3: state the knowledge or the assumptions that are needed besides.\n"
            "Step 4: put evidence and knowledge together into an argument.\n"
            "Step 5: conclude.\n"
            "Then write a last line 'Final answer: ' followed by the answer alone.\n\n"
            "{problem}",
        ),
        Template("short-five", 1, "Solve in five steps.\n{problem}"),
        Template(
            "free",
            1,
            "{problem}\n\nThink step by step, one step a paragraph, and end with a line 'Final answer: ' followed by "
            "the answer alone.",
        ),
    )
}

# Paragraphs, from 0, because the steps of a chain mostly have numbers of their own, from 1.
JUDGE_TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            "first-error",
            1,
            "Below are a problem, whose image comes first where it has one, and a solution. The solution is cut into "
            "paragraphs, which stand in tags and are numbered from 0.\n\n"
            "[Problem]\n{problem}\n\n[Solution]\n{solution}\n\n"
            "Check one paragraph after the other: look at the image again, and do each calculation again. A paragraph "
            "is wrong when it misreads the problem or the image, when something that it states is false, or when it "
            "does not follow from the paragraphs before it. Stop at the first one that is wrong.\n"
            "End with the number of that paragraph in \\boxed{}, or with \\boxed{-1} when none is wrong.",
        ),
    )
}

_FIELD = re.compile(r"\{(problem|solution)\}")


def template(name: str | Template, known: Mapping[str, Template] = TEMPLATES) -> Template:
    """The template of this name, or itself; UserError with the nearest one when there is none."""
    if isinstance(name, Template):
        return name
    try:
        return known[name]
    except KeyError:
        near = did_you_mean(name, list(known))
        raise UserError(
            f'There is no prompt template "{name}"{near}; the name of your own file must end in {SUFFIX}.'
        ) from None


def from_file(name: str, text: str, judges: bool = False) -> Template:
    """A user's own template, from the text of a Jinja2 file of this name; UserError with the line when it is not sound.

    It may use `question`, `choices` (a list, empty where there are none) and `problem`, which is what `problem_text`
    gives; one of question and problem it must use. A judge's may use `steps` (a list) and `solution`, which is what
    `solution_text` gives, and must use one of them.
    """
    try:
        lines = sandbox.shared().used(text)
    except sandbox.TemplateError as error:
        if error.line is None:
            raise UserError(f"The prompt {name} cannot be used: {error}.") from None
        raise UserError(f"The prompt {name} is not valid Jinja2, line {error.line}: {error}") from None
    used, known = set(lines), JUDGE_VARIABLES if judges else VARIABLES
    for unknown in sorted(used.difference(known), key=lambda each: lines[each]):
        near = did_you_mean(unknown, known)
        raise UserError(f'The prompt {name}, line {lines[unknown]}, uses an unknown variable "{unknown}"{near}')
    if not used & {"question", "problem"}:
        raise UserError(
            f"The prompt {name} does not show the problem, line 1: use {{{{ problem }}}} or {{{{ question }}}} in it."
        )
    if judges and not used & {"steps", "solution"}:
        raise UserError(
            f"The prompt {name} does not show the steps, line 1: use {{{{ solution }}}} or {{{{ steps }}}} in it."
        )
    return Template(name, digest(text, length=12), text, jinja=True)


def problem_text(question: str, choices: Sequence[str], images: int | None = None) -> str:
    """Question and lettered choices; `images` is the number of images, which come first, null where it is not known.

    Marks such as `<image1>` that only hold an image's place go; inside a sentence they become words, "image 1".
    Choices that are nothing but their own letter (the choices stand in the image) are not listed.
    """
    text, said = image_marks.readable(question, image_marks.unlabelled(choices), images)
    lettered = list(zip(string.ascii_uppercase, said, strict=False))
    if all(letter == choice.strip() for letter, choice in lettered):
        return text.strip()
    return "\n".join([text.strip(), *(f"({letter}) {choice}" for letter, choice in lettered)])


def solution_text(steps: Sequence[str]) -> str:
    """The steps as paragraphs in tags, numbered from 0."""
    return "\n".join(f"<paragraph_{place}>\n{step.strip()}\n</paragraph_{place}>" for place, step in enumerate(steps))


def render(name: str | Template, question: str, choices: Sequence[str], images: int | None = None) -> str:
    """The whole user turn; UserError with the line where a user's own template fails on this problem."""
    return _filled(template(name), _values(question, choices, images))


def render_judge(
    name: str | Template, question: str, choices: Sequence[str], steps: Sequence[str], images: int | None = None
) -> str:
    """The user turn of a judge, who is shown the steps of a chain."""
    values = _values(question, choices, images)
    shown = {"steps": [step.strip() for step in steps], "solution": solution_text(steps)}
    return _filled(template(name, JUDGE_TEMPLATES), values | shown)


def _values(question: str, choices: Sequence[str], images: int | None) -> dict[str, Any]:
    return {"question": question, "choices": list(choices), "problem": problem_text(question, choices, images)}


def _filled(found: Template, values: Mapping[str, Any]) -> str:
    if not found.jinja:
        # In one pass, so that braces in a problem are left alone.
        return _FIELD.sub(lambda field: str(values[field[1]]), found.text)
    try:
        return sandbox.shared().render(found.text, values)
    except sandbox.TemplateError as error:
        line = "?" if error.line is None else error.line
        raise UserError(
            f"The prompt {found.name} fails in line {line} ({error}) for a problem with "
            f"{len(values['choices'])} choices that begins {values['question'][:40]!r}; correct it there."
        ) from None
