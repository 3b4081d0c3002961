"""Prompt templates, by name and version: the user turn that asks for a chain of thought. Pure text.

`structured-five` asks for the five roles of DreamPRM's structured thinking (arXiv 2505.20241, its public README): the
question in own words, evidence from the image, outside knowledge, the argument, the conclusion.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from curate.config import did_you_mean
from curate.errors import UserError


@dataclass(frozen=True)
class Template:
    """`text` holds `{problem}` once; a change of text is a new version, because labels belong to one prompt."""

    name: str
    version: int
    text: str


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

_PLACEHOLDER = re.compile(r"<image\s*\d*>\s*")


def template(name: str) -> Template:
    """The template of this name; UserError with the nearest one when there is none."""
    try:
        return TEMPLATES[name]
    except KeyError:
        raise UserError(f'There is no prompt template "{name}"{did_you_mean(name, list(TEMPLATES))}') from None


def problem_text(question: str, choices: Sequence[str]) -> str:
    """Question and lettered choices.

    Image marks such as `<image1>` go, because the pictures come first. Choices that are nothing but their own letter
    (the choices stand in the picture) are not listed.
    """
    text = _PLACEHOLDER.sub("", question).strip()
    lettered = list(zip(string.ascii_uppercase, choices, strict=False))
    if all(letter == choice.strip() for letter, choice in lettered):
        return text
    return "\n".join([text, *(f"({letter}) {choice}" for letter, choice in lettered)])


def render(name: str, question: str, choices: Sequence[str]) -> str:
    """The whole user turn."""
    return template(name).text.replace("{problem}", problem_text(question, choices))
