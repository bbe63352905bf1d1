"""Verbs in their tenses, as pieces."""

from __future__ import annotations

from functools import cache
from typing import no_type_check

from saebench.data.storyworld import lexicon as lex

Codes = tuple[int, ...]
_BE = {text: lex.form(text, "verb", default=False, verb_class="be", verb_form="base") for text in ("am", "are")}
_BE["were"] = lex.form("were", "verb", default=False, verb_class="be", verb_form="past")
_NOT = lex.BY_TEXT["not"]
_WILL, _DID, _DO, _DOES = (lex.form(text, "auxiliary") for text in ("will", "did", "do", "does"))


@no_type_check
@cache
def verb_forms(lemma: str, tense: str, denied: bool = False) -> tuple[Codes, Codes, Codes]:
    """Return the pieces of a verb for "she", "I" and "they"."""
    verb = lex.VERBS[lemma]
    no = (_NOT,) if denied else ()
    if tense == "future":
        will = (_WILL, *no, verb.base)
        return will, will, will
    if lemma == "be":
        one, me, all_ = (verb.past, verb.past, _BE["were"]) if tense == "past" else (verb.third, _BE["am"], _BE["are"])
        return (one, *no), (me, *no), (all_, *no)
    if tense == "past":
        did = (_DID, *no, verb.base) if denied else (verb.past,)
        return did, did, did
    if denied:
        return (_DOES, *no, verb.base), (_DO, *no, verb.base), (_DO, *no, verb.base)
    return (verb.third,), (verb.base,), (verb.base,)


@no_type_check
def plain_form(lemma: str, shape: str) -> Codes:
    """Return the base, the form in -ing or the participle of a verb."""
    verb = lex.VERBS[lemma]
    return ({"base": verb.base, "ing": verb.ing, "pp": verb.done}[shape],)
