"""Pictures of the studies of behaviour: what they show is in the CSV beside them, and both follow from the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import StepPatch

from saebench.report.figures.draw import drawable
from saebench.report.figures.picture import Picture
from tests.report.figure_cases import (
    SAE,
    N,
    examples,
    figure,
    matrix,
    pictures,
    points,
    put_cloze,
    put_propagation,
    rows,
    sources,
)


def test_there_is_a_picture_of_everything(drawn: Mapping[str, Picture], results: Path):
    saes = {s.slug for s in sources(results) if s.study == "cloze"}
    assert len(saes) == 7 and SAE in saes
    each = {f"m/gaps@1/seed0.{kind}.{sae}" for kind in ("delta_ce", "latent_scores", "ablated_latents") for sae in saes}
    one = {"m/gaps@1/by_layer.hook_resid_pre", "m/gaps@1/seed0.delta_lnp", "m/gaps@1/seed0.delta_lnp_layers.hook_resid_pre"}
    along = {f"m/along@1/seed0.{kind}" for kind in ("propagation", "correlations", "token_delta_ce")}
    assert set(drawn) == each | one | along
    assert drawable(sources(results)).missing == []


def test_accuracy_and_ce_by_layer(drawn: Mapping[str, Picture]):
    picture = drawn["m/gaps@1/by_layer.hook_resid_pre"]
    said = rows(picture)
    assert [(row["line"], row["layer"]) for row in said] == [
        *(("relu-l1-layer*", layer) for layer in (1, 3, 10)), *(("topk-layer*", layer) for layer in (1, 3, 10)), ("odd", 3),
    ]  # fmt: skip
    assert [row["acc_spliced"] for row in said] == pytest.approx([0.45 - 0.01 * i for i in range(7)])
    assert said[-1]["ce_spliced"] is None and said[0]["acc_chance"] is None
    for axis, what in zip(figure(picture).axes, ("acc", "ce"), strict=True):
        lines = {str(c.get_label()): c for c in axis.containers if isinstance(c, ErrorbarContainer)}
        for name, shown in lines.items():
            own = [row for row in said if row["line"] == name and row[f"{what}_spliced"] is not None]
            line, _, (bars,) = shown.lines
            assert line is not None and points(line, "y") == [row[f"{what}_spliced"] for row in own]
            assert np.abs(np.array(points(line, "x")) - [row["layer"] for row in own]).max(initial=0) < 0.5
            ends = [segment[:, 1] for segment in bars.get_segments()]
            errors = [row[f"{what}_spliced_stderr"] for row in own]
            assert [high - low for low, high in ends] == pytest.approx([2 * e for e in errors])
        clean = next(line for line in axis.lines if line.get_label() == "clean")
        assert set(points(clean, "y")) == {said[0][f"{what}_clean"]} == {0.5 if what == "acc" else 2.5}


def test_seeds_have_lines_of_their_own(tmp_path: Path):
    put_cloze(tmp_path, latents=False, seeds=(0, 1))
    picture = pictures(tmp_path)["m/gaps@1/by_layer.hook_resid_pre"]
    assert {(row["line"], row["seed"]) for row in rows(picture)} == {
        (line, seed) for line in ("relu-l1-layer*", "topk-layer*", "odd") for seed in (0, 1)
    }
    labels = [text.get_text() for text in figure(picture).legends[0].get_texts()]
    assert {"topk-layer*, seed 0", "topk-layer*, seed 1", "clean, seed 0", "clean, seed 1"} <= set(labels)


def test_strips_of_delta_lnp(drawn: Mapping[str, Picture]):
    picture = drawn["m/gaps@1/seed0.delta_lnp"]
    said = rows(picture)
    assert len(said) == 7 * (N - 1), "one Δ ln p of each SAE is not known"
    (axis,) = figure(picture).axes
    order = list(dict.fromkeys(row["sae"] for row in said))
    assert order == ["relu-l1-layer1", "topk-layer1", "odd", "relu-l1-layer3", "topk-layer3", "relu-l1-layer10", "topk-layer10"]
    assert [t.get_text() for t in axis.get_xticklabels()][:3] == ["relu-l1-layer1", "topk-layer1", "odd (layer 3)"]
    table = examples(4)  # of topk-layer3, the fifth that was put
    for i, (name, strip) in enumerate(zip(order, axis.collections, strict=True)):
        own = [row for row in said if row["sae"] == name]
        x, y = np.array(strip.get_offsets()).T
        assert y.tolist() == [row["delta_lnp"] for row in own] and np.abs(x - i).max() < 0.3
        assert own[0]["mean"] == pytest.approx(y.mean()) and own[0]["median"] == pytest.approx(np.median(y))
        marks = [points(line, "y")[0] for line in axis.lines if abs(np.mean(points(line, "x")) - i) < 1e-9]
        assert sorted(marks) == sorted([own[0]["mean"], own[0]["median"]])
    known = [s is not None for s in table["lnp_spliced"]]
    wanted = [s - c for s, c, k in zip(table["lnp_spliced"], table["lnp_clean"], known, strict=True) if k]
    assert [row["delta_lnp"] for row in said if row["sae"] == "topk-layer3"] == pytest.approx(wanted)
    assert [row["example"] for row in said if row["sae"] == "topk-layer3"] == np.flatnonzero(known).tolist()


def test_lines_across_layers_are_of_examples_known_at_all(drawn: Mapping[str, Picture]):
    picture = drawn["m/gaps@1/seed0.delta_lnp_layers.hook_resid_pre"]
    said = rows(picture)
    panels = [axis for axis in figure(picture).axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["relu-l1-layer*", "topk-layer*"]
    for axis in panels:
        own = [row for row in said if row["line"] == axis.get_title()]
        assert len(own) == 3 * (N - 3)
        (bundle,) = [c for c in axis.collections if isinstance(c, LineCollection)]
        shown = sorted(tuple(segment[:, 1]) for segment in bundle.get_segments())
        assert shown == sorted(tuple(row["delta_lnp"] for row in own[i : i + 3]) for i in range(0, len(own), 3))
        assert [row["layer"] for row in own[:3]] == [1, 3, 10] and len({row["example"] for row in own[:3]}) == 1
        mean = next(line for line in axis.lines if line.get_label() == "mean")
        assert points(mean, "y")[2] == pytest.approx(np.mean([r["delta_lnp"] for r in own if r["layer"] == 10]))


def test_classes_and_their_marginals(drawn: Mapping[str, Picture]):
    picture = drawn[f"m/gaps@1/seed0.delta_ce.{SAE}"]
    said, table = rows(picture), examples(4)
    assert len(said) == N - 1
    for row in said:
        i = int(row["example"])
        names = {(True, True): "both", (True, False): "clean only", (False, True): "spliced only", (False, False): "neither"}
        assert row["class"] == names[bool(table["right_clean"][i]), bool(table["right_spliced"][i])]
        assert row["delta_ce"] == pytest.approx(table["ce_spliced"][i] - table["ce_clean"][i]) and row["mse"] == table["mse"][i]
    axes = figure(picture).axes
    for start, column in ((0, "mse"), (3, "delta_lnp")):
        axis, top, side = axes[start : start + 3]
        for dots in axis.collections:
            name, count = str(dots.get_label()).rsplit(" (", 1)
            own = [row for row in said if row["class"] == name]
            assert np.array(dots.get_offsets()).tolist() == [[row["delta_ce"], row[column]] for row in own]
            assert count == f"{len(own)})"
        for margin in (top, side):
            steps = [p.get_data()[0].sum() for p in margin.patches if isinstance(p, StepPatch)]
            assert steps == pytest.approx([1.0] * 4), "each class adds up to 1"


def test_without_mse_there_is_one_panel_and_a_line_says_so(tmp_path: Path):
    put_cloze(tmp_path, latents=False, mse=False)
    found = drawable(sources(tmp_path))
    (picture,) = [p for p in found.pictures if p.name == f"m/gaps@1/seed0.delta_ce.{SAE}"]
    assert "mse" not in picture.columns and len(figure(picture).axes) == 3
    assert "ΔCE × MSE, gaps@1: no MSE by prompt in the table of examples; run the task again (7 records)" in found.missing
    assert "scores by latent, gaps@1: no table latent_scores beside the record; run the task again (7 records)" in found.missing


def test_matrices_of_propagation(drawn: Mapping[str, Picture]):
    picture = drawn["m/along@1/seed0.propagation"]
    said = {(row["spliced_sae"].split("/")[1], row["later_sae"].split("/")[1], row["metric"]): row for row in rows(picture)}
    names = [f"topk-layer{layer}-746f706b" for layer in (1, 3, 10)]
    assert len(said) == 9
    for axis, metric in zip(figure(picture).axes, ("mse", "l0", "norm"), strict=True):
        shown = matrix(axis)
        assert shown.shape == (2, 2) and np.isnan(shown[0, 1])
        texts = {text.get_position(): text.get_text() for text in axis.texts}
        for (row, column), value in np.ndenumerate(shown):
            if (row, column) != (0, 1):
                about = said[names[column], names[row + 1], metric]
                assert value == about["fraction"] == pytest.approx((about["spliced"] - about["clean"]) / about["clean"])
                assert float(texts[column, row].split("%")[0].replace("−", "-")) == pytest.approx(100 * value, abs=0.51)


def test_matrices_of_correlations(drawn: Mapping[str, Picture]):
    picture = drawn["m/along@1/seed0.correlations"]
    said = rows(picture)
    assert len(said) == 6
    for axis, measure in zip(figure(picture).axes, ("pearson", "spearman", "overlap"), strict=True):
        shown = matrix(axis)
        assert np.isnan(np.diag(shown)).all()
        assert shown[~np.eye(3, dtype=bool)].tolist() == [row[measure] for row in said]
        for text, row in zip(axis.texts, said, strict=True):
            value, error = map(float, text.get_text().split("\n± "))
            assert value == pytest.approx(row[measure], abs=0.0051) and error == pytest.approx(
                row[f"{measure}_stderr"], abs=0.0051
            )


def test_scatter_of_tokens(drawn: Mapping[str, Picture]):
    picture = drawn["m/along@1/seed0.token_delta_ce"]
    said = rows(picture)
    columns = [key for key in said[0] if "/" in key]
    assert len(said) == 50 and len(columns) == 3
    axes = np.array(figure(picture).axes, dtype=object).reshape(3, 3)
    for (row, column), axis in np.ndenumerate(axes):
        assert axis.get_visible() == (column <= row)
        if column < row:
            shown = np.array(axis.collections[0].get_offsets())
            assert shown.tolist() == [[one[columns[column]], one[columns[row]]] for one in said]
        elif column == row:
            assert sum(bar.get_height() for bar in axis.patches) == 50


def test_many_saes_share_one_scatter_of_six(tmp_path: Path):
    labels = put_propagation(tmp_path, layers=range(9))
    found = drawable(sources(tmp_path))
    (picture,) = [p for p in found.pictures if p.name.endswith("token_delta_ce")]
    shown = [key for key in picture.columns if "/" in key]
    assert shown[0] == labels[0] and shown[-1] == labels[-1] and len(shown) == 6
    assert any("6 of 9 SAEs; choose others with --where" in line for line in found.missing)
