"""Templates of prompts that take time or memory without end, or reach out of their sandbox: one sentence each."""

from __future__ import annotations

import os
import time

import pytest

from curate import pipeline
from curate.errors import UserError
from curate.runtime import sandbox
from curate.text import prompts

SHOWN = "{{ question }}"
# Refused when they are read or when they are first filled in.
HOSTILE = {
    "a long loop": "{% for i in range(10**9) %}x{% endfor %}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'x' * 10**10 }}",
    "a long list": "{{ ([0] * 10**9) | length }}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "padding": "{{ 'x'.ljust(10**10) }}",
    "centring": "{{ 'x' | center(3 * 10**9) }}",
    "a format": "{{ '%3000000000d' % 1 }}",
    "a format by method": "{{ '{:>3000000000}'.format(1) }}",
    "a format by filter": "{{ '%3000000000d' | format(1) }}",
    "zeros": "{{ '1'.zfill(10**10) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(10**8) }}",
    "doubling": "{% set s = namespace(x='xx') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}{{ s.x }}",
    "replacing": "{{ ('x' * 10**5).replace('x', 'y' * 10**5) }}",
    "digits": "{{ (7 ** 60000) | string }}",
    "recursion": "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks": "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "a pipe of filters": "{{ 'x'" + " | upper" * 20_000 + " }}",
    "Python inside": "{{ ().__class__.__base__.__subclasses__() }}",
    "Python by a format": "{{ '{0.__class__.__mro__}'.format(question) }}",
    "Python by attr": "{{ question | attr('__class__') }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "another file": "{% include '/etc/passwd' %}",
    "another template": "{% extends 'x' %}",
    "an import": "{% import 'os' as os %}",
    "nothing to divide by": "{{ 1 // 0 }}",
    "half a pair": "{{ '\\ud800'.encode() }}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_one_sentence_in_bounded_time_and_memory(text):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        mine = prompts.from_file("mine.j2", SHOWN + text)
        prompts.render(mine, "How many?", ["1", "2"])
    sentence = str(caught.value)
    assert "mine.j2" in sentence and "\n" not in sentence and len(sentence) < 600
    assert time.monotonic() - began < 60
    # And the next one is served.
    assert prompts.render(prompts.from_file("good.j2", SHOWN), "How many?", []) == "How many?"


def test_a_template_that_takes_a_while_is_rendered():
    text = SHOWN + "{% for i in range(20000) %}{{ i }} {% endfor %}"
    assert prompts.render(prompts.from_file("mine.j2", text), "How many?", []).endswith("19998 19999 ")


def test_a_worker_that_was_ended_is_replaced():
    mine = prompts.from_file("mine.j2", SHOWN)
    renderer = sandbox.shared()
    assert renderer._process is not None
    renderer._process.kill()
    renderer._process.wait()
    assert prompts.render(mine, "How many?", []) == "How many?"
    renderer.close()
    assert prompts.render(mine, "How \ud800 many?", []) == "How \ud800 many?"


def test_a_prompt_is_a_file_of_text(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rollout: {engine: {kind: simulated, model: m}, prompt: mine.j2}")
    prompt = tmp_path / "mine.j2"
    os.mkfifo(prompt)
    with pytest.raises(UserError, match="is no file"):
        pipeline.load(recipe)
    prompt.unlink()
    for data, words in ((b"\xff", "cannot be read"), (b"x" * 2**20, "larger than")):
        prompt.write_bytes(data)
        with pytest.raises(UserError, match=words):
            pipeline.load(recipe)
