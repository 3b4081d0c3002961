"""Token ids to text, and where in the text each token ends: the one place where every engine's tokens become text.

A byte-level tokenizer may split one character over several tokens. The end of a token is then the end of the last
whole character, so that `text[:ends[i]]` is always the text that is settled after token i. Bytes that never become a
character are written as U+FFFD, as `tokenizer.decode` does.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

_UTF8 = codecs.getincrementaldecoder("utf-8")
_REPLACEMENT = "\ufffd"


def join_bytes(pieces: Iterable[bytes]) -> tuple[str, list[int]]:
    """The text of UTF-8 pieces, and its settled length in characters after each piece.

    `ends` never falls, and its last entry is `len(text)`: what an unfinished character leaves behind belongs to the
    last piece.
    """
    pieces = list(pieces)
    if (whole := b"".join(pieces)).isascii():
        return whole.decode(), list(accumulate(map(len, pieces)))
    decoder = _UTF8("replace")
    chunks: list[str] = []
    ends: list[int] = []
    length = 0
    for piece in pieces:
        chunk = decoder.decode(piece)
        chunks.append(chunk)
        length += len(chunk)
        ends.append(length)
    rest = decoder.decode(b"", True)
    if ends:
        ends[-1] += len(rest)
    return "".join([*chunks, rest]), ends


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table), to that byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


class Detokenizer:
    """Callable: token ids to (text, ends), see `join_bytes`. Special tokens have no text.

    `tokenizer` is a fast tokenizer of `transformers`. For a byte-level one the bytes of every token are known
    beforehand, which costs well under a microsecond a token; any other is decoded in windows, some 50 times slower.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._bytes = self._table() if _is_byte_level(tokenizer) else None

    def __call__(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Text of `ids`, and for each id the settled length of the text after it, in characters."""
        if self._bytes is not None:
            table = self._bytes
            return join_bytes([table[id_] if id_ < len(table) else b"" for id_ in ids])
        return self._in_windows(ids)

    def _table(self) -> list[bytes]:
        alphabet = byte_alphabet()
        vocabulary = self._tokenizer.get_vocab()
        table = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, id_ in vocabulary.items():
            if id_ not in self._special:
                spelled = all(letter in alphabet for letter in token)
                table[id_] = bytes(alphabet[letter] for letter in token) if spelled else token.encode()
        return table

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _in_windows(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Decode from the last settled token but one on: what a token adds may depend on its left neighbour only."""
        ids = list(ids)
        text, ends = "", list[int]()
        start = settled = 0
        for place in range(1, len(ids) + 1):
            before, now = self._decode(ids[start:settled]), self._decode(ids[start:place])
            whole = not now.endswith(_REPLACEMENT) or place == len(ids)
            if whole and len(now) > len(before):
                text += now[len(before) :]
                start, settled = settled, place
            ends.append(len(text))
        return text, ends


def _is_byte_level(tokenizer: Any) -> bool:
    from tokenizers.decoders import ByteLevel

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and isinstance(backend.decoder, ByteLevel)
