"""The words that announce an answer, and those for yes and no, in the languages of common data sets; a table.

A recipe adds to it (`rollout.answer_words`); nothing else about a language is known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

# Nouns that announce an answer, and what may stand between them and it besides a colon ("the answer IS").
_NOUNS = {
    "ar": "الإجابة|الجواب|الاجابة",
    "bn": "উত্তর",
    "cs": "odpověď",
    "da": "svar|svaret",
    "de": "antwort|endergebnis|lösung",
    "el": "απάντηση",
    "es": "respuesta",
    "fa": "پاسخ|جواب",
    "fi": "vastaus",
    "fr": "réponse|reponse",
    "he": "תשובה|התשובה",
    "hi": "उत्तर|जवाब",
    "hu": "válasz",
    "id": "jawaban|jawabannya",
    "it": "risposta",
    "ja": "答え|答|正解|解答|回答",
    "ko": "정답|답|답변",
    "nl": "antwoord",
    "no": "svaret|svar",
    "pl": "odpowiedź|odpowiedz",
    "pt": "resposta",
    "ro": "răspuns|răspunsul",
    "ru": "ответ",
    "sv": "svar|svaret",
    "sw": "jibu",
    "te": "సమాధానం",
    "th": "คำตอบ",
    "tr": "cevap|yanıt",
    "uk": "відповідь",
    "vi": "đáp án|câu trả lời|đáp số",
    "zh": "答案|答|解答|正确选项|正確選項|选项|選項|结果|結果",
}
_VERBS = {
    "ar": "هو|هي",
    "bn": "হল|হলো",
    "cs": "je",
    "da": "er",
    "de": "ist|lautet|sind|beträgt",
    "el": "είναι",
    "es": "es|son|sería",
    "fa": "برابر است با",
    "fi": "on",
    "fr": "est|sont|serait",
    "he": "היא|הוא",
    "hi": "है",
    "id": "adalah|ialah",
    "it": "è|sono|sarebbe",
    "ja": "は",
    "ko": "은|는|이|가",
    "nl": "is|luidt",
    "no": "er",
    "pl": "to|brzmi|jest",
    "pt": "é|são|seria",
    "ro": "este|e",
    "ru": "это|равен|равна",
    "sv": "är",
    "sw": "ni",
    "te": "",
    "th": "คือ",
    "tr": "şudur",
    "uk": "це|дорівнює",
    "vi": "là",
    "zh": "是|为|為|应为|應為|应该是|應該是|就是|选|選|等于|等於",
}
# "So I choose B", where nothing else announces it.
_CHOOSES = {
    "zh": "故选|故選|所以选|所以選|因此选|因此選|应选|應選|选择|選擇|答案选|答案選|选|選",
    "ja": "選択肢",
}
_YES = {
    "ar": "نعم|صحيح",
    "bn": "হ্যাঁ",
    "cs": "ano",
    "da": "ja",
    "de": "ja|wahr|richtig",
    "el": "ναι",
    "en": "yes|true|yeah|yep",
    "es": "sí|si|verdadero",
    "fa": "بله",
    "fi": "kyllä",
    "fr": "oui|vrai",
    "he": "כן",
    "hi": "हाँ|हां",
    "hu": "igen",
    "id": "ya|benar",
    "it": "sì|vero",
    "ja": "はい",
    "ko": "예|네|맞습니다",
    "nl": "ja",
    "pl": "tak",
    "pt": "sim|verdadeiro",
    "ru": "да|верно",
    "sv": "ja",
    "sw": "ndiyo",
    "th": "ใช่",
    "tr": "evet",
    "uk": "так",
    "vi": "có|đúng",
    "zh": "是|是的|对|對|正确|正確|有",
}
_NO = {
    "ar": "لا|خطأ",
    "bn": "না",
    "cs": "ne",
    "da": "nej",
    "de": "nein|falsch",
    "el": "όχι",
    "en": "no|false|nope",
    "es": "no|falso",
    "fa": "خیر|نه",
    "fi": "ei",
    "fr": "non|faux",
    "he": "לא",
    "hi": "नहीं",
    "hu": "nem",
    "id": "tidak|salah",
    "it": "no|falso",
    "ja": "いいえ",
    "ko": "아니오|아니요",
    "nl": "nee",
    "pl": "nie",
    "pt": "não|falso",
    "ru": "нет|неверно",
    "sv": "nej",
    "sw": "hapana",
    "th": "ไม่ใช่|ไม่",
    "tr": "hayır",
    "uk": "ні",
    "vi": "không|sai",
    "zh": "否|不|不是|错|錯|错误|錯誤|没有|沒有|不对|不對",
}
# Scripts without blanks between words: no word boundary can be asked for.
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _all(table: dict[str, str], more: Iterable[str] = ()) -> tuple[str, ...]:
    found = {word for words in table.values() for word in words.split("|") if word} | set(more)
    return tuple(sorted(found, key=lambda word: (-len(word), word)))


def either(words: Iterable[str]) -> str:
    """A pattern for one of these words, whole words where the script separates them."""
    parts = (re.escape(word) if _UNSPACED.search(word) else rf"(?<!\w){re.escape(word)}(?!\w)" for word in words)
    return f"(?:{'|'.join(parts)})"


@dataclass(frozen=True)
class Words:
    """The table with a user's own words: `answer` are nouns ("svar"), `verbs` what joins them to the answer ("är")."""

    answer: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()

    @cached_property
    def nouns(self) -> str:
        """Pattern of every noun but the English ones."""
        return either(_all(_NOUNS, self.answer))

    @cached_property
    def known_nouns(self) -> tuple[str, ...]:
        """Every noun but the English ones, folded."""
        return tuple(noun.casefold() for noun in _all(_NOUNS, self.answer))

    @cached_property
    def joins(self) -> str:
        """Pattern of what may join a noun to its answer."""
        return either(_all(_VERBS, self.verbs))

    @cached_property
    def chooses(self) -> str:
        """Pattern of "so I choose"."""
        return either(_all(_CHOOSES))

    @cached_property
    def yes_no(self) -> dict[str, bool]:
        """Folded words that say yes (True) or no (False)."""
        found = {word.casefold(): True for word in _all(_YES, self.yes)}
        return found | {word.casefold(): False for word in _all(_NO, self.no)}


@lru_cache(8)
def words(
    answer: tuple[str, ...] = (), verbs: tuple[str, ...] = (), yes: tuple[str, ...] = (), no: tuple[str, ...] = ()
) -> Words:
    """The table with these words added."""
    return Words(answer, verbs, yes, no)


KNOWN = words()
