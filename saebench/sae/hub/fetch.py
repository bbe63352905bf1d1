"""The files of one commit of a hub's repository: their names, and the few that are wanted, in the hub's ordinary cache."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saebench.errors import InputError, first_line

_TIMEOUT = 20
_MANY = 50_000
"""Files above which the hub's short listing may be cut off."""
_SETTINGS_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[str, ...]
    """Names of all its files; of those in the cache if ``offline``."""
    offline: bool = False


_known: dict[tuple[str, str, str], Snapshot] = {}


def snapshot(repo: str, revision: str | None) -> Snapshot:
    """Return the repository at the commit that ``revision`` is now.

    With ``HF_HUB_OFFLINE=1`` nothing is asked: the commit is the one that the cache knows for ``revision``, and the files are
    those that it holds.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; the main branch if ``None``.

    Raises:
        InputError: There is no such repository or revision, it may not be read, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _cached(repo, revision)
    known = _known.get((constants.ENDPOINT, repo, revision or ""))
    if known is not None:
        return known  # a commit does not change
    try:
        api = HfApi()
        info = api.model_info(repo, revision=revision, timeout=_TIMEOUT)
        names = [one.rfilename for one in info.siblings or []]
        if not names or len(names) >= _MANY:
            tree = api.list_repo_tree(repo, revision=info.sha, recursive=True)
            names = [one.path for one in tree if hasattr(one, "size")]
    except Exception as error:
        raise _refusal(error, repo, revision) from None
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise InputError(f"{constants.ENDPOINT} names no commit of {repo}; HF_ENDPOINT should be a hub that does")
    found = Snapshot(repo=repo, commit=info.sha, files=tuple(sorted(filter(_inside, names))))
    _known[constants.ENDPOINT, repo, info.sha] = found
    return found


def fetch(where: Snapshot, revision: str | None, weights: Sequence[str], settings: Sequence[str]) -> Path:
    """Bring files into the hub's cache, if they are not there, and return the folder of the snapshot.

    Args:
        where: The repository.
        revision: What the commit was called: with ``HF_HUB_OFFLINE=1`` it will be found by that name.
        weights: Fetched whatever their size.
        settings: Those of more than 1 MB are left out.

    Raises:
        InputError: As :func:`snapshot`, or the disk is full.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    missing = [name for name in settings if not isinstance(try_to_load_from_cache(where.repo, name, revision=where.commit), str)]
    try:
        if missing and not where.offline:
            infos = HfApi().get_paths_info(where.repo, missing, revision=where.commit)
            missing = [one.path for one in infos if getattr(one, "size", _SETTINGS_BYTES + 1) <= _SETTINGS_BYTES]
        paths = {name: Path(hf_hub_download(where.repo, name, revision=where.commit)) for name in (*missing, *weights)}
    except Exception as error:
        raise _refusal(error, where.repo, where.commit) from None
    name, path = paths.popitem()
    folder = path.parents[len(PurePosixPath(name).parts) - 1]
    if folder.name != where.commit:
        raise InputError(f"the hub answered with commit {folder.name} of {where.repo} when asked for {where.commit}; try again")
    if not where.offline:
        _remember(where.repo, revision or constants.DEFAULT_REVISION, where.commit)
    return folder


def repository_folder(repo: str) -> Path:
    """Return the folder in the hub's cache that holds everything of ``repo``."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))


def _inside(name: str) -> bool:
    """Return whether a name that a hub lists stays inside the folder of its snapshot."""
    return "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _cached(repo: str, revision: str | None) -> Snapshot:
    from huggingface_hub import constants

    folder, wanted = repository_folder(repo), revision or constants.DEFAULT_REVISION
    try:
        commit = wanted if _COMMIT.fullmatch(wanted) else (folder / "refs" / wanted).read_text().strip()
    except OSError:
        commit = ""
    place = folder / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not place.is_dir():
        there = sorted(one.name for one in (folder / "snapshots").glob("*") if _COMMIT.fullmatch(one.name))
        held = f"the cache holds only {', '.join(there)}: name one with @COMMIT, or" if there else "nothing of it is there:"
        raise InputError(
            f"{repo} at {wanted} is not in the cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; {held} unset "
            "HF_HUB_OFFLINE once to fetch it"
        )
    files = (one.relative_to(place).as_posix() for one in place.rglob("*") if one.is_file())
    return Snapshot(repo=repo, commit=commit, files=tuple(sorted(files)), offline=True)


def _remember(repo: str, revision: str, commit: str) -> None:
    """Note in the cache, as the hub's client does, which commit a branch was: without a network it is looked up there."""
    if revision == commit:
        return
    path = repository_folder(repo) / "refs" / revision
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    except OSError:
        pass  # a cache that is only read: online it is not needed


def _refusal(error: Exception, repo: str, revision: str | None) -> InputError:
    """Return one line that says what to do about an error of the hub's client, which raises many kinds."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, InputError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{repo} is gated: accept its terms at {hub}/{repo}, then set HF_TOKEN to a token of that account (or hf auth login)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{hub} shows no repository {repo}; check the name, or set HF_TOKEN (or hf auth login) if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{repo} has no revision {revision!r}; its branches and commits are at {hub}/{repo}/commits")
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is no id of a repository ({first_line(error)}); ids look like owner/name")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return InputError(f"no space for {repo} in {constants.HF_HUB_CACHE}; make room, or set HF_HOME to another disk")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return InputError(f"{constants.HF_HUB_CACHE} cannot be written ({error.strerror}); set HF_HOME to a folder that can")
    if constants.HF_HUB_OFFLINE:
        return InputError(f"{repo}: not all its files are in the cache and HF_HUB_OFFLINE is set; unset it once to fetch them")
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 429:
        return InputError(f"{hub} limits requests (429); wait some minutes, or set HF_TOKEN: with an account more are allowed")
    if status in (401, 403):
        return InputError(f"{hub} refuses to give {repo} ({status}); set HF_TOKEN to a token that may read it (or hf auth login)")
    if status is not None:
        return InputError(f"{hub} answers {status} for {repo} ({first_line(cause)}); try again later")
    return InputError(
        f"cannot get {repo} from {hub} ({type(cause).__name__}: {first_line(cause)}); check the network, set HF_ENDPOINT to a "
        "mirror, or HF_HUB_OFFLINE=1 to use what the cache holds"
    )
