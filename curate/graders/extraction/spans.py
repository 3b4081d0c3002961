"""Pieces of a model's text: where it really ends, its sentences, and the block behind a heading. Pure text."""

from __future__ import annotations

import re

# What serving stacks leave behind a text: it ends there, whatever comes after.
_END_TOKENS = re.compile(
    r"</s>|<\|(?:endoftext|im_end|eot_id|end_of_text|end|return|eom_id|assistant_end|endofturn)\|>|<end_of_turn>|<eos>"
    r"|<｜end▁of▁sentence｜>|<\|end_of_sentence\|>|\[EOS\]|</?(?:assistant|bot)>\s*\Z"
)
_BREAKS = re.compile(r"<\s*/?\s*(?:br|p|div|li|tr|h[1-6])\b[^<>]{0,200}>", re.IGNORECASE)
_TAGS = re.compile(r"<\s*/?\s*(?:b|i|u|em|strong|span|center|code|font|big|mark|small)\b[^<>]{0,200}>", re.IGNORECASE)
_TEXT_COMMANDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mbox|emph|underline)\s*\{([^{}]{0,400})\}"
)
# Bold marks; a "2**3" is a power.
_BOLD = re.compile(r"(?<![\w)}])(?:\*\*|__)|(?:\*\*|__)(?![\w({])")
# Line breaks that were written out. Behind a backslash and a small n, TeX has commands.
_WRITTEN_BREAK = re.compile(r"\\n(?![a-z])")

# A chain that goes on with a question of its own, as base models do.
_NEXT_QUESTION = re.compile(
    r"^[ \t]*[*_#>]{0,4}[ \t]*(?:"
    r"(?:q|question|problem|exercise|example|input|instruction|user|human)[ \t]*\d{0,4}[ \t]*[*_]{0,2}[:：]"
    r"|(?:###[ \t]*(?:instruction|input|question|problem|user|human)\b)"
    r"|<\|(?:im_start|start_header_id|user|start)\|>|<start_of_turn>|\[INST\]"
    r"|(?:问题|問題|题目|題目|问)[ \t]*\d{0,4}[ \t]*[:：]"
    r")",
    re.IGNORECASE | re.MULTILINE,
)

_ABBREVIATIONS = (
    "approx|ave|bros|ca|capt|cf|cm|co|col|corp|dept|dr|e\\.g|ed|eq|est|etc|fig|figs|ft|gen|gov|hr|hrs|i\\.e|in|inc|jr|"
    "lb|lbs|ltd|max|mi|min|mr|mrs|ms|mt|no|nos|oz|pp|prof|rev|sec|sen|sgt|sq|sr|st|ste|univ|vol|vs|yd|u\\.s|u\\.k|"
    "a\\.m|p\\.m|b\\.c|a\\.d|d\\.c|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_ABBREVIATED = re.compile(rf"(?<!\w)(?:{_ABBREVIATIONS})\Z", re.IGNORECASE)
# Behind these a full stop may end a sentence as well: "5 in." and "in the U.S."; the next word's capital decides.
_NAMES_FOLLOW = re.compile(
    r"(?<!\w)(?:dr|mr|mrs|ms|prof|st|mt|capt|col|gen|gov|rev|sen|sgt|fig|figs|eq|no|ste|ft)\Z", re.IGNORECASE
)
_INITIAL = re.compile(r"(?<!\w)[A-Z]\Z")
_STOP = re.compile(r"(?:[.?]|(?<![\d)}])!)(?=[\"'*_)\]}$]{0,4}(?:\s|\Z))|[。！？]|\n")

_FENCE = re.compile(r"[ \t]*```\w*[ \t]*\Z")
_OPENING = re.compile(r"[ \t]*(?:\$\$|\\\[|\\begin\{\w+\*?\})[ \t]*\Z")
_CLOSING = re.compile(r"[ \t]*(?:\$\$|\\\]|\\end\{\w+\*?\}|```)[ \t.]*\Z")
_ONLY_MARKUP = re.compile(r"[\s*_#>=~|:：-]*\Z")
_OPTION = re.compile(r"^[ \t]*[(\[]?[A-Z][)\].:][ \t]+\S", re.MULTILINE)
# No sentence is longer; a model that repeats itself writes no stops.
LONGEST = 2000
# So many characters at the end of a text are read, and runs of blanks are cut to a few.
_READ = 30_000
_BLANKS = re.compile(r"[ \t]{40,}")
_EMPTY_LINES = re.compile(r"\n[ \t\n\r]{20,}")
# A block's first line with more words is prose, not a value.
_MAX_WORDS = 12


def bare(text: str) -> str:
    """A text without what surrounds words: end tokens and what follows them, HTML, TeX text commands, bold marks."""
    if ending := _END_TOKENS.search(text):
        text = text[: ending.start()]
    if "\n" not in text:
        text = _WRITTEN_BREAK.sub("\n", text)
    text = _EMPTY_LINES.sub("\n\n", _BLANKS.sub("  ", text[-_READ:]))
    text = _TAGS.sub("", _BREAKS.sub("\n", text))
    text = _TEXT_COMMANDS.sub(r"\1", text)
    return _BOLD.sub("", text)


def next_questions(text: str) -> list[int]:
    """Where lines begin that could open another question, the first line aside."""
    return [found.start() for found in _NEXT_QUESTION.finditer(text) if text[: found.start()].strip()]


def sentence_end(text: str, start: int) -> int:
    """Where the sentence that holds `start` ends, its stop left out; a line's end is one."""
    limit = min(len(text), start + LONGEST)
    for stop in _STOP.finditer(text, start, limit):
        if stop[0] == "." and _abbreviates(text, start, stop.start()):
            continue
        return stop.start()
    return limit


def _abbreviates(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation, and does not end the sentence."""
    head, tail = text[max(start, stop - 12) : stop], text[stop + 1 : stop + 4].lstrip()
    if not tail:
        return False
    if _NAMES_FOLLOW.search(head):
        return tail[:1].isalnum()
    if _ABBREVIATED.search(head):
        return not tail[:1].isupper()
    # "J. K. Rowling", "B. Because": a lone capital, where the value begins or another one follows.
    initial = _INITIAL.search(head)
    return initial is not None and (not text[start : stop - 1].strip(" \t([") or re.match(r"[A-Z]\.", tail) is not None)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the stops between them."""
    found, place = [], 0
    while place < len(text):
        end = sentence_end(text, place)
        if piece := text[place:end].strip():
            found.append(piece)
        place = end + 1
    return found


def block(text: str, start: int) -> str | None:
    r"""The value on the lines behind `start`: inside a fence, `$$` or `\[`, or the next line that has words.

    None where there is none, or where that line is prose.
    """
    closer, taken = False, list[str]()
    for line in text[start : start + 4000].split("\n"):
        if not closer and not taken and (_FENCE.match(line) or _OPENING.match(line)):
            closer = True
        elif closer and _CLOSING.match(line):
            break
        elif _ONLY_MARKUP.match(line):
            continue
        else:
            taken.append(line.strip())
            if not closer:
                break
    value = " ".join(taken)
    if not closer and _OPTION.match(value) and _OPTION.search(text, text.find(value, start) + len(value)):
        # The first of the options, listed again.
        return None
    return value if value and len(value.split()) <= _MAX_WORDS else None
