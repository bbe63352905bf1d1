"""Links that lead elsewhere or in a ring, folders, pipes and devices in the place of files, and names that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from tests.sae.hostile import case, lens, lens_settings, plain, trained


def secret(folder: Path) -> Path:
    """Write weights beside ``inside``, the folder that is loaded, and return where they are."""
    (folder / "inside").mkdir(parents=True)
    trained(folder / "outside")
    lens(folder / "outside")
    return folder / "outside"


@case("weights that are a link out of the folder", "leads out of")
def _(folder: Path) -> Path:
    target = secret(folder)
    trained(folder / "inside")
    (folder / "inside/ae.pt").unlink()
    (folder / "inside/ae.pt").symlink_to(target / "ae.pt")
    return folder / "inside"


@case("settings that are a link out of the folder", "leads out of")
def _(folder: Path) -> Path:
    target = secret(folder)
    trained(folder / "inside")
    (folder / "inside/config.json").unlink()
    (folder / "inside/config.json").symlink_to(os.path.relpath(target / "config.json", folder / "inside"))
    return folder / "inside"


@case("settings that are a link to the machine's", "leads out of")
def _(folder: Path) -> None:
    lens(folder)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to("/etc/passwd")


@case("links out over two links inside", "leads out of")
def _(folder: Path) -> Path:
    target = secret(folder)
    trained(folder / "inside")
    (folder / "inside/ae.pt").unlink()
    (folder / "inside/b").symlink_to(target / "ae.pt")
    (folder / "inside/ae.pt").symlink_to("b")
    return folder / "inside"


@case("a link to itself", "")
def _(folder: Path) -> None:
    trained(folder)
    (folder / "ae.pt").unlink()
    (folder / "ae.pt").symlink_to("ae.pt")


@case("the path itself is a link to itself", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ring").symlink_to("ring")
    return folder / "ring"


@case("folders in a ring", "no SAE of a known format")
def _(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/c").symlink_to(folder / "a")
    (folder / "a/notes.txt").write_text("nothing")


@case("weights that are a folder", "")
def _(folder: Path) -> None:
    trained(folder)
    (folder / "ae.pt").unlink()
    (folder / "ae.pt").mkdir()


@case("weights that are a pipe", "")
def _(folder: Path) -> None:
    trained(folder)
    (folder / "ae.pt").unlink()
    os.mkfifo(folder / "ae.pt")


@case("a pipe by its name", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "ae.pt")
    return folder / "ae.pt"


@case("settings that are a pipe", "")
def _(folder: Path) -> None:
    lens(folder)
    (folder / "cfg.json").unlink()
    os.mkfifo(folder / "cfg.json")


@case("weights that are an endless device", "")
def _(folder: Path) -> None:
    lens(folder)
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.safetensors").symlink_to("/dev/zero")


@case("settings that are an endless device", "")
def _(folder: Path) -> None:
    lens(folder)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to("/dev/zero")


@case("an endless device by its name", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path("/dev/zero")


@case("an index whose parts lie elsewhere", "")
def _(folder: Path) -> Path:
    secret(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(plain(), "../outside/sae_weights.safetensors")}
    (folder / "inside/model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "inside/config.json").write_text(json.dumps(lens_settings()))
    return folder / "inside"


@case("a name that is too long", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / ("a" * 5000)


@case("a name with a zero byte", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "a\0b"


@case("a home that is nobody's", "")
def _(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path("~nobody-of-this-name/sae")


@case("a folder whose name breaks the line", "\\n")
def _(folder: Path) -> Path:
    return trained(folder / "a\nb\x1b[2J\udcff", b"nothing")


@case("a part that no file has", "")
def _(folder: Path) -> Path:
    (folder / "x").mkdir(parents=True)
    (folder / "x/layer_3.safetensors").write_bytes(save(plain()))
    return Path(f"{folder}/x/layer_3.safetensors#../../etc/passwd")
