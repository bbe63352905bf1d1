"""Loading a large SAE: peak memory over the file's size, and seconds beside the container's own reader, in the same run.

    python benchmarks/load.py --json benchmarks/figures/load.json

Files of about 1 GB in float32 are written to ``--folder`` and taken away again. Every load is a process of its own; its peak is
that of the resident memory, pages of mapped files included, less what was resident before it. The peers give tensors back and
read each number once (a sum), as mapped ones would otherwise not be read at all. ``load_sae`` besides checks that all are
finite, hashes them and makes the SAE, so the peers are also measured with that check and that hash, made as one would without
care. ``inspect`` is the whole process from the shell, in seconds of the clock and of the processor, beside one that does nothing
and one that only imports torch; ``--only inspect`` measures that alone and leaves the other figures of the file as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

D_IN = 2048
PEERS = {
    "sae_lens standard": "safetensors",
    "sae_lens topk, rescaled by decoder norms": "safetensors",
    "sparsify": "safetensors",
    "dictionary_learning": "torch",
    "gemma_scope": "numpy",
}


def status(key: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def ours(path: str) -> Callable[[], Any]:
    from saebench.registry import FORMATS
    from saebench.sae import load_sae

    list(FORMATS.items())
    return lambda: load_sae(path)


def peer(kind: str, path: str) -> Callable[[], Any]:
    """Return what reads the one file of weights at ``path`` with its container's own reader."""
    import torch

    file = next(one for one in Path(path).rglob("*") if one.suffix in (".safetensors", ".pt", ".npz"))

    kind, _, more = kind.partition("+")

    def summed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        digest = hashlib.sha256()
        for tensor in tensors.values():
            if more:
                assert bool(torch.isfinite(tensor).all())
                digest.update(tensor.numpy().data)
            else:
                tensor.sum()
        return tensors

    if kind == "safetensors":
        from safetensors.torch import load_file

        return lambda: summed(load_file(file))
    if kind == "torch":
        return lambda: summed(torch.load(file, weights_only=True, map_location="cpu"))

    def arrays() -> dict[str, torch.Tensor]:
        with np.load(file, allow_pickle=False) as archive:
            return summed({name: torch.from_numpy(archive[name]) for name in archive.files})

    return arrays


def one(kind: str, path: str) -> None:
    """Load once and print peak bytes above what was resident, and seconds."""
    load = ours(path) if kind == "ours" else peer(kind, path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    before, clock, used = status("VmRSS"), time.perf_counter(), time.process_time()
    kept = load()
    row = {"peak": status("VmHWM") - before, "s": time.perf_counter() - clock, "cpu_s": time.process_time() - used}
    del kept
    print(json.dumps(row))


def write(folder: Path, d_sae: int) -> dict[str, Path]:
    """Write one SAE of each kind and return their folders."""
    import torch
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(0)
    big = torch.randn(d_sae, D_IN, generator=g).mul_(0.01)
    turned = big.T.contiguous()
    bias, offset = torch.randn(d_sae, generator=g), torch.randn(D_IN, generator=g)
    paths = {name: folder / f"layers.{at}" for at, name in enumerate(PEERS)}
    for path in paths.values():
        path.mkdir(parents=True)
    lens: dict[str, Any] = {"d_in": D_IN, "d_sae": d_sae, "apply_b_dec_to_input": True, "normalize_activations": "none"}
    lens["metadata"] = {"hook_name": "blocks.0.hook_resid_pre"}
    native = {"W_enc": turned, "b_enc": bias, "W_dec": big, "b_dec": offset}
    for name, more in (
        ("sae_lens standard", {}),
        ("sae_lens topk, rescaled by decoder norms", {"rescale_acts_by_decoder_norm": True}),
    ):
        save_file(native, paths[name] / "sae_weights.safetensors")
        cfg = lens | {"architecture": name.removesuffix(", rescaled by decoder norms").split()[-1], "k": 32} | more
        (paths[name] / "cfg.json").write_text(json.dumps(cfg))
    linear = {"encoder.weight": big, "encoder.bias": bias}
    save_file(linear | {"W_dec": big.clone(), "b_dec": offset}, paths["sparsify"] / "sae.safetensors")
    (paths["sparsify"] / "cfg.json").write_text(json.dumps({"k": 32, "d_in": D_IN, "num_latents": d_sae, "expansion_factor": 32}))
    torch.save(linear | {"decoder.weight": turned, "bias": offset}, paths["dictionary_learning"] / "ae.pt")
    trainer = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D_IN, "dict_size": d_sae, "layer": 0}}
    (paths["dictionary_learning"] / "config.json").write_text(json.dumps(trainer))
    arrays: Any = {key: tensor.numpy() for key, tensor in (native | {"threshold": bias.abs()}).items()}
    np.savez(paths["gemma_scope"] / "params.npz", **arrays)
    return paths


def called(words: list[str]) -> dict[str, Any]:
    """Run a command and return its last line as JSON, with seconds of the clock and of the processor."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    clock, before = time.perf_counter(), os.times()
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    seconds, after = time.perf_counter() - clock, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return {"wall": seconds, "cpu": used, "row": json.loads(last) if last.startswith("{") else None}


def middle(values: list[float], digits: int = 2) -> float:
    return round(statistics.median(values), digits)


def measure(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """Load one SAE with us and with its container's reader, in turn."""
    size = sum(one.stat().st_size for one in path.iterdir())
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], PEERS[name]: [], f"{PEERS[name]}+check": []}
    for _ in range(rounds):
        for kind, rows in runs.items():
            rows.append(called([sys.executable, __file__, "--one", kind, str(path)])["row"])
    row: dict[str, Any] = {"case": name, "file_bytes": size, "peer": PEERS[name], "rounds": rounds}
    for side, rows in zip(("ours", "peer", "peer_checked"), runs.values(), strict=True):
        row[f"{side}_peak_over_file"] = max(round(r["peak"] / size, 3) for r in rows)
        row |= {f"{side}_{key}": middle([r[key] for r in rows]) for key in ("s", "cpu_s")}
    row["cpu_over_peer_checked"] = middle([a["cpu_s"] / c["cpu_s"] for a, _, c in zip(*runs.values(), strict=True)])
    return row


def processes(paths: dict[str, Path], rounds: int) -> dict[str, dict[str, Any]]:
    """Return the seconds of whole processes, in turn: ``inspect`` of each SAE, and what a process costs anyway."""
    python = [sys.executable]
    words = {f"python -c {code!r}": [*python, "-c", code] for code in ("pass", "import torch")}
    words |= {f"saebench inspect, {name}": [*python, "-m", "saebench", "inspect", str(path)] for name, path in paths.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in words}
    for _ in range(rounds):
        for name, command in words.items():
            runs[name].append(called(command))
    return {
        name: {
            "wall_s": middle([one["wall"] for one in found]),
            "wall_s_min": round(min(one["wall"] for one in found), 2),
            "wall_s_max": round(max(one["wall"] for one in found), 2),
            "cpu_s": middle([one["cpu"] for one in found]),
            "rounds": rounds,
        }
        for name, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the files are written; a temporary folder if absent")
    parser.add_argument("--d-sae", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["load", "inspect"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        return one(*args.one)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = write(Path(folder), args.d_sae)
        found: dict[str, Any] = {}
        if args.only != "inspect":
            found["load"] = [measure(name, path, args.rounds) for name, path in paths.items()]
        if args.only != "load":
            found["process"] = processes(paths, args.rounds)
    for row in found.get("load", []):
        print(row)
    for name, row in found.get("process", {}).items():
        print(f"{name:60s}{row}")
    if args.json:
        before = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps(before | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
