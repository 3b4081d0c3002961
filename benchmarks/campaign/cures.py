"""Following a cure: what a sentence says to delete, is deleted; what it says to run, is run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_QUOTED = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"(curate|prm) [a-z]")
_PUT = re.compile(
    r"with this text: (\{.*\})|put this text in its place: (\{.*\})|write it again, with this text: (\{.*\})"
)
# What a command needs besides, by its first two words.
_RECIPE = "recipe.yaml"


def follow(sentence: str, folder: Path, workspace: str = "w") -> list[list[str]]:
    """Do by hand what a sentence says, in a folder with a workspace; the commands that it names, to be run next."""
    if put := _PUT.search(sentence):
        text = next(part for part in put.groups() if part)
        (folder / workspace / "workspace.json").write_text(text)
    if "delete" in sentence:
        _delete(sentence[sentence.index("delete") :], folder, sentence)
    if shards := re.search(r"set it back to (\d+)", sentence):
        manifest = folder / workspace / "workspace.json"
        manifest.write_text(re.sub(r'"shards": \d+', f'"shards": {shards[1]}', manifest.read_text()))
    return [_words(each, workspace) for each in _QUOTED.findall(sentence) if _COMMAND.match(each)]


def _delete(text: str, folder: Path, sentence: str) -> None:
    named = [each for each in _QUOTED.findall(text.split(" run `")[0]) if not _COMMAND.match(each)]
    if "delete it" in text[:12]:
        # What is damaged is what the sentence begins with.
        named = [re.search(r"(\S*/\S+?)(?= |,|;)", sentence.removeprefix("Error: ")) or ""]
        named = [each if isinstance(each, str) else each[1] for each in named]
    beside: Path | None = None
    for each in named:
        place = folder / each if "/" in each or beside is None else beside / each
        for path in [place] if "*" not in place.name else list(place.parent.glob(place.name)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        beside = place.parent


def _words(command: str, workspace: str) -> list[str]:
    words = command.split()
    if words[1] == "import-rollouts":
        words += ["given.jsonl", "--source", "test", "--id", "id", "--response", "text", "-r", _RECIPE]
    elif words[:2] == ["prm", "export"]:
        words[2:] = ["seed-0", "model", "--replace"]
    else:
        words[2:2] = [_RECIPE]
    return [*words, "-w", workspace]
