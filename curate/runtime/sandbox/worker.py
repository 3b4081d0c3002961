"""The program that a template worker runs: Jinja2 templates and values in, texts out, one line of JSON each.

Run as a file by its path, so it imports nothing of this package. A template may take so much processor time and memory,
and no more, whatever it says: loops in loops, powers, paddings.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

CPU_SECONDS = 2.0
MEMORY = 512 * 2**20
# A longer prompt is a mistake; models take a few thousand characters.
LONGEST = 2_000_000


@lru_cache(1)
def environment() -> Environment:
    """What a template may use."""
    # Prompts are plain text: nothing is to be escaped.
    made = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    # The same problem has the same prompt, always.
    del made.filters["random"], made.globals["lipsum"]
    return made


@lru_cache(16)
def compiled(text: str) -> Template:
    """The template of this text."""
    return environment().from_string(text)


def used(text: str) -> dict[str, int]:
    """The variables that a sound template takes from outside, each with the line of its first use."""
    tree = environment().parse(text)
    compiled(text)
    names = meta.find_undeclared_variables(tree) - set(environment().globals)
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in names:
            found[node.name] = min(node.lineno, found.get(node.name, node.lineno))
    return found


def line_of(error: BaseException) -> int | None:
    """The line of the template where the error came from: Jinja2 writes it into the traceback."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line if isinstance(line, int) else None


def answer(text: str, values: dict[str, Any] | None) -> dict[str, Any]:
    """`used` of a template, or its `text` with these values; or an `error` with its `line`."""
    try:
        if values is None:
            return {"used": used(text)}
        made = compiled(text).render(values)
        if len(made) > LONGEST:
            raise ValueError(f"it makes {len(made):,} characters, more than {LONGEST:,}")
        return {"text": made}
    except TemplateSyntaxError as error:
        return {"error": str(error.message), "line": error.lineno}
    except MemoryError as error:
        return {"error": f"it needs more than {MEMORY // 2**20} MB of memory", "line": line_of(error)}
    except RecursionError as error:
        return {"error": "it is nested too deep", "line": line_of(error)}
    except Exception as error:  # the user's expressions can raise anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        return {"error": words, "line": line_of(error)}


def main() -> None:
    """Answer until the input ends. A template that takes too long ends the process, even inside C code."""
    # Ctrl+C is the parent's business; it ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    # What a template could have printed must not be read as an answer.
    sys.stdout = sys.stderr
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        text, values = json.loads(line)
        # Processor time, because a busy machine is not the template's fault.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        made = json.dumps(answer(text, values))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(made + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
