"""Recipes that are broken, enormous or meant to do harm: one sentence each, quickly, in bounded memory."""

from __future__ import annotations

import os
import resource
import time

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curate import pipeline
from curate.errors import UserError
from curate.recipe.parsing import read_yaml
from curate.runtime import plain_yaml

GOOD = """
name: small
rollout:
  engine: {kind: simulated, model: world}
  sampling: {temperature: 0.5}
"""


def aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


# A recipe, and words of the sentence that it gets.
HOSTILE = {
    "a section twice": ("label: {mode: exact}\nlabel: {mode: hard}", 'the key "label" twice, lines 1 and 2'),
    "a key twice": (GOOD + "  samples: 2\n  samples: 4", 'the key "samples" twice, lines 6 and 7'),
    "a key twice in braces": ("rollout: {samples: 2, 'samples': 3}", 'the key "samples" twice'),
    "aliases that multiply": (aliases(9), "values"),
    "merges that multiply": (merges(9), "values"),
    "itself": ("a: &a [*a]", "refers to itself"),
    "itself by a key": ("a: &a {b: {c: *a}}", "refers to itself"),
    "deep in brackets": ("a: " + "[" * 100_000, "nested more than"),
    "deep in braces": ("a: " + "{a: " * 100_000, "nested more than"),
    "deep in lines": ("\n".join(" " * n + "a:" for n in range(300)), "nested more than"),
    "deep in dashes": ("- " * 50_000 + "a", "nested more than"),
    "a tag that runs code": ("a: !!python/object/apply:os.system ['true']", "has a tag"),
    "a tag of its own": ("rollout: !mine {samples: 2}", "has a tag (!mine)"),
    "bytes": ("a: !!binary aGVsbG8=", "has a tag (!!binary)"),
    "infinity": (GOOD.replace("0.5", ".inf"), "not finite"),
    "no number": (GOOD.replace("0.5", ".nan"), "not finite"),
    "infinity in digits": (GOOD.replace("0.5", "1.0e+999"), "not finite"),
    "infinity as a text": (GOOD.replace("0.5", "1e999"), "finite number"),
    "no number as a text": (GOOD.replace("0.5", "'nan'"), "finite number"),
    "5,000 digits": (GOOD + "seed: " + "7" * 5000, "has a number of 5,000 characters"),
    "30 digits": (GOOD + "seed: " + "7" * 30, "which no setting can be"),
    "digits in hexadecimal": (GOOD + "seed: 0x" + "f" * 5000, "which no setting can be"),
    "sixties": (GOOD + "seed: " + "5" + ":59" * 3000, "which no setting can be"),
    "5,000 digits and a point": (GOOD.replace("0.5", "1" * 5000 + ".0"), "not finite"),
    "too many values": ("a: [" + "1," * 60_000 + "]", "more than 50,000 values"),
    "too large": ("# " + "x" * 2**20, "larger than 1,048,576 bytes"),
    "not UTF-8": (GOOD.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("name: caf\xe9".encode("latin-1"), "not UTF-8 at byte 9"),
    "half a pair": ('name: "\\ud800"', "not valid Unicode"),
    "a zero byte": ('rollout: {engine: {model: "a\\0b"}}', "zero byte"),
    "a control character": ("name: a\x07b", "not valid YAML"),
    "a key that is a list": ("? [a, b]\n: c", "a key that is not plain text"),
    "a date that is none": ("name: 2025-02-30", "an invalid value"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "an unknown alias": ("a: *nowhere", "not valid YAML"),
    "a list": ("- a\n- b", "must be a mapping"),
    "nothing": ("", "must be a mapping"),
    "an open bracket": ("a: [1, 2", "not valid YAML"),
    "a key of numbers": ("rollout: {1: 2, engine: {model: m}}", "rollout"),
    "a long key": ("rollout:\n  engine: {model: m}\n  ? " + "x" * 100_000 + "\n  : 1", "Unknown key"),
    "a long value": ("rollout: " + "x" * 100_000, "rollout"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_one_sentence_quickly(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        pipeline.load(path)
    sentence = str(caught.value)
    assert words in sentence and "\n" not in sentence and len(sentence) < 600 + len(str(path))
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


SETTINGS = [
    "seed=" + "7" * 5000,
    "seed=.inf",
    "seed=[[[[",
    "seed=!!python/none x",
    "a=" + "[" * 5000,
    "seed={a: 1, a: 2}",
]


@pytest.mark.parametrize("setting", [*SETTINGS, "rollout.sampling.temperature=.nan", ".".join("a" * 5000) + "=1"])
def test_the_same_of_set(tmp_path, setting):
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    with pytest.raises(UserError) as caught:
        pipeline.load(path, [setting])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_recipe_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml", tmp_path / "gone.yaml", tmp_path / "a\0b.yaml"):
        with pytest.raises(UserError):
            read_yaml(path)


def test_anchors_merges_and_marks_of_order_stay(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\nd: 2025-02-03\ne: 0x10\n")
    tree = read_yaml(path)
    assert tree["b"] == {"x": 3, "y": 2} and tree["c"] == [tree["a"]] * 2 and tree["e"] == 16


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("abc", min_size=1), below, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN, st.booleans())
@example("a\x85b", True)
@example(["\u2028", {"a": "\x85\n"}], True)
def test_what_is_plain_is_written_and_read_as_it_was(value, unicode):
    text = plain_yaml.dump(value, allow_unicode=unicode)
    assert plain_yaml.parse(text.encode()) == yaml.safe_load(text) == value


@given(st.text(st.sampled_from("ab:-[]{}&*!<>|'\"#%@`,?\n \t\0\ud800.0123~"), max_size=60) | st.binary(max_size=60))
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_read_or_refused_in_a_sentence(text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        plain_yaml.parse(data)
    except plain_yaml.Unreadable as error:
        assert "\n" not in str(error)
