"""What the reference model's training leaves to be read: ``curve.csv``, ``curve.png`` and the model card."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from saebench.provenance import machine, source_commit, versions
from saebench.store import write_atomic

Row = dict[str, int | float]
_LINES = (
    ("loss", "training batches", "C0", "-"),
    ("ce_train", "held-out text of the training part", "C1", "-"),
    ("ce_eval", "evaluation part", "C3", "-"),
    ("bound_train", "bound, training part", "C1", ":"),
    ("bound_eval", "bound, evaluation part", "C3", ":"),
)


def write_curve(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``curve.csv`` and ``curve.png`` anew: CE in nats per token against tokens, and the bounds beside it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "curve.csv", text.getvalue().encode())
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, label, colour, style in _LINES:
        points = [(row["tokens"], row[name]) for row in rows if name in row]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=colour, label=label)
    axis.set(xlabel="tokens trained on", ylabel="nats per token", yscale="log")
    axis.grid(which="both", alpha=0.3)
    axis.legend()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    write_atomic(folder / "curve.png", data.getvalue())


def write_card(
    folder: Path,
    *,
    parameters: int,
    settings: Mapping[str, object],
    command: str,
    rows: Sequence[Row],
    why: str,
    stored: Mapping[str, float],
    device: str,
) -> None:
    """Write the model card, ``README.md``.

    Args:
        folder: The model's folder.
        parameters: Number of weights, tied ones once.
        settings: Of the run, by name.
        command: What makes this model again.
        rows: The curve.
        why: Why training ended.
        stored: CE of the weights as they are stored, by part.
        device: What it was trained on.
    """
    last, code, about = rows[-1], source_commit(), machine(device)
    commit = f"commit {code['commit']}{' (changed since)' if code['dirty'] else ''}" if code["commit"] else "no checkout"
    made_with = ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("saebench", "torch", "transformers")
    )
    chronicles = settings["chronicles"]
    third = f"\nFor training every third of the first {chronicles} documents was written as a chronicle." if chronicles else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    scores = "\n".join(
        f"| {label} | {last[f'ce_{part}']:.4f} | {stored[part]:.4f} | {last[f'bound_{part}']:.4f} | "
        f"{last[f'ce_{part}'] - last[f'bound_{part}']:+.4f} |"
        for part, label in (("train", "training part, seed not trained on"), ("eval", "evaluation part"))
    )
    text = f"""---
library_name: transformers
language: en
license: mit
pipeline_tag: text-generation
tags: [storyworld, gpt2, saebench]
---

# saebench reference model

A GPT-2-architecture language model of {parameters:,} parameters (tied embeddings counted once), trained on nothing but
storyworld, saebench's generated English-like text in which the truth about every word is known. It is made to test sparse
autoencoders and their metrics without a network; it knows no real English and is of no other use.

## Data

Part `train` of `saebench.data.storyworld`, documents of seed {settings["seed"]} from the first on, each read at most once, with
<|endoftext|> behind each; every context begins with <|endoftext|>, which is both BOS and EOS. The byte-level BPE of
{settings["vocab_size"]} tokens was trained on the first {settings["tokenizer_documents"]} of them. Held out: seed {
        int(str(settings["seed"])) + 1
    } of the same part, and of
part `eval`, whose names, occupations, homes, nouns and adjectives are combined in ways that the training part never shows.{third}

## Loss

After {int(last["step"]):,} steps, {int(last["tokens"]):,} tokens; training ended because {
        why
    }. Nats per token; the bound is −ln p of
every choice that the generator made over the tokens of the same text.

| text | CE | CE as stored (float16) | bound | CE − bound |
|---|---:|---:|---:|---:|
{scores}

![curve](curve.png)

The whole curve is in `curve.csv`. The bound also counts choices that the text does not show, so its entropy is lower and a loss
below the bound is possible; a context that begins in mid-document hides what came before, which costs.

## Making it again

```
{command}
```

| setting | value |
|---|---|
{table}

Muon for the matrices of the blocks, AdamW (β 0.9, 0.95) for the rest; linear warm-up, constant, linear to 0.
Gradient norm clipped at 1{", bfloat16 autocast" if device.startswith("cuda") else ""}; {last["seconds"]:,.0f} s of training on {
        about["device_name"]
    } ({about["device"]}). {made_with}; {commit}.
"""
    write_atomic(folder / "README.md", text.encode())
