"""Lambada and the Children's Book Test, clean and with eight SAEs of one site, against lm-eval's ``HFLM`` with a hook.

Both sides answer the same requests by the method that lm-eval calls (``loglikelihood``): ``HFLM`` nine times, a forward hook in
eight of them; saebench once for all nine (``saebench run --task lm-eval:…``). The hook calls the same SAE code, so what is
measured is what sharing the prefix, the clean suffix and the contexts of candidates saves, and leaving out what nobody reads.
``HFLM`` has its own model as transformers loads it, float32, and the batch size that was fastest for it of those tried. The
documents are dealt into parts, and the two sides take turns on them; seconds are the processor's; reading and loading are left
out on both. Questions longer than the model's context lose words at the front beforehand, as many for each candidate. The study
``cloze`` is timed on the first part: it takes the CE of the prompts as well, for which ``HFLM`` has nothing.

The answers of both sides are compared: the same are right, and ln p is the same within 1e-4. TopK is a step: where two latents
are equal but for rounding, another shape of batch may keep another of them; and ``HFLM`` adds up ln p in float32, which is not
enough for a sentence. Documents that differ by more are asked once more, one text at a time, ln p of ``HFLM`` in float64.

    python -m benchmarks.behaviour --shared ../shared --json benchmarks/figures/behaviour.json

``--documents`` takes a sample; on GPT-2 small one is taken in any case. ``HFLM`` may be timed with fewer SAEs (``--hooked``), as
each takes it as long: its nine passes are then the clean one and eight times the mean of the others. ``--layer`` puts the site
before another block. ``--shared`` is a folder with ``models/stories260K``, ``models/gpt2-tokenizer`` and ``data``.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from saebench.lm.branches import takes_branches
from saebench.lm.lm_eval import SplicedLM
from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.provenance import machine, peak_memory_bytes, versions
from saebench.sae import SAE, SAEConfig
from saebench.sae.sae import SAEWeights
from saebench.studies.cloze.encoding import encode, make_rows
from saebench.studies.cloze.examples import Example
from saebench.studies.cloze.hub import HubData, hub_examples
from saebench.studies.cloze.passes import answers
from saebench.studies.cloze.scores import Right
from saebench.studies.lm_eval.passes import Passes

N_SAES = 8
TOLERANCE = 1e-4
Said = tuple[np.ndarray, np.ndarray]
"""ln p and whether the continuation is the greedy one, each ``[pass, request]``."""


@dataclass(frozen=True)
class Case:
    """What is asked of which model."""

    model: str
    task: str
    layer: int
    d_sae: int
    k: int
    hooked: int
    """SAEs that ``HFLM`` is timed with, where ``--hooked`` says nothing."""
    documents: int
    """How many there are of a sample, where ``--documents`` says nothing."""
    batches: tuple[int, ...]
    """Batch sizes tried for ``HFLM``."""
    tried_on: int
    """Documents that they are tried on, and that our peak of memory is taken with."""

    @property
    def name(self) -> str:
        """What the figures call it."""
        return f"{self.model}, {self.task}, clean + {N_SAES} SAEs at {self.site}"

    @property
    def site(self) -> str:
        """Where the SAEs are."""
        return f"blocks.{self.layer}.hook_resid_pre"


CASES = {
    "stories-lambada": Case("stories260K", "Lambada", 3, 512, 8, 8, 5153, (1, 2, 4, 8, 16, 32, 64), 64),
    "stories-cbt": Case("stories260K", "CBT", 3, 512, 8, 8, 749, (1, 2, 5, 10, 20), 4),
    "gpt2-lambada": Case("GPT-2 small", "Lambada", 8, 24_576, 32, 2, 40, (1, 4, 8, 16), 16),
    "gpt2-cbt": Case("GPT-2 small", "CBT", 8, 24_576, 32, 1, 4, (1, 5, 10), 1),
}
DATA: dict[str, tuple[HubData, Right]] = {
    "Lambada": (HubData(id="EleutherAI/lambada_openai", form="lambada"), "last_word"),
    "CBT": (HubData(id="local/cbt_cn_rebuilt", form="cbt"), "candidates"),
}


class Hooked:
    """``HFLM`` with a forward hook before one block that puts recons in the place of acts, position 0 left clean."""

    def __init__(self, folder: str, layer: int) -> None:
        make: Any = HFLM
        self.lm = make(pretrained=folder, device="cpu", dtype="float32", batch_size=1, add_bos_token=True)
        self.sae: SAE | None = None
        blocks = self.lm.model.transformer.h if hasattr(self.lm.model, "transformer") else self.lm.model.model.layers
        blocks[layer].register_forward_pre_hook(self._put, with_kwargs=True)

    def _put(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.sae is None:
            return None
        acts = args[0] if args else kwargs["hidden_states"]
        recon = self.sae.reconstruct(acts.flatten(0, 1)).view_as(acts)
        recon[:, 0] = acts[:, 0]
        return ((recon, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": recon})

    def ask(
        self, saes: Sequence[SAE | None], requests: list[Instance], batch: int, *, exact: bool = False
    ) -> tuple[list[float], Said]:
        """Return (seconds of each pass, what it says), ln p taken and added up in float64 if ``exact``."""
        self.lm.batch_size_per_gpu, self.lm.softmax_dtype = batch, torch.float64 if exact else None
        seconds, lnp, greedy = [], [], []
        for self.sae in saes:
            start = time.process_time()
            said = self.lm.loglikelihood(requests, disable_tqdm=True)
            seconds.append(time.process_time() - start)
            lnp.append([value for value, _ in said])
            greedy.append([best for _, best in said])
        return seconds, (np.array(lnp), np.array(greedy))


class Ours:
    """saebench on one site.

    Args:
        folder: The model's.
        case: Which SAEs, where.
    """

    def __init__(self, folder: str, case: Case) -> None:
        self.model = load_model(folder, device="cpu")
        self.port = Port(self.model, case.site)
        self.saes = [random_sae(self.model.d_model, case, seed) for seed in range(N_SAES)]

    def ask(self, requests: list[Instance], batch: int | None = None) -> tuple[float, Said]:
        """Return (seconds, what the clean pass and all spliced ones say)."""
        start = time.process_time()
        lm = SplicedLM(Passes(self.port, self.saes, batch_size=batch), self.model.tokenizer, max_length=self.model.n_ctx)
        said = []
        for lm.which in range(N_SAES + 1):
            said.append(lm.loglikelihood(requests))
        seconds = time.process_time() - start
        return seconds, (np.array([[v for v, _ in one] for one in said]), np.array([[b for _, b in one] for one in said]))

    def study(self, examples: list[Example]) -> float:
        """Return the seconds of the study ``cloze``'s passes, which also score every token of the prompts."""
        start = time.process_time()
        encoded = encode(examples, self.model.tokenizer, max_context=self.model.n_ctx)
        longest = max(one.length for one in encoded), max(one.length_together for one in encoded)
        several = len(encoded[0].branches) > 1
        rows = make_rows(encoded, side_by_side=several and takes_branches(self.port, *longest))
        answers(self.port, self.saes, rows, [len(one.branches) for one in encoded])
        return time.process_time() - start


def random_sae(d_model: int, case: Case, seed: int) -> SAE:
    """Return a TopK SAE with random weights."""
    w = torch.randn(case.d_sae, d_model, generator=torch.Generator().manual_seed(seed))
    w = torch.nn.functional.normalize(w, dim=1)
    config = SAEConfig(
        activation="topk", d_in=d_model, d_out=d_model, d_sae=case.d_sae, k=case.k, name=f"random{seed}", site=case.site
    )
    return SAE(config, SAEWeights(W_enc=w.T.contiguous(), b_enc=torch.zeros(case.d_sae), W_dec=w, b_dec=torch.zeros(d_model)))


def requests_of(examples: Sequence[Example]) -> list[Instance]:
    """Return what lm-eval would ask: (context, continuation) of every candidate."""
    pairs = [(one.prompt, one.lead + word + one.rest) for one in examples for word in one.candidates]
    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]


def right(said: Said, examples: Sequence[Example]) -> np.ndarray:
    """Return who is right ``[pass, document]``: a last word that is greedy, a candidate with the highest ln p."""
    lnp, greedy = said
    if all(len(one.candidates) == 1 for one in examples):
        return greedy
    ends = np.cumsum([len(one.candidates) for one in examples])[:-1]
    return np.array([[own.argmax() == one.answer for own, one in zip(np.split(row, ends), examples, strict=True)] for row in lnp])


def choose_batch(lm: Hooked, saes: Sequence[SAE], requests: list[Instance], sizes: Sequence[int]) -> dict[int, float]:
    """Return the seconds of a clean pass and a hooked one on a few requests, by batch size."""
    lm.ask([None], requests[:2], 1)  # what the first call of all pays for
    return {size: round(sum(lm.ask([None, saes[0]], requests, size)[0]), 3) for size in sizes}


def compare(lm: Hooked, ours: Ours, examples: list[Example], found: Said, wanted: Said) -> dict[str, Any]:
    """Return how far the two sides agree, after those that differ were asked once more, alone and exactly."""
    n = len(wanted[0])
    found, wanted = (found[0][:n].copy(), found[1][:n].copy()), (wanted[0].copy(), wanted[1].copy())
    gap = np.abs(found[0] - wanted[0])
    owner = np.repeat(np.arange(len(examples)), [len(one.candidates) for one in examples])
    again = sorted(set(owner[((gap > TOLERANCE) | (found[1] != wanted[1])).any(0)].tolist()))
    if again:
        where = np.isin(owner, again)
        some = [request for request, chosen in zip(requests_of(examples), where, strict=True) if chosen]
        theirs = lm.ask([None, *ours.saes[: n - 1]], some, 1, exact=True)[1]
        for said, new in ((found, ours.ask(some, 1)[1]), (wanted, theirs)):
            for old, replaced in zip(said, new, strict=True):
                old[:, where] = replaced[:n]
    mine, other = right(found, examples), right(wanted, examples)
    return {
        "answers_compared": int(gap.size),
        "answers_beyond_1e-4": int((gap > TOLERANCE).sum()),
        "documents_asked_again_alone": len(again),
        "lnp_difference_max": float(np.abs(found[0] - wanted[0]).max()),
        "right_differently": int((mine != other).sum()),
        "right_clean": int(mine[0].sum()),
        "right_spliced": int(mine[1:].sum()),
    }


def measure(case: Case, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one case, the two sides in turn on one part of the documents after the other."""
    ours = Ours(folder, case)
    examples, total = read(case, ours, args)
    lm, hooked = Hooked(folder, case.layer), args.hooked or case.hooked
    few = requests_of(examples[: case.tried_on])
    tried = choose_batch(lm, ours.saes, few, args.batches or case.batches)
    batch = min(tried, key=lambda size: tried[size])
    say(f"{case.name}: HFLM's batch size {batch} of {tried}")
    ours.ask(few[:20])  # what the first call of all pays for
    times, agreed, study = [], [], 0.0
    for number, places in enumerate(np.array_split(np.arange(len(examples)), min(args.parts, len(examples)))):
        part = [examples[i] for i in places]
        each, wanted = lm.ask([None, *ours.saes[:hooked]], requests_of(part), batch)
        own, found = ours.ask(requests_of(part))
        times.append((each[0] + N_SAES * statistics.mean(each[1:]), own))
        agreed.append(compare(lm, ours, part, found, wanted))
        study = study or ours.study(part)
        say(f"{case.name}: part {number}: {times[-1]} s; {agreed[-1]}")
    encoded = encode(examples, ours.model.tokenizer, max_context=ours.model.n_ctx)
    hflm, saebench = (round(sum(side), 2) for side in zip(*times, strict=True))
    ratios = [theirs / own for theirs, own in times]
    row: dict[str, Any] = {
        "case": case.name,
        "d_sae": case.d_sae,
        "k": case.k,
        "documents": len(examples),
        "documents_in_all": total,
        "parts": len(times),
        "requests": sum(len(one.candidates) for one in examples),
        "tokens": sum(len(one.trunk) + len(branch) - 1 for one in encoded for branch in one.branches),
        "hflm_batch": batch,
        "hflm_batches_tried_s": tried,
        "hflm_hooked_passes_timed": hooked,
        "hflm_s": hflm,
        "saebench_s": saebench,
        "ratio": {"all": round(hflm / saebench, 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)},
        "study_cloze_ratio_of_first_part": round(times[0][0] / study, 2),
        "saebench_peak_gb": round(alone(case, folder, args) / 1e9, 3),
    }
    worst = ("lnp_difference_max",)
    row |= {key: max(one[key] for one in agreed) if key in worst else sum(one[key] for one in agreed) for key in agreed[0]}
    row["right_spliced"] = round(row["right_spliced"] / hooked, 2)
    if len(examples) < total:
        row["extrapolated_to_all"] = {key: round(row[key] * total / len(examples)) for key in ("hflm_s", "saebench_s")}
    print(json.dumps(row), flush=True)
    return row


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def read(case: Case, ours: Ours, args: argparse.Namespace) -> tuple[list[Example], int]:
    """Return (documents that the model takes whole, how many there are in all); a sample is drawn with seed 0."""
    data, how = DATA[case.task]
    examples = hub_examples(data, how, seed=0, n=1_000_000, data_dir=args.shared / "data").examples
    chosen = examples[: args.documents or case.documents]
    return [shortened(one, ours.model.tokenizer, ours.model.n_ctx) for one in chosen], len(examples)


def shortened(example: Example, tokenizer: Any, n_ctx: int) -> Example:
    """Return the example without as many words at the front as are too many for the model with the longest candidate."""

    def length(kept: str) -> int:  # BOS is one more, the last token one less
        return tokens(kept + example.lead + longest + example.rest)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    longest = max(example.candidates, key=tokens)
    words = example.prompt.split(" ")
    start = bisect.bisect_left(range(len(words)), -n_ctx, key=lambda first: -length(" ".join(words[first:])))
    return dataclasses.replace(example, prompt=" ".join(words[start:]))


def alone(case: Case, folder: str, args: argparse.Namespace) -> int:
    """Return the peak of resident memory, in bytes, of a process that runs our side of a case and nothing else."""
    key = next(key for key, value in CASES.items() if (value.model, value.task) == (case.model, case.task))
    words = ["--shared", str(args.shared), "--threads", str(args.threads), "--only", key, "--layer", str(case.layer)]
    words += ["--ours-in", folder, "--documents", str(min(case.tried_on, args.documents or case.tried_on))]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def model_folder(case: Case, shared: Path, folder: Path) -> str:
    """Return the model's folder; GPT-2 small is written there with random weights."""
    if case.model == "stories260K":
        return str(shared / "models/stories260K")
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config.from_pretrained(shared / "models/gpt2-tokenizer")).save_pretrained(folder)
        AutoTokenizer.from_pretrained(shared / "models/gpt2-tokenizer").save_pretrained(folder)
    return str(folder)


def case_of(key: str, args: argparse.Namespace) -> Case:
    """Return the case of this name, at the layer that is asked for."""
    return CASES[key] if args.layer is None else dataclasses.replace(CASES[key], layer=args.layer)


def main() -> None:
    """Run every case and print a line for each; ``--json`` writes them all to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--documents", type=int, help="documents of each case, in place of all")
    parser.add_argument("--hooked", type=int, help="SAEs that HFLM is timed with; 8 on stories260K, fewer on GPT-2 small")
    parser.add_argument("--layer", type=int, help="block before which the SAEs are, in place of the case's own")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes to try for HFLM")
    parser.add_argument("--parts", type=int, default=5, help="parts of the documents on which the two sides take turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours-in", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.ours_in:
        case = case_of(args.only[0], args)
        ours = Ours(args.ours_in, case)
        ours.ask(requests_of(read(case, ours, args)[0]))
        print(peak_memory_bytes())
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for key in args.only:
            case = case_of(key, args)
            rows.append(measure(case, model_folder(case, args.shared, Path(folder) / "gpt2"), args))
            rows[-1] |= {
                "threads": args.threads,
                "machine": machine("cpu"),
                "versions": versions() | {"lm_eval": version("lm_eval")},
            }
            if args.json:
                old = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
                merged = list({row["case"]: row for row in [*old, rows[-1]]}.values())
                args.json.write_text(json.dumps({"rows": merged}, indent=1) + "\n")
    wrong = [row["case"] for row in rows if row["right_differently"] or row["lnp_difference_max"] > TOLERANCE]
    if wrong:
        sys.exit(f"the two sides do not say the same: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
