"""Decoders run with their cache, and what is said of the text that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import IR_VERSION, OPSET
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, checker, helper, numpy_helper, save

from edgesdk.backend import OpenOptions, Session, require_backend
from edgesdk.errors import ModelError, SamplesError
from edgesdk.generation import (
    Agreement,
    Array,
    Decoder,
    Layout,
    agreement,
    alike,
    forced_agreement,
    greedy,
    log_likelihoods,
    perplexity,
    perplexity_ratio,
    score,
)
from edgesdk.signature import TensorInfo

WORDS = 7
TOKENS = st.lists(st.integers(0, WORDS - 1), max_size=12)
ROWS = st.lists(
    st.lists(st.floats(-20, 0), min_size=1, max_size=6).map(np.array), min_size=1, max_size=8
)


def _adder(path: Path, wrong: float = 0.0) -> Path:
    """A decoder whose likeliest next token is the sum of all tokens so far modulo `WORDS`.

    It keeps the tokens as its cache, past_0 float32[1, past, 1]. Logits fall off with the squared
    distance from the answer, to which `wrong` is added for every token of the past.
    """
    values = {
        "words": np.arange(WORDS, dtype=np.float32),
        "wrong": np.float32(wrong),
        "size": np.float32(WORDS),
        "axis": np.int64(1),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "end": np.array([2**31], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "two"], ["new"]),
        helper.make_node("Concat", ["past_0", "new"], ["present_0"], axis=1),
        helper.make_node("CumSum", ["present_0", "axis"], ["sums"]),
        helper.make_node("Shape", ["input_ids"], ["count"], start=1, end=2),
        helper.make_node("Neg", ["count"], ["begin"]),
        helper.make_node("Slice", ["sums", "begin", "end", "one"], ["asked"]),
        helper.make_node("Shape", ["past_0"], ["length"], start=1, end=2),
        helper.make_node("Cast", ["length"], ["far"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["far", "wrong"], ["slip"]),
        helper.make_node("Add", ["asked", "slip"], ["shifted"]),
        helper.make_node("Mod", ["shifted", "size"], ["answer"], fmod=1),
        helper.make_node("Sub", ["words", "answer"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["square"]),
        helper.make_node("Neg", ["square"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "adder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
            helper.make_tensor_value_info("past_0", TensorProto.FLOAT, [1, "past", 1]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "tokens", WORDS]),
            helper.make_tensor_value_info("present_0", TensorProto.FLOAT, [1, "total", 1]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    save(model, path)
    return path


def _open(path: Path) -> Session:
    return require_backend("onnxruntime").open(path, OpenOptions(threads=1))


def _decoder(session: Session) -> Decoder:
    return Decoder(session.run, Layout.of(session.inputs, session.outputs))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with _open(_adder(tmp_path_factory.mktemp("decoder") / "adder.onnx")) as found:
        yield found


def _next(tokens: list[int]) -> int:
    return sum(tokens) % WORDS


def test_greedy_makes_the_known_sequence(session: Session) -> None:
    tokens = [3, 5]
    found = greedy(_decoder(session), tokens, most=9)
    expected = list(tokens)
    for _ in range(9):
        expected.append(_next(expected))
    assert list(found.tokens) == expected[2:]
    assert len(found.token_ms) == 8
    assert min(found.prefill_ms, *found.token_ms) > 0


def test_greedy_ends_at_a_stop_token_and_avoids_forbidden_ones(session: Session) -> None:
    decoder = _decoder(session)
    whole = greedy(decoder, [1, 2], most=6).tokens  # 3, 6, 5, 3, 6, 5
    assert greedy(decoder, [1, 2], most=6, stop={whole[2]}).tokens == whole[:2]
    assert greedy(decoder, [1, 2], most=1, forbid={whole[0]}).tokens == (2,)


@given(tokens=st.lists(st.integers(0, WORDS - 1), min_size=2, max_size=12), data=st.data())
def test_pieces_give_what_the_whole_gives(
    session: Session, tokens: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(tokens) - 1))
    decoder = _decoder(session)
    whole = decoder.extend(tokens)
    decoder.restart()
    pieces = np.concatenate([decoder.extend(tokens[:cut]), decoder.extend(tokens[cut:])])
    assert decoder.past == tuple(tokens)
    np.testing.assert_array_equal(pieces, whole)


def test_a_decoder_without_a_cache_is_given_everything_again() -> None:
    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        sums = np.cumsum(feed["input_ids"], axis=1, dtype=np.int64) % WORDS
        assert feed["attention_mask"].shape == feed["input_ids"].shape
        return {"logits": -((np.arange(WORDS) - sums[..., None]) ** 2.0)}

    layout = Layout(cache=(), masked=True, others=())
    assert greedy(Decoder(run, layout), [3, 5], most=4).tokens == (1, 2, 4, 1)


def test_scores_are_the_softmax_of_the_known_logits(session: Session) -> None:
    tokens = [2, 4, 6, 1]
    found = score(_decoder(session), tokens, 2)
    for value, place in zip(found, (2, 3), strict=True):
        logits = -((np.arange(WORDS) - _next(tokens[:place])) ** 2.0)
        chance = np.exp(logits) / np.exp(logits).sum()
        assert value == pytest.approx(math.log(chance[tokens[place]]), abs=1e-6)


def test_a_slip_is_seen_once_when_forced_and_goes_on_when_free(
    session: Session, tmp_path: Path
) -> None:
    prompt = [3, 5]
    original = greedy(_decoder(session), prompt, most=8).tokens
    with _open(_adder(tmp_path / "wrong.onnx", wrong=0.1)) as slipping:
        candidate = greedy(_decoder(slipping), prompt, most=8).tokens
        found = agreement(original, candidate)
        assert found.first is not None
        assert original[: found.first] == candidate[: found.first]
        # Fed at once, nothing is past, so nothing slips.
        assert forced_agreement(_decoder(slipping), prompt, original) == 1.0


def test_what_cannot_be_a_decoder_is_refused() -> None:
    ids = TensorInfo(name="input_ids", dtype="int64", shape=(1, None))
    logits = TensorInfo(name="logits", dtype="float32", shape=(1, None, WORDS))
    past = TensorInfo(name="past_0", dtype="float32", shape=(None, 2, None, 4))
    present = TensorInfo(name="present_0", dtype="float32", shape=(None, 2, None, 4))
    (cache,) = Layout.of([ids, past], [logits, present]).cache
    assert (cache.empty, cache.axis) == ((1, 2, 0, 4), 2)
    with pytest.raises(ModelError, match="'present_0'"):
        Layout.of([ids, past], [logits])
    with pytest.raises(ModelError, match="'input_ids'"):
        Layout.of([past], [logits, present])
    fixed = TensorInfo(name="past_0", dtype="float32", shape=(1, 2, 8, 4))
    with pytest.raises(ModelError, match="fixed length"):
        Layout.of([ids, fixed], [logits, present])


def test_wrong_use_is_refused(session: Session) -> None:
    decoder = _decoder(session)
    with pytest.raises(SamplesError, match="at least one"):
        greedy(decoder, [], most=1)
    with pytest.raises(SamplesError, match="legal: 1 up"):
        greedy(decoder, [1], most=0)
    with pytest.raises(SamplesError, match="scoring starts"):
        score(decoder, [1, 2], 2)
    with pytest.raises(SamplesError, match="outside the vocabulary"):
        score(decoder, [1, WORDS])
    with pytest.raises(SamplesError, match="needed: \\['sound'\\]"):
        Decoder(session.run, Layout(cache=(), masked=False, others=("sound",)))


@given(
    st.lists(st.floats(-50, 50), min_size=WORDS, max_size=WORDS),
    st.integers(0, WORDS - 1),
    st.floats(-1e3, 1e3),
)
def test_likelihoods_ignore_a_common_shift(row: list[float], token: int, shift: float) -> None:
    logits = np.array([row])
    plain = log_likelihoods(logits, [token])
    assert plain[0] <= 0
    np.testing.assert_allclose(log_likelihoods(logits + shift, [token]), plain, atol=1e-8)
    every = [log_likelihoods(logits, [i])[0] for i in range(WORDS)]
    assert np.exp(every).sum() == pytest.approx(1)


@given(st.integers(1, 9), st.integers(2, 50_000))
def test_guessing_has_the_perplexity_of_the_vocabulary(count: int, words: int) -> None:
    assert perplexity([np.full(count, -math.log(words))]) == pytest.approx(words)


def test_nothing_has_no_perplexity() -> None:
    with pytest.raises(SamplesError, match="at least one"):
        perplexity([])


@given(ROWS, st.floats(0, 2))
def test_a_ratio_lies_in_its_interval_where_all_rows_lose_alike(
    rows: list[np.ndarray], loss: float
) -> None:
    found = perplexity_ratio(rows, [row - loss for row in rows])
    for value in (found.value, found.low, found.high):
        assert value == pytest.approx(math.exp(loss))


def test_a_ratio_needs_the_same_tokens_on_both_sides() -> None:
    with pytest.raises(SamplesError, match="same rows"):
        perplexity_ratio([np.zeros(2)], [np.zeros(3)])


@given(TOKENS, TOKENS)
def test_agreement_is_fair(left: list[int], right: list[int]) -> None:
    found = agreement(left, right)
    assert found == agreement(right, left)
    assert 0 <= found.prefix <= found.share <= 1
    assert (found.first is None) == (left == right) == (found.share == 1)
    if found.first is not None:
        assert left[: found.first] == right[: found.first]
        assert left[found.first : found.first + 1] != right[found.first : found.first + 1]


def test_sequences_come_to_their_means() -> None:
    found = alike([agreement([1, 2, 3, 4], [1, 2, 9, 4]), agreement([5], [5])])
    assert (found.sequences, found.identical, found.first) == (2, 0.5, 2.0)
    assert (found.share, found.prefix) == (0.875, 0.75)
    assert alike([Agreement(first=None, share=1.0, prefix=1.0)]).first is None
    with pytest.raises(SamplesError, match="no sequences"):
        alike([])
