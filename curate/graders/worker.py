"""The program that a grading worker runs: pairs of expressions in, verdicts out, one line each.

Run as a file by its path, so it imports nothing of this package, and nothing of the program that started it.
"""

import json
import logging
import resource
import signal
import sys
from typing import Any

# Some expressions ask for more memory than the machine has; the worker's share must not cost an engine its life.
MEMORY = 2 * 2**30


# Two numbers that differ by less than this share of the larger one are one number that was rounded.
RELATIVE = 1e-6
# math-verify compares to so many decimals, in which tiny numbers are all alike.
DIGITS = 30


def value(text: str) -> str:
    """The number that a formula without variables is: "p/q" where it is rational, else decimals; "none" without one."""
    from math_verify import parse

    try:
        for found in parse(f"${text.strip('$ ')}$", parsing_timeout=None):
            number = _number(found)
            if number is not None:
                return str(number)
    except Exception:  # sympy raises anything; what it cannot evaluate is no number
        return "none"
    return "none"


def _number(found: Any) -> Any:
    """A real number of sympy, exact where it is rational, else with 30 digits; None for anything else."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(found, sympy.Expr) or found.free_symbols or found.is_real is False:
        return None
    exact = found.doit()
    if exact.is_Rational:
        return exact
    number = sympy.N(exact, DIGITS)
    return number if isinstance(number, sympy.Float) else None


def _far(wanted: list[Any], given: list[Any]) -> bool:
    """Whether two lists of readings are numbers that differ, however small they are."""
    for one in wanted:
        for other in given:
            a, b = _number(one), _number(other)
            if a is not None and b is not None:
                return bool(abs(a - b) > RELATIVE * max(abs(a), abs(b)))
    return False


def judge(response: str, gold: str) -> str:
    """right, wrong, unparsed, gold-unparsed, or the name of the error that math-verify ended with."""
    from math_verify import parse, verify

    try:
        wanted = parse(f"${gold.strip('$ ')}$", parsing_timeout=None)
        if not wanted:
            return "gold-unparsed"
        given = parse(f"${response.strip('$ ')}$", parsing_timeout=None)
        if not given:
            return "unparsed"
        return "right" if verify(wanted, given, timeout_seconds=None) and not _far(wanted, given) else "wrong"
    except Exception as error:  # sympy raises anything; the grade is then undecided, by its name
        return type(error).__name__


def main() -> None:
    """Answer until the input ends. A question that takes longer than its limit ends the process, even inside C code."""
    # Ctrl+C is the parent's business; it ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    judge("1", "1")
    answers = sys.stdout
    # What a library prints must not be read as an answer.
    sys.stdout = sys.stderr
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        response, gold, limit = json.loads(line)
        # The parent kills a worker that is late; this is for a parent that was killed itself.
        signal.alarm(limit)
        verdict = value(response) if gold is None else judge(response, gold)
        signal.alarm(0)
        answers.write(verdict + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
