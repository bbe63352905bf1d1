"""Examples from data sets of the hub: passages whose last word is asked for (LAMBADA), and the Children's Book Test."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saebench.data.datasets import Row, Rows, load_rows, mirror_file
from saebench.errors import InputError
from saebench.studies.cloze.examples import BLANK, Example, Texts, with_blank
from saebench.studies.cloze.scores import Right

Form = Literal["lambada", "cbt"]


class HubData(BaseModel):
    """A data set of the hub, as a task file names it under ``settings: data``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    """Hub id; where the local mirror has a folder of that name it is read instead."""
    also: tuple[str, ...] = ()
    """Other ids of the same data set, tried in turn."""
    config: str | None = None
    """Configuration, where the data set has several."""
    split: str = "test"
    revision: str | None = None
    """Hub revision; the present one if it is not given. Rows of a mirror have none."""
    form: Form
    """What a row holds: `lambada` has a `text`; `cbt` has `sentences`, a `question` with XXXXX, its `answer` and `options`."""
    order: Literal["seed", "file"] = "seed"
    """Which examples are taken where there are more than `n`: those that the seed chooses, or the first of the file."""
    rows: int = Field(default=100_000, ge=1)
    """Rows to read at most."""


_COLUMNS: dict[Form, tuple[str, ...]] = {"lambada": ("text",), "cbt": ("sentences", "question", "answer", "options")}


def hub_examples(data: HubData, how: Right, *, seed: int, n: int, data_dir: Path | None) -> Texts:
    """Return examples of a hub data set.

    Rows that cannot be asked (an empty text, no gap, an answer that is not among the candidates) are left out and counted.

    Args:
        data: Which data set, and how its rows are to be read.
        how: What will count as right; ``first_token`` has its own prompts and wants the right answer alone.
        seed: Chooses the examples where there are more than ``n``, unless the file's order does.
        n: Number of examples at most.
        data_dir: Folder of a local mirror.

    Raises:
        InputError: The data set is not to be had (the message says where its rows may be put), or has other columns.
    """
    found = _open(data, data_dir)
    rows = islice(found.rows, data.rows)
    if data.order == "seed":
        everything = list(rows)
        chosen = np.random.default_rng(seed).permutation(len(everything))
        rows = (everything[i] for i in chosen)
    examples: list[Example] = []
    left_out = 0
    read = _lambada if data.form == "lambada" else _cbt
    for row in rows:
        if len(examples) == n:
            break
        example = read(_with_columns(row, data), how)
        if example is None:
            left_out += 1
        else:
            examples.append(example)
    return Texts(name=found.origin, revision=found.revision, examples=examples, left_out=left_out)


def _open(data: HubData, data_dir: Path | None) -> Rows:
    ids = (data.id, *data.also)
    columns = ", ".join(_COLUMNS[data.form])
    advice = (
        f"Go online, or write its rows to {data.id}/{data.config or 'default'}/{data.split}.jsonl.gz, a JSON object a line with "
        f"{columns}, in a folder that --data-dir names"
    )

    def load(id: str) -> Rows:
        return load_rows(
            id, config=data.config, split=data.split, revision=data.revision, seed=None, data_dir=data_dir, advice=advice
        )

    for id in ids:
        if mirror_file(id, data.config, data.split, data_dir) is not None:
            return load(id)
    refused: list[InputError] = []
    for id in ids:
        try:
            return load(id)
        except InputError as error:
            refused.append(error)
    raise refused[0]


def _with_columns(row: Row, data: HubData) -> Row:
    missing = [name for name in _COLUMNS[data.form] if name not in row]
    if missing:
        raise InputError(f"{data.id} has no column {missing[0]!r}, which form {data.form!r} needs; it has: {', '.join(row)}")
    return row


def _lambada(row: Row, how: Right) -> Example | None:
    del how
    prompt, _, word = str(row["text"]).strip().rpartition(" ")
    return Example(prompt=prompt, candidates=(word,), answer=0) if prompt.strip() else None


def _cbt(row: Row, how: Right) -> Example | None:
    sentences, question, answer = [str(s) for s in row["sentences"]], str(row["question"]), str(row["answer"])
    if how == "first_token":
        # the notebook's own line: one character is dropped before the blank, whatever it is; where the blank comes first the
        # prompt ends in a space
        prompt = "".join(f"{s} " for s in sentences) + question.split(BLANK)[0][:-1]
        return Example(prompt=prompt, candidates=(answer,), answer=0) if prompt.strip() and answer.strip() else None
    options = list(dict.fromkeys(str(option) for option in row["options"] if str(option).strip()))
    if question.count(BLANK) != 1 or answer not in options or len(options) < 2:
        return None
    return with_blank(" ".join(sentences), question, options, answer)
