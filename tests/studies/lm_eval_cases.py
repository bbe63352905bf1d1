"""Small lm-eval tasks over local files, and lm-eval's own Hugging Face model with a plain hook in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.lm_eval import LmEval, LmEvalSettings
from tests.studies.cloze_cases import words

SITE = "blocks.1.hook_resid_pre"
BOS = "<s>"

_HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
metadata: {{version: 1.0}}
"""
TASKS = {
    "toy_ll": (
        "loglikelihood",
        """
doc_to_text: "{{text}}"
doc_to_target: " {{word}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    ),
    "toy_mc": (
        "multiple_choice",
        """
doc_to_text: "{{text}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
fewshot_split: test
num_fewshot: 1
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    ),
    "toy_roll": (
        "loglikelihood_rolling",
        """
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
""",
    ),
    "toy_gen": (
        "generate_until",
        """
doc_to_text: "{{text}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: ["w9"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
    ),
}


def write_tasks(folder: Path, n: int = 9, seed: int = 0) -> Path:
    """Write one YAML file a task, the rows they read, and a group of two of them."""
    g = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        options = [words(*g.integers(4, 96, 1 + c % 3)) for c in range(3 + i % 2)]
        rows.append(
            {
                "text": words(*g.integers(4, 96, 3 + 2 * i)),
                "long": words(*g.integers(4, 96, 20 + 17 * i)),
                "word": words(*g.integers(4, 96, 1 + i % 2)),
                "options": options,
                "label": int(g.integers(len(options))),
            }
        )
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, (kind, rest) in TASKS.items():
        (folder / f"{name}.yaml").write_text(_HEAD.format(name=name, data=data, kind=kind) + rest)
    (folder / "toys.yaml").write_text("group: toys\ntask: [toy_ll, toy_mc]\n")
    return folder


class Hooked(HFLM):
    """``HFLM`` with BOS in front of every text and, with an SAE, a forward hook that puts recons in the place of acts."""

    def __init__(self, folder: str, sae: SAE | None = None, *, splice_bos: bool = False) -> None:
        super().__init__(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
        self.spliced, self.splice_bos = sae, splice_bos
        if sae is not None:
            self.model.transformer.h[1].register_forward_pre_hook(self._put, with_kwargs=True)

    def _put(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        acts = args[0] if args else kwargs["hidden_states"]
        recon = torch.stack([self.spliced.reconstruct(a) for a in acts])  # pyright: ignore[reportOptionalMemberAccess]
        if acts.shape[1] > 1 and not self.splice_bos:  # one position alone is a later one: what is before it is cached
            recon[:, 0] = acts[:, 0]
        return ((recon, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": recon})

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        ids = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids if add_special_tokens is False or string.startswith(BOS) else [self.tokenizer.bos_token_id, *ids]

    def tok_batch_encode(self, strings: list[str], left_truncate_len: int | None = None, **kwargs: Any) -> Any:
        ids = torch.tensor([self.tok_encode(string) for string in strings])
        ids = ids[:, -left_truncate_len:] if left_truncate_len else ids
        return ids, torch.ones_like(ids)


def theirs(lm: Any, folder: Path, task: str, **options: Any) -> dict[str, Any]:
    """Return what lm-eval's own evaluation says."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(  # pyright: ignore[reportReturnType]
        model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True, **options
    )


def ours(
    port: Port, saes: list[SAE], folder: Path, task: str, *, settings: dict[str, Any] | None = None, **setting: Any
) -> list[StudyResult]:
    """Run the study."""
    chosen = LmEvalSettings(task=task, include_path=str(folder), **(settings or {}))
    return LmEval(StudySetting(port=port, seed=0, **setting), chosen).run(saes)
