from __future__ import annotations

import json
import math
import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.budget import Budget, parse_budget, parse_floor, parse_max_fallback, parse_objective
from edgesdk.errors import BudgetError

UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3},
}
AMOUNTS = st.floats(1e-3, 1e6, allow_nan=False)


def test_the_documented_budget_reads_as_written() -> None:
    latency, memory, size = parse_budget("latency=20ms, memory=200MB,size=10MiB")
    assert (latency.quantity, latency.statistic, latency.maximum) == ("latency", "p95", 20.0)
    assert (memory.statistic, memory.maximum) == ("", 200e6)
    assert size.maximum == 10 * 2**20
    assert parse_budget("latency.p50=1.5s")[0].maximum == 1500.0


@given(amount=AMOUNTS, quantity=st.sampled_from(sorted(UNITS)), data=st.data())
def test_every_unit_means_its_factor(amount: float, quantity: str, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(sorted(UNITS[quantity])))
    (limit,) = parse_budget(f"{quantity}={amount!r}{unit}")
    assert math.isclose(limit.maximum, amount * UNITS[quantity][unit])


@given(limit=AMOUNTS, value=AMOUNTS)
def test_a_miss_is_positive_exactly_when_the_limit_is_passed(limit: float, value: float) -> None:
    (parsed,) = parse_budget(f"latency={limit!r}ms")
    assert (parsed.miss(value) > 0) == (value > limit)
    assert parsed.describe(value).endswith(f"{value / limit:.2f} x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latncy=20ms", "unknown quantity 'latncy'; did you mean 'latency'"),
        ("energy=1J", r"unknown quantity 'energy'\. Legal: latency, memory, size"),
        ("latency=20m", r"unknown unit 'm'.*Legal: us, ms, s"),
        ("latency=20", "no unit"),
        ("memory=200mb", r"unknown unit 'mb'; did you mean 'MB'|unknown unit 'mb'.*Legal: B, kB"),
        ("latency.p96=20ms", "unknown statistic 'p96' of latency; did you mean 'p9"),
        ("size.p95=1MB", "size takes no statistic"),
        ("size=-1MB", "must be above 0"),
        ("size=0MB", "must be above 0"),
        ("size=1e999MB", "too large"),
        ("latency", "does not parse; write e.g. latency=20ms"),
        ("", "does not parse"),
        ("latency=fast", "does not parse"),
        ("latency=1ms,latency.p95=2ms", "contradicts or repeats"),
    ],
)
def test_what_is_wrong_in_a_budget_is_named(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "quantity", "output", "kind", "bound"),
    [
        ("top1=-1%", "top1", None, "relative", -0.01),
        ("top1=-0.01", "top1", None, "points", -0.01),
        ("spearman=+0.5", "spearman", None, "points", 0.5),
        ("top1=88%", "top1", None, "value", 0.88),
        ("cosine=0.99", "cosine", None, "value", 0.99),
        ("sqnr=30dB", "sqnr", None, "value", 30.0),
        ("logits.cosine=0.99", "cosine", "logits", "value", 0.99),
        ("top1@logits=-1%", "top1", "logits", "relative", -0.01),
        ("Partitioned/Call:0.cosine=0.9", "cosine", "Partitioned/Call:0", "value", 0.9),
        ("a.b.agreement=99%", "agreement", "a.b", "value", 0.99),
        ("pkg.metrics:wer=+1%", "pkg.metrics:wer", None, "relative", 0.01),
        ("my dir/metrics.py:wer=0.2", "my dir/metrics.py:wer", None, "value", 0.2),
    ],
)
def test_a_floor_reads_as_documented(
    text: str, quantity: str, output: str | None, kind: str, bound: float
) -> None:
    (floor,) = parse_floor(text)
    assert (floor.quantity, floor.output, floor.kind) == (quantity, output, kind)
    assert math.isclose(floor.bound, bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpo1=-1%", "unknown floor 'tpo1'; did you mean 'top1'"),
        ("logits.cosin=0.9", "did you mean 'cosine'"),
        ("cosine=-1%", "compares with the float original already"),
        ("cosine=1.5", "lies between 0 and 1"),
        ("sqnr=30%", "has no percentage"),
        ("top1=-1dB", "unknown unit 'dB'"),
        ("top1", "does not parse"),
        ("top1=-1%,top1=0.9", "contradicts or repeats"),
    ],
)
def test_what_is_wrong_in_a_floor_is_named(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        parse_floor(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), ("0.05", 0.05), (" 2.5 % ", 0.025), ("0", 0.0), ("100%", 1.0), ("1", 1.0)],
)
def test_a_max_fallback_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    assert math.isclose(parse_max_fallback(text), share)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", r"'5': legal are 0% to 100%, or 0 to 1; did you mean 5%\?"),
        ("101%", "'101%': legal are 0% to 100%, or 0 to 1$"),
        ("-5%", "legal are 0% to 100%"),
        ("5ms", "'5ms' does not parse; write e.g. 5% or 0.05"),
        ("some", "does not parse"),
        ("", "does not parse"),
        ("nan", "does not parse"),
        ("1e999", "legal are"),
    ],
)
def test_what_is_wrong_in_a_max_fallback_is_named(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        parse_max_fallback(text)


def test_a_max_fallback_in_toml_may_be_text_or_a_number() -> None:
    for value in ('"5%"', "0.05"):
        budget = Budget.from_mapping(tomllib.loads(f"[budget]\nmax_fallback = {value}"))
        assert budget.max_fallback == 0.05
        assert budget.asked == ("max-fallback=5%",)
        assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    with pytest.raises(BudgetError, match="max_fallback = True; expected a string"):
        Budget.from_mapping({"budget": {"max_fallback": True}})


def test_toml_tables_say_the_same_as_the_command_line() -> None:
    text = """
    [budget]
    latency = "20ms"
    latency.p50 = "10ms"
    objective = "size"
    [floors]
    top1 = "-1%"
    logits.cosine = 0.99
    "m.py:wer" = "+0.01"
    """.replace("latency.p50", '"latency.p50"')
    budget = Budget.from_mapping(tomllib.loads(text))
    assert budget.limits == parse_budget("latency=20ms,latency.p50=10ms")
    assert budget.floors == parse_floor("top1=-1%,logits.cosine=0.99,m.py:wer=+0.01")
    assert budget.objective == "size"
    assert budget.metrics == ("top1", "m.py:wer")
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget


def test_wrong_toml_is_named() -> None:
    with pytest.raises(BudgetError, match="objective 'speed'"):
        Budget.from_mapping({"budget": {"objective": "speed"}})
    with pytest.raises(BudgetError, match="unknown table 'floor'"):
        Budget.from_mapping({"floor": {}})
    with pytest.raises(BudgetError, match="size = True; expected a string"):
        Budget.from_mapping({"budget": {"size": True}})
    with pytest.raises(BudgetError, match="did you mean 'latency'"):
        parse_objective("latancy")


@given(st.text(max_size=30))
def test_no_text_raises_anything_but_a_budget_error(text: str) -> None:
    for parse in (parse_budget, parse_floor, parse_max_fallback):
        with suppress(BudgetError):
            parse(text)
