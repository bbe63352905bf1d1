"""A causal language model split at its blocks: ``prefix`` (embed … block L) and ``suffix`` (block L … final norm).

The two halves run on the Hugging Face modules. The decoder's block list stays as it is, so that per-layer attention masks
keep their index; blocks that must not run have their ``forward`` replaced for the duration of one call.

Letters: ``B`` contexts, ``L`` positions, ``D`` d_model, ``V`` vocabulary.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError, first_line
from saebench.reference import model_folder

_PROBE_TOLERANCE = 1e-3


class _Stop(Exception):
    """Raised inside a forward pass when everything wanted has been seen."""


class BlockStack:
    """The blocks of one Hugging Face decoder, with the power to run only some of them.

    Args:
        base: The decoder without its head (``model.base_model``).
        n_layers: How many blocks it has.
    """

    def __init__(self, base: nn.Module, n_layers: int) -> None:
        self.base = base
        lists = [m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
        outer = [m for m in lists if sum(p.numel() for p in m.parameters()) > 0]
        if not outer:
            raise InputError(f"{type(base).__name__} has no plain list of {n_layers} blocks; this architecture is not supported")
        self.blocks = max(outer, key=lambda m: sum(p.numel() for p in m.parameters()))
        self._returns_tuple = False

    def learn_return_type(self, tokens: Int[Tensor, "B L"]) -> None:
        """Note whether a block returns a tensor or a tuple, by running one block."""

        def look(_module: nn.Module, _args: Any, out: Any) -> None:
            self._returns_tuple = isinstance(out, tuple)
            raise _Stop

        handle = self.blocks[0].register_forward_hook(look)
        try:
            self._forward(tokens)
        except _Stop:
            pass
        finally:
            handle.remove()

    def prefix(self, tokens: Int[Tensor, "B L"], layer: int) -> Float[Tensor, "B L D"]:
        """Return the residual stream entering block ``layer`` (``n_layers``: leaving the last). Later blocks do not run."""
        seen: list[Tensor] = []

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)
            raise _Stop

        if layer == 0:
            handle = self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self.blocks[layer - 1].register_forward_hook(after)
        try:
            self._forward(tokens)
        except _Stop:
            pass
        finally:
            handle.remove()
        return seen[0]

    def suffix(self, tokens: Int[Tensor, "B L"], hidden: Float[Tensor, "B L D"], layer: int) -> Float[Tensor, "B L D"]:
        """Return the final-norm output when ``hidden`` enters block ``layer``. Earlier blocks do not run."""
        with self._substituted(hidden, layer):
            return self._forward(tokens)

    def blocks_between(self, tokens: Int[Tensor, "B L"], hidden: Float[Tensor, "B L D"], layer: int, stop: int) -> None:
        """Run blocks ``layer`` … ``stop − 1`` on ``hidden`` for the sake of the hooks inside them, and stop there."""

        def halt(_module: nn.Module, _args: Any, _out: Any) -> None:
            raise _Stop

        handle = self.blocks[min(stop, len(self.blocks)) - 1].register_forward_hook(halt)
        try:
            self.suffix(tokens, hidden, layer)
        except _Stop:
            pass
        finally:
            handle.remove()

    def advance(
        self, tokens: Int[Tensor, "B L"], hidden: Float[Tensor, "B L D"], layer: int, stop: int
    ) -> Float[Tensor, "B L D"]:
        """Return the residual stream entering block ``stop`` when ``hidden`` enters block ``layer``; nothing else runs."""
        seen: list[Tensor] = []

        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)
            raise _Stop

        if stop == layer:
            return hidden
        handle = self.blocks[stop - 1].register_forward_hook(after)
        try:
            self.suffix(tokens, hidden, layer)
        except _Stop:
            pass
        finally:
            handle.remove()
        return seen[0]

    @contextlib.contextmanager
    def watched(self, layer: int, seen: dict[str, Tensor], name: str) -> Iterator[None]:
        """Keep in ``seen[name]`` the residual stream that enters block ``layer`` (``n_layers``: leaves the last) in a forward."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[name] = args[0] if args else kwargs["hidden_states"]

        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            seen[name] = out[0] if isinstance(out, tuple) else out

        if layer == 0:
            handle = self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self.blocks[layer - 1].register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def _forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        return self.base(input_ids=tokens, use_cache=False).last_hidden_state

    @contextlib.contextmanager
    def _substituted(self, hidden: Tensor, layer: int) -> Iterator[None]:
        def passes(value: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                out = value(args[0] if args else kwargs["hidden_states"])
                return (out,) if self._returns_tuple else out

            return forward

        def swap(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        skipped = [self.blocks[i] for i in range(layer)]
        # set in the instance's own dictionary: bridged blocks hand attribute writes on to the module they wrap
        own = [vars(block).get("forward") for block in skipped]
        handle = None
        try:
            for i, block in enumerate(skipped):
                vars(block)["forward"] = passes((lambda _: hidden) if i == layer - 1 else (lambda x: x))
            if layer == 0:
                handle = self.blocks[0].register_forward_pre_hook(swap, with_kwargs=True)
            yield
        finally:
            for block, forward in zip(skipped, own, strict=True):
                vars(block).pop("forward", None)
                if forward is not None:
                    vars(block)["forward"] = forward
            if handle is not None:
                handle.remove()


class LanguageModel:
    """A causal language model with its tokenizer, ready to be split and spliced.

    Args:
        hf: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        id: Hub id or folder, as the user named it.
        revision: The hub commit, where known.
        sha256: Content hash, for local folders.
        source: Where it was read from, if that is not ``id``.

    Raises:
        InputError: The architecture has no plain block list, or its head does something beyond the final linear map, a
            scale and a soft cap (found by comparing logits on a probe).
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Any,
        *,
        id: str,
        revision: str | None = None,
        sha256: str | None = None,
        source: str | None = None,
    ) -> None:
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.id = id
        self.name = Path(id).name if Path(id).exists() else id.split("/")[-1]
        self.revision = revision
        self.sha256 = sha256
        self._source = source or id
        self.config = hf.config.get_text_config()
        self.family: str = self.config.model_type
        self.n_layers: int = self.config.num_hidden_layers
        self.d_model: int = self.config.hidden_size
        self.d_vocab: int = self.config.vocab_size
        self.n_ctx: int = getattr(self.config, "max_position_embeddings", 0) or 2048
        self.stack = BlockStack(hf.base_model, self.n_layers)
        self._bridge: Any = None
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.hf.parameters()).dtype

    @property
    def uses_layer_norm(self) -> bool:
        """Whether the blocks normalise with LayerNorm, so that the mean over ``D`` of the residual stream has no effect."""
        norms = {type(m).__name__ for m in self.stack.blocks[0].modules() if "Norm" in type(m).__name__}
        return norms == {"LayerNorm"}

    @property
    def bridge(self) -> Any:
        """A ``TransformerBridge`` over the same weights, made when first asked for.

        It serves the sites inside a block, which have TransformerLens names, and anyone who wants TransformerLens' own tools.
        """
        if self._bridge is None:
            from saebench.lm.bridge import make_bridge

            source = self._source if self.sha256 else self.hf.config._name_or_path or self.id
            self._bridge = make_bridge(self.hf, self.tokenizer, name=self.id, source=source)
        return self._bridge

    def head(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Return logits of final-norm outputs, with the family's scale and soft cap."""
        logits = self.hf.get_output_embeddings()(hidden)
        scale = getattr(self.config, "logit_scale", None)
        if scale is not None:
            logits = logits * scale
        scaling = getattr(self.config, "logits_scaling", None)
        if scaling is not None:
            logits = logits / scaling
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @torch.inference_mode()
    def _check(self) -> None:
        probe = torch.arange(4, device=self.device).remainder(self.d_vocab)[None]
        self.stack.learn_return_type(probe)
        whole = self.hf(input_ids=probe, use_cache=False).logits[0].float()
        layer = self.n_layers // 2
        hidden = self.stack.prefix(probe, layer)
        parts = self.head(self.stack.suffix(probe, hidden, layer))[0].float()
        gap = (whole - parts).abs().max().item() / max(1.0, whole.abs().max().item())
        if not gap <= _PROBE_TOLERANCE * (1 if self.dtype == torch.float32 else 30):
            raise InputError(
                f"{self.id}: {type(self.hf).__name__} cannot be split at its blocks (logits differ by {gap:.2g}); "
                "this architecture is not supported"
            )


def load_model(
    id: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype | None = None, revision: str | None = None
) -> LanguageModel:
    """Load a causal language model and its tokenizer from the hub or from a local folder.

    Args:
        id: A hub id (``openai-community/gpt2``), a folder with config, weights and tokenizer, or ``reference``, which is bundled.
        device: ``auto`` (CUDA if there is one, else CPU), or a torch device.
        dtype: ``float32`` (default), ``bfloat16`` or ``float16``.
        revision: Hub revision; the commit it resolves to is kept on the model.

    Raises:
        InputError: There is no such model, it cannot be reached, its files are damaged, or its architecture is not supported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    place, kind = parse_device(device), parse_dtype(dtype) or torch.float32
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    folder = model_folder(id) or Path(id).expanduser()
    local = folder.is_dir()
    if not local and (folder.exists() or id.startswith((".", "/", "~")) or id.count("/") > 1):
        raise InputError(
            f"no model at {id}: it is not a folder; give a folder with config.json, or a hub id like openai-community/gpt2"
        )
    source = str(folder) if local else hub_id(id)
    if local and not (folder / "config.json").is_file():
        raise InputError(f"no model at {id}: the folder has no config.json; give the folder that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        hf = AutoModelForCausalLM.from_pretrained(source, revision=revision, config=config, dtype=kind)
    except InputError:
        raise
    except Exception as error:  # the library raises many kinds for a missing or damaged model
        raise InputError(
            f"cannot load the model {id}: {first_line(error)}; check the name, the files and the network, or give a local "
            "folder with --model"
        ) from error
    _use_one_kernel_gelu(hf)
    hf.to(place)  # pyright: ignore[reportArgumentType]
    commit = getattr(config, "_commit_hash", None)
    return LanguageModel(hf, tokenizer, id=id, revision=commit, sha256=hash_folder(folder) if local else None, source=source)


def _use_one_kernel_gelu(hf: nn.Module) -> None:
    """Let GPT-2's GELU, tanh approximation, run as one kernel; the library's own writes out every step of the formula."""
    from transformers.activations import NewGELUActivation

    for module in list(hf.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def parse_device(device: str | torch.device) -> torch.device:
    """Return the torch device named; ``auto`` takes CUDA when there is one. Raises ``InputError`` for one that is absent."""
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available here; use --device cpu")
    try:
        torch.ones(1, device=parsed).item()  # raises for whatever is absent, and for meta, which holds no numbers
    except Exception:
        raise InputError(f"no device {device} can be used here; use --device cpu, or auto") from None
    return parsed


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the torch dtype named ``float32``, ``bfloat16`` or ``float16``; ``None`` stays ``None``."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise InputError(f"unknown dtype {dtype!r}; use one of {', '.join(known)}")
    return known[dtype]


def hub_id(id: str) -> str:
    """Return the hub id of a name without an owner, as SAE files give them (``gpt2-small``, ``gemma-2-2b``)."""
    if "/" in id:
        return id
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((official for official, aliases in MODEL_ALIASES.items() if id in aliases), id)


def hash_folder(folder: Path) -> str:
    """Return the SHA-256 of a model folder's configuration and weights."""
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text())
    digest.update(json.dumps(config, sort_keys=True).encode())
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin"}):
        digest.update(path.name.encode())
        with open(path, "rb") as handle:
            for part in iter(lambda: handle.read(1 << 22), b""):
                digest.update(part)
    return digest.hexdigest()
