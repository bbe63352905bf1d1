from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from saebench.errors import RecordError
from saebench.record import SCHEMA_VERSION, Score, Series, parse_record
from tests.helpers import make_record, make_score


def test_a_record_survives_the_round_trip_byte_for_byte():
    text = make_record(scores=[make_score("l0", 4.0, 0.5), make_score("kl", None)]).to_json()
    assert parse_record(text, origin="f").to_json() == text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_value_is_nan_or_infinite(bad: float):
    with pytest.raises(ValidationError):
        Score(name="l0", value=bad)
    with pytest.raises(ValidationError):
        Score(name="l0", value=1.0, stderr=bad)
    with pytest.raises(ValidationError):
        Series(name="s", x_name="x", x=[bad], value=[1.0])


def test_a_missing_value_needs_status_and_reason_and_a_present_one_has_neither():
    with pytest.raises(ValidationError, match="needs a status"):
        Score(name="l0", value=None)
    with pytest.raises(ValidationError, match="needs a reason"):
        Score(name="l0", value=None, status="undefined")
    with pytest.raises(ValidationError, match="status"):
        Score(name="l0", value=1.0, status="failed", reason="x")


def test_series_parts_have_one_length():
    with pytest.raises(ValidationError, match="1 entries for 2 x values"):
        Series(name="s", x_name="x", x=[0.0, 1.0], value=[1.0])


def test_names_are_unique():
    with pytest.raises(ValidationError, match="occur twice"):
        make_record(scores=[make_score("l0", 1.0), make_score("l0", 2.0)])


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_reading_refuses_constants_that_strict_json_lacks(constant: str):
    text = make_record(scores=[make_score("l0", 4.25)]).to_json().replace("4.25", constant)
    with pytest.raises(RecordError, match=r"here\.json.*not allowed in strict JSON"):
        parse_record(text, origin="here.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("schema_version"), "no schema_version"),
        (lambda d: d.update(schema_version=SCHEMA_VERSION + 1), "upgrade saebench"),
        (lambda d: d.pop("data"), "data: Field required"),
        (lambda d: d["scores"][0].update(value="much"), r"scores\.0\.value"),
        (lambda d: d.update(extra=1), "extra"),
    ],
)
def test_a_damaged_record_is_named_with_what_is_wrong(change, message: str):
    data = json.loads(make_record().to_json())
    change(data)
    with pytest.raises(RecordError, match=message) as caught:
        parse_record(json.dumps(data), origin="f.json")
    assert "f.json" in str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused():
    with pytest.raises(RecordError, match="not a valid record"):
        parse_record(make_record().to_json()[:200], origin="f.json")
