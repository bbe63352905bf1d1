"""What a latent's page says besides what the pass over the text saw: from records, or the reason why it is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from saebench.dashboard.drawing import number
from saebench.dashboard.logits import Pushed
from saebench.dashboard.records import Known, Row
from saebench.report.figures.sources import Source, task_name

_SHOWN = ("helpful", "harmful")
_WAYS = ("promoted", "suppressed")


class Lack(NamedTuple):
    """What is said where nothing is known."""

    text: str
    command: str | None = None
    """The command that would make it."""


class Patterns(NamedTuple):
    """N2G patterns of one latent."""

    origin: str
    facts: list[tuple[str, str]]
    lines: list[str]


class Ablated(NamedTuple):
    """What taking one latent out did."""

    origin: str
    facts: list[tuple[str, str]]
    promoted: list[Pushed]
    suppressed: list[Pushed]


class Table(NamedTuple):
    """Rows of texts under their heads."""

    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Of one latent."""

    patterns: Patterns | Lack
    ablated: list[Ablated] | Lack
    probes: Table | Lack
    scores: Table | Lack
    f1: float | None = None
    badges: list[str] = field(default_factory=list)
    """What the index says of it."""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The command that would make the records of each study."""

    ablation: str
    probes: str
    cloze: str


def sections_of(
    latents: Sequence[int],
    known: Known,
    computed: Mapping[int, dict[str, Any]],
    no_patterns: Mapping[int, str],
    commands: Commands,
) -> dict[int, Sections]:
    """Return what is known of each latent.

    Args:
        latents: Which.
        known: Records of their SAE.
        computed: Rows of the table ``n2g`` that were made now.
        no_patterns: Why a latent has neither such a row nor one in the records.
        commands: For what is missing.
    """
    rows = {study: _by_latent(known.rows(study, latents)) for study in ("n2g", "ablation", "cloze")}
    probes = [row for row in known.rows("probes") if row.values["source"] == "sae"]
    won = _by_latent(probes)
    out = {}
    for latent in latents:
        of_record, own = rows["n2g"].get(latent, []), computed.get(latent)
        patterns: Patterns | Lack
        best: dict[str, Any] | None = None
        if of_record:
            best, origin = of_record[0].values, f"from the records: {of_record[0].task}"
            patterns = _patterns(best, origin)
        elif own is not None:
            best, patterns = own, _patterns(own, "made now, on one half of the text named above and judged on the other")
        else:
            patterns = Lack(no_patterns[latent])
        scores, tasks = rows["cloze"].get(latent, []), won.get(latent, [])
        listed = [(row.values["q"], row.values["role"]) for row in scores if row.values["role"] in _SHOWN]
        roles = [f"{role}, q = {number(q)}" for q, role in sorted(listed)[:1]]  # the surest
        wins = [f"{len(tasks)} probe task{'s' * (len(tasks) > 1)}"] if tasks else []
        out[latent] = Sections(
            patterns=patterns,
            ablated=_ablated(rows["ablation"].get(latent, []), known.of_study("ablation"), commands.ablation),
            probes=_probes(tasks, probes, commands.probes),
            scores=_scores(scores, known.of_study("cloze"), commands.cloze),
            f1=None if best is None else best["f1"],
            badges=[*roles, *wins],
        )
    return out


def _by_latent(rows: Sequence[Row]) -> dict[int, list[Row]]:
    out: dict[int, list[Row]] = {}
    for row in rows:
        if row.values["latent"] is not None:
            out.setdefault(row.values["latent"], []).append(row)
    return out


def _patterns(values: Mapping[str, Any], origin: str) -> Patterns:
    facts = [(name, number(values[key])) for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))]
    facts.append(("F1, no match missed", number(values["f1_backtracking"])))
    facts.append(("built from", f"{values['n_build']:,} activations"))
    facts.append(("judged on", f"{values['n_recall']:,} activations, {values['n_matched']:,} matches"))
    if values["status"] != "ok":
        facts.append(("on that text", values["status"]))
    return Patterns(origin, facts, [line for line in values["patterns"].split("\n") if line])


def _ablated(rows: Sequence[Row], sources: Sequence[Source], command: str) -> list[Ablated] | Lack:
    if not rows:
        if not sources:
            return Lack("Not measured. Its ablation effect comes from the records of", command)
        return Lack(f"Not measured: it is active at none of the tokens at which {_tasks(sources)} took latents out.")
    out = []
    for row in rows:
        v = row.values
        facts = [
            ("taken out", f"{v['ablations']:,} times, of mean activation {number(v['mean_value'])}"),
            ("ablation sparsity", f"{number(v['sparsity'])}; {number(v['sparsity_spliced'])} with the recon spliced in"),
            ("share of the effect on the next token", number(v["next_share"])),
        ]
        lists = [
            [
                Pushed(token, value)
                for token, value in zip(v[f"{way}_next_ids"], v[f"{way}_next_logits"], strict=True)
                if value is not None
            ]
            for way in _WAYS
        ]
        out.append(Ablated(f"from the records: {row.task}", facts, *lists))
    return out


def _probes(won: Sequence[Row], all_: Sequence[Row], command: str) -> Table | Lack:
    if not all_:
        return Lack("Not measured. The probe tasks that it wins come from the records of", command)
    if not won:
        return Lack(f"It is the best latent of none of the {len(all_)} probe tasks in the records.")
    rows = [
        [r.values["task"], *(number(r.values[key]) for key in ("acc", "auc", "loss", "weight")), r.task]
        for r in sorted(won, key=lambda r: (r.values["loss"] is None, r.values["loss"], r.values["task"]))
    ]
    return Table(["probe task", "accuracy", "AUC", "loss, nats", "weight", "record"], rows)


def _scores(rows: Sequence[Row], sources: Sequence[Source], command: str) -> Table | Lack:
    if not rows:
        if not sources:
            return Lack("Not measured. Whether it goes with help or harm comes from the records of", command)
        return Lack(f"It is active in no prompt of {_tasks(sources)}.")
    out = []
    for row in rows:
        v = row.values
        ablated = "n/a"
        if v["ablated_delta_lnp_mean"] is not None:
            ablated = f"{number(v['ablated_delta_lnp_mean'])} ± {number(v['ablated_delta_lnp_stderr'])} (n = {v['ablated_n']})"
        numbers = [number(v[key]) for key in ("delta_lnp_mean", "delta_lnp_z", "p", "q", "sign_mean")]
        out.append([row.task, v["role"] or "not listed", f"{v['n_active']:,}", *numbers, ablated])
    heads = ["record", "role", "prompts", "mean Δ ln p", "z", "p", "q", "±1 score", "Δ ln p when taken out"]
    return Table(heads, out)


def _tasks(sources: Sequence[Source]) -> str:
    return ", ".join(dict.fromkeys(f"{task_name(s.record)}, seed {s.record.seed}" for s in sources))
