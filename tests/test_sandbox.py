from __future__ import annotations

import pytest

from saebench.errors import InputError
from saebench.sandbox import check_expression, check_template, expression, template

ROW = {"question": "Why?", "answers": ["so", "thus"], "right": "1", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}


def test_a_template_says_what_lm_evals_would():
    assert template("Q: {{ question }}\nA: {{ answers[right | int] }}\n", "text")(ROW) == "Q: Why?\nA: thus\n"
    assert template("{% for a in answers %}{{ a }},{% endfor %}", "text")(ROW) == "so,thus,"
    assert template("{{ x }}", "text")({"x": "<&>"}) == "<&>"


def test_an_expression_gives_the_value_itself():
    assert expression("right | int == 1", "label")(ROW) is True
    assert expression("[answers[right | int]]", "positive")(ROW) == ["thus"]
    assert expression("answers[: right | int] + answers[(right | int) + 1 :]", "negative")(ROW) == ["so"]
    assert expression("choices.text[choices.label.index('B')]", "positive")(ROW) == "b"


@pytest.mark.parametrize(
    "source",
    [
        "{{ question.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ answers.append('x') }}",
        "{{ self.__init__.__globals__ }}",
        "{% for n in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_reach_python(source: str):
    row = {**ROW, "answers": ["so"]}
    with pytest.raises(InputError, match=r"^text: "):
        template(source, "text")(row)
    assert row["answers"] == ["so"]


def test_a_file_cannot_be_included():
    with pytest.raises(InputError, match=r"^text: "):
        template("{% include '/etc/passwd' %}", "text")(ROW)


def test_errors_name_the_column_and_those_there_are():
    with pytest.raises(InputError, match=r"^text: 'answr' is undefined; the row has question, answers, right, choices$"):
        template("{{ answr }}", "text")(ROW)
    with pytest.raises(InputError, match=r"^label: 'rigth' is undefined"):
        expression("rigth", "label")(ROW)
    with pytest.raises(InputError, match="label: ZeroDivisionError"):
        expression("1 // 0", "label")(ROW)


@pytest.mark.parametrize("source", ["{{ a", "{% if a %}", "{{ a | nosuch }", "{{ }}"])
def test_what_does_not_parse_is_refused_at_once(source: str):
    with pytest.raises(ValueError, match="does not parse"):
        check_template(source)


@pytest.mark.parametrize("source", ["{{ a }}", "a ==", "", "a }} {{ b"])
def test_an_expression_has_no_braces(source: str):
    with pytest.raises(ValueError, match=r"leave out the braces|does not parse"):
        check_expression(source)
