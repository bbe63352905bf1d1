"""Settings that are too large, too deep, ambiguous, or would make objects."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from tests.sae.formats.cases import OUT, D, S, rand
from tests.sae.hostile import canary, case, lens, lens_settings

_FILE = "cfg.json"


def with_text(name: str, value: str) -> bytes:
    """Return good settings with ``name`` set to this piece of JSON."""
    return json.dumps(lens_settings(**{name: "HERE"})).replace('"HERE"', value).encode()


JSON: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Expecting value"),
    "half a file": (json.dumps(lens_settings()).encode()[:60], "not readable JSON"),
    "a list": (b"[]", "no JSON object"),
    "a number": (b"5", "no JSON object"),
    "lists in lists, a hundred thousand deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
    "dictionaries in dictionaries, sixty deep": (with_text("x", '{"a":' * 60 + "1" + "}" * 60), "deep"),
    "a number of a million digits": (with_text("k", "1" * 1_000_000), "digits"),
    "a number of a thousand digits": (with_text("k", "1" * 1000), "absurdly large number"),
    "a number of a hundred million digits": (with_text("k", "1" * 100_000_000), "too large for a configuration file"),
    "three megabytes of empty lists": (b'{"a": [' + b"[]," * (1 << 20) + b"[]]}", "too large for a configuration file"),
    "k twice": (with_text("k", '4, "k": 5'), "'k' stands there twice"),
    "k is not a number": (with_text("k", "NaN"), "'k'"),
    "k is infinite": (with_text("k", "-Infinity"), "'k'"),
    "k overflows": (with_text("k", "1e999"), "'k'"),
    "k is a little less than 0": (with_text("k", "-1"), "k between 1"),
    "k is larger than the width": (with_text("k", "1e15"), "k between 1"),
    "k is a text that breaks the line": (with_text("k", json.dumps("a\nb\x1b[2J")), "'k'"),
    "k is a text of a megabyte": (with_text("k", json.dumps("a" * 1_000_000)), "'k'"),
    "k is a list": (with_text("k", "[4]"), "'k'"),
    "k is true": (with_text("k", "true"), "'k'"),
    "d_sae is another one": (with_text("d_sae", "1e12"), "1000000000000"),
    "the architecture is a dictionary": (with_text("architecture", '{"a": "topk"}'), "architecture"),
    "the architecture breaks the line": (with_text("architecture", '"top\\nk"'), "architecture"),
    "the site is a number": (with_text("metadata", '{"hook_name": 5}'), "hook_name"),
    "the context is below 0": (with_text("metadata", '{"context_size": -5}'), "context_size"),
    "half of a character": (with_text("x", '"\\ud800"'), "surrogate"),
    "UTF-16": (json.dumps(lens_settings()).encode("utf-16"), "codec can't decode"),
    "UTF-32": (json.dumps(lens_settings()).encode("utf-32"), "codec can't decode"),
    "a byte-order mark": (json.dumps(lens_settings()).encode("utf-8-sig"), "BOM"),
    "bytes that are no text": (b'{"a": "\xff\xff"}', "codec can't decode"),
    "zero bytes": (bytes(4096), "Expecting value"),
}  # fmt: skip
for name, (data, said) in JSON.items():

    @case(f"JSON: {name}", said)
    def _(folder: Path, data: bytes = data) -> None:
        lens(folder, settings=data)


def yaml(folder: Path, settings: str | bytes) -> None:
    """Write a transcoder of circuit-tracer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": rand(S, D), "b_enc": rand(S), "W_dec": rand(S, OUT), "b_dec": rand(OUT)}
    (folder / "layer_3.safetensors").write_bytes(save(tensors))
    start = "model_name: gpt2\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    (folder / "config.yaml").write_bytes(settings if isinstance(settings, bytes) else (start + settings).encode())


LAUGHS = "a: &a [x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20))
YAML: dict[str, tuple[str | bytes, str]] = {
    "aliases that unfold without end": (LAUGHS, "aliases"),
    "an alias of itself": ("a: &a [*a]\n", "aliases"),
    "a merge key": ("a: &a {b: 1}\nc: {<<: *a}\n", "aliases"),
    "lists in lists": ("a: " + "[" * 50_000 + "]" * 50_000, "deep"),
    "lists that never end": ("a: " + "[" * 100_000, "deep"),
    "dashes in dashes": ("a:\n  " + "- " * 20_000 + "x", "deep"),
    "a megabyte": ("a: " + "x" * (1 << 20), "too large for a configuration file"),
    "a key twice": ("model_name: llama\n", "stands there twice"),
    "a number of a hundred thousand digits": ("a: 0x" + "f" * 100_000, "absurdly large number"),
    "a number in base sixty": ("a: 1" + ":59" * 30_000, "absurdly large number"),
    "an empty number": ('a: !!int ""\n', "not readable YAML"),
    "an empty float": ('a: !!float ""\n', "not readable YAML"),
    "no date": ("a: !!timestamp x\n", "not readable YAML"),
    "no truth": ("a: !!bool x\n", "not readable YAML"),
    "a month that is not": ("a: 2024-13-41\n", "not readable YAML"),
    "a list as a key": ("? [a, b]\n: 1\n", "not readable YAML"),
    "two documents": ("---\na: 1\n", "not readable YAML"),
    "a tab": ("a:\n\tb: 1\n", "not readable YAML"),
    "no mapping": (b"- a\n- b\n", "no YAML mapping"),
    "nothing": (b"", "no YAML mapping"),
    "UTF-16": ("a: 1".encode("utf-16"), "codec can't decode"),
    "control characters": ("a: \x00\x01", "not readable YAML"),
}  # fmt: skip
for name, (settings, said) in YAML.items():

    @case(f"YAML: {name}", said)
    def _(folder: Path, settings: str | bytes = settings) -> None:
        yaml(folder, settings)


TAGS = {
    "python/object/apply:os.system": "[{0!r}]",
    "python/object/new:os.system": "[{0!r}]",
    "python/object/apply:subprocess.Popen": "[{0!r}]",
    "python/name:os.system": "''",
    "python/module:os": "''",
    "python/object/apply:eval": "[{0!r}]",
}
for tag, args in TAGS.items():

    @case(f"YAML: the tag {tag}", "could not determine a constructor")
    def _(folder: Path, tag: str = tag, args: str = args) -> None:
        yaml(folder, f"a: !!{tag} {args.format(canary(folder))}\n")
