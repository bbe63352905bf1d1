"""Every probe task whose data lie in the mirror: counts, balance, no text in both splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from saebench.probelist import all_probe_tasks
from saebench.studies.probes.examples import MissingProbe, ProbeExamples, load_examples
from tests.studies.test_probe_examples import check

HUB_ONLY = {
    "amazon",
    "csqa2",
    "jigsaw",
    "gpt2_output",
    *(f"europarl_{language}" for language in "es en fr nl it el de pt sv".split()),
}
"""Of the 61, those that the mirror has no data for: 13."""


@pytest.fixture(scope="module")
def loaded(shared_dir: Path) -> dict[str, ProbeExamples | MissingProbe]:
    """The 61 and two of the languages, each loaded once."""
    if not (shared_dir / "data/hendrycks").is_dir():
        pytest.skip(f"no mirror of data sets at {shared_dir / 'data'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.dataset_info", _no_network)
        patch.setattr("saebench.studies.probes.package.importlib.util.find_spec", lambda *_: None)
        return {one.name: one for one in load_examples(["gao61/*", "flores/e[ls]"], data_dir=shared_dir / "data")}


def _no_network(*_, **__):
    raise ConnectionError("no network")


def test_48_of_the_61_are_there_and_the_others_say_how_to_get_them(loaded):
    missing = {name: one for name, one in loaded.items() if isinstance(one, MissingProbe)}
    assert {name.removeprefix("gao61/") for name in missing} == HUB_ONLY
    for name, one in missing.items():
        assert "--data-dir" in one.reason or "pip install" in one.reason, name
    assert len(loaded) == 61 + 2


def test_balanced_whole_and_no_text_in_both_splits(loaded):
    there = [one for one in loaded.values() if isinstance(one, ProbeExamples)]
    assert len(there) == 61 - len(HUB_ONLY) + 2
    for one in there:
        check(one)
        task = all_probe_tasks()[one.name]
        n_train, n_test = int(one.is_train.sum()), int((~one.is_train).sum())
        assert 500 <= n_train <= task.n_train and abs(n_train - n_test) <= 24, one.name
        # what was asked for, unless the texts that are different do not go so far
        assert (
            n_train == task.n_train
            or one.origin.startswith(("mirror:sae-probes", "mirror:textmachinelab", "mirror:facebook"))
            or (one.name == "gao61/virtue")
        ), one.name
        assert one.revision is None and one.classes == task.classes


def test_the_labels_are_those_of_the_texts(loaded):
    for name in loaded:
        one = loaded[name]
        if name.startswith("gao61/phrase_") and isinstance(one, ProbeExamples):
            first, second = name.removeprefix("gao61/phrase_").split("-")
            ends = [text.lower().rstrip().endswith(second) and first in text.lower()[-60:] for text in one.texts]
            assert sum(end == label for end, label in zip(ends, one.labels, strict=True)) > 0.9 * len(one), name
    scitech, world = loaded["gao61/ag_news_scitech"], loaded["gao61/ag_news_world"]
    assert isinstance(scitech, ProbeExamples) and isinstance(world, ProbeExamples)
    positive = [{text for text, label in zip(one.texts, one.labels, strict=True) if label} for one in (scitech, world)]
    assert not positive[0] & positive[1]
    greek = loaded["flores/el"]
    assert isinstance(greek, ProbeExamples)
    alphabet = [sum("α" <= letter <= "ω" for letter in text) > len(text) / 4 for text in greek.texts]
    assert alphabet == greek.labels.tolist()
