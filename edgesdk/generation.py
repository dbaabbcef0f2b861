"""Decoders that make text token by token: running them with their cache, and judging what they make.

A decoder takes the tokens that are new and what it keeps of those before (keys and values of
attention), and gives logits for each new token and the cache to go on with. So one graph serves the
prompt at once (prefill) and each token after it. Everything here works on any callable from arrays to
arrays by name: an engine's session, or a plain function. Sequences have no batch: axis 0 is 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.errors import ModelError, SamplesError
from edgesdk.signature import TensorInfo
from edgesdk.statistics import Floats, percentiles, resampled

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Tokens = Sequence[int]

TOKENS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
"""Names that decoders are published with."""
_PAST, _PRESENT = "past", "present"
_TAIL = 0.025
_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTensor:
    """One tensor that goes round.

    Attributes:
        given, made: its name among the inputs, and among the outputs.
        dtype: numpy's name.
        empty: its shape before the first token; exactly one axis is 0, along which it grows.
    """

    given: str
    made: str
    dtype: str
    empty: tuple[int, ...]

    @property
    def axis(self) -> int:
        """Along which it grows by one a token."""
        return self.empty.index(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the tensors of a decoder are.

    Attributes:
        cache: what goes round, in the order of the inputs; empty for a decoder without a cache.
        masked: whether it takes `attention_mask`, int64[1, past + new], 1 for every token that counts.
        others: inputs that stay the same for a whole sequence, such as what an encoder made.
    """

    cache: tuple[CacheTensor, ...]
    masked: bool
    others: tuple[str, ...]

    @classmethod
    def of(cls, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> Layout:
        """Read from a signature: `past…` is given and `present…` of the same ending is made.

        The axis of a cache that grows is its last one of no fixed length; others of no fixed length
        are the batch.

        Raises:
            ModelError: no `input_ids` or `logits`, a `past…` without its `present…`, or one that
                does not grow.
        """
        names = [info.name for info in inputs]
        made = {info.name for info in outputs}
        for name, there in ((TOKENS, names), (LOGITS, made)):
            if name not in there:
                raise ModelError(
                    f"no tensor named {name!r} among {', '.join(there)}; a decoder takes {TOKENS} "
                    f"and gives {LOGITS}: rename its tensors"
                )
        cache = tuple(_cache(info, made) for info in inputs if info.name.startswith(_PAST))
        known = {TOKENS, MASK, *(tensor.given for tensor in cache)}
        others = tuple(name for name in names if name not in known)
        return cls(cache=cache, masked=MASK in names, others=others)


def _cache(info: TensorInfo, made: Collection[str]) -> CacheTensor:
    back = _PRESENT + info.name.removeprefix(_PAST)
    if back not in made:
        raise ModelError(f"input {info.name!r} has no output {back!r} that it is fed from")
    free = [axis for axis, dim in enumerate(info.shape) if not isinstance(dim, int)]
    if not free:
        raise ModelError(f"input {info} has a fixed length; a cache grows along one axis")
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    shape[free[-1]] = 0
    if shape.count(0) != 1:
        raise ModelError(f"input {info} has an axis of length 0 beside the one that grows")
    return CacheTensor(given=info.name, made=back, dtype=info.dtype, empty=tuple(shape))


class Decoder:
    """A decoder in the middle of one sequence.

    Attributes:
        layout: of its tensors.
        past: the tokens that it has seen.
    """

    def __init__(self, run: Run, layout: Layout, others: Mapping[str, Array] | None = None) -> None:
        """Start an empty sequence.

        Args:
            run: one step, all outputs by name.
            layout: of its tensors.
            others: what stays the same over the sequence.

        Raises:
            SamplesError: `others` is not what `layout.others` names.
        """
        self._run, self.layout, self._others = run, layout, dict(others or {})
        if set(self._others) != set(layout.others):
            raise SamplesError(
                f"given for the whole sequence: {sorted(self._others)}; needed: {sorted(layout.others)}"
            )
        self.restart()

    def restart(self) -> None:
        """Forget the sequence."""
        self.past: tuple[int, ...] = ()
        self._cache: dict[str, Array] = {
            tensor.given: np.zeros(tensor.empty, tensor.dtype) for tensor in self.layout.cache
        }

    def feed(self, tokens: Tokens) -> dict[str, Array]:
        """What a run gets for these tokens after those of the past.

        Without a cache all tokens are given again. The arrays can be stored as a sample, to time
        exactly this run.
        """
        new = (*self.past, *tokens) if not self.layout.cache else tuple(tokens)
        feed: dict[str, Array] = {TOKENS: np.array([new], np.int64), **self._cache, **self._others}
        if self.layout.masked:
            feed[MASK] = np.ones((1, len(self.past) + len(tokens)), np.int64)
        return feed

    def extend(self, tokens: Tokens) -> NDArray[np.floating]:
        """Append tokens; logits [len(tokens), vocabulary], row i for what follows token i.

        Raises:
            SamplesError: no tokens.
        """
        if not tokens:
            raise SamplesError("no tokens to go on with; give at least one")
        made = self._run(self.feed(tokens))
        self.past = (*self.past, *tokens)
        self._cache = {tensor.given: made[tensor.made] for tensor in self.layout.cache}
        logits: NDArray[Any] = made[LOGITS][0, -len(tokens) :]
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A sequence that a decoder made.

    Attributes:
        tokens: after the prompt, without the one that stopped it.
        prefill_ms: from the prompt to the first token.
        token_ms: each token after that, in order; the one that stopped it included.
    """

    tokens: tuple[int, ...]
    prefill_ms: float
    token_ms: tuple[float, ...]


def greedy(
    decoder: Decoder,
    prompt: Tokens,
    *,
    most: int,
    stop: Collection[int] = (),
    forbid: Collection[int] = (),
    now: Callable[[], float] = time.perf_counter,
) -> Generated:
    """The likeliest token, again and again; equal logits go to the lower number.

    Args:
        decoder: started anew.
        prompt: what it goes on from, at least one token.
        most: tokens at most, at least 1.
        stop: tokens that end it.
        forbid: tokens that are never chosen.
        now: seconds, for the times.

    Raises:
        SamplesError: an empty prompt, or `most` below 1.
    """
    if most < 1:
        raise SamplesError(f"{most} tokens to make; legal: 1 up")
    decoder.restart()
    banned = sorted(forbid)
    found: list[int] = []
    times: list[float] = []
    given: Tokens = prompt
    while len(found) < most:
        begun = now()
        last = decoder.extend(given)[-1]
        if banned:
            last = last.copy()
            last[banned] = -np.inf
        token = int(last.argmax())
        times.append((now() - begun) * _MS)
        if token in stop:
            break
        found.append(token)
        given = (token,)
    return Generated(tokens=tuple(found), prefill_ms=times[0], token_ms=tuple(times[1:]))


def log_likelihoods(logits: NDArray[np.floating], tokens: Tokens) -> Floats:
    """Natural logarithm of the probability of each token, float64[n], at most 0.

    Args:
        logits: [n, vocabulary]; row i speaks of tokens[i].
        tokens: as many.

    Raises:
        SamplesError: counts differ, or a token is outside the vocabulary.
    """
    wanted = np.array(tokens, np.int64)
    if logits.ndim != 2 or len(wanted) != len(logits):
        raise SamplesError(f"logits of shape {list(logits.shape)} for {len(wanted)} tokens")
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < logits.shape[1]:
        raise SamplesError(f"tokens outside the vocabulary of {logits.shape[1]}")
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    total = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    found: Floats = np.minimum(wide[np.arange(len(wanted)), wanted] - total, 0.0)
    return found


def score(decoder: Decoder, tokens: Tokens, start: int = 1) -> Floats:
    """Log likelihoods of `tokens[start:]`, each after all that come before it.

    Raises:
        SamplesError: `start` is not between 1 and the last token.
    """
    if not 1 <= start < len(tokens):
        raise SamplesError(
            f"scoring starts at token {start} of {len(tokens)}; legal: 1 to the last"
        )
    decoder.restart()
    logits = decoder.extend(tokens[:-1])
    return log_likelihoods(logits[start - 1 :], tokens[start:])


def perplexity(scores: Sequence[Floats]) -> float:
    """exp(-mean log likelihood of a token) over all rows together; 1 up, lower is better.

    The vocabulary's size is what guessing among all tokens would reach. (Jelinek and others, 1977.)

    Raises:
        SamplesError: no token at all.
    """
    count = sum(len(row) for row in scores)
    if count == 0:
        raise SamplesError("no token was scored; perplexity needs at least one")
    return math.exp(-sum(float(row.sum()) for row in scores) / count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A candidate's perplexity over the original's, with its 95 % interval; 1 is no change."""

    value: float
    low: float
    high: float


def perplexity_ratio(original: Sequence[Floats], candidate: Sequence[Floats]) -> Ratio:
    """How much worse a candidate predicts the same rows; the interval is bootstrapped over rows.

    Raises:
        SamplesError: rows or their lengths differ, or no token was scored.
    """
    if [len(row) for row in original] != [len(row) for row in candidate]:
        raise SamplesError(
            "the two were not scored on the same tokens; score both on the same rows"
        )
    value = perplexity(candidate) / perplexity(original)
    lost = np.array([float((a - b).sum()) for a, b in zip(original, candidate, strict=True)])
    counts = np.array([len(row) for row in original], np.float64)
    # A draw of rows without a token says nothing; it cannot happen where all rows have some.
    draws = resampled(
        lambda rows: float(lost[rows].sum() / max(counts[rows].sum(), 1.0)), len(counts)
    )
    low, high = percentiles(draws, _TAIL)
    return Ratio(value=value, low=math.exp(low), high=math.exp(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a candidate writes what the original writes, each going on from its own tokens.

    Attributes:
        first: position of the first token that differs (a missing one does); None where all agree.
        share: positions with equal tokens over those of the longer sequence, 0 to 1.
        prefix: the part of the longer sequence before `first`, 0 to 1.
    """

    first: int | None
    share: float
    prefix: float


def agreement(original: Tokens, candidate: Tokens) -> Agreement:
    """Two whole sequences beside each other; two empty ones agree."""
    longer = max(len(original), len(candidate))
    if longer == 0:
        return Agreement(first=None, share=1.0, prefix=1.0)
    equal = [a == b for a, b in zip(original, candidate, strict=False)]
    equal += [False] * (longer - len(equal))
    first = equal.index(False) if not all(equal) else None
    ahead = longer if first is None else first
    return Agreement(first=first, share=sum(equal) / longer, prefix=ahead / longer)


def forced_agreement(decoder: Decoder, prompt: Tokens, tokens: Tokens) -> float:
    """Share of the original's `tokens` that the decoder would choose too, given those before; 0 to 1.

    One early slip counts once here, while it can turn the whole rest of a sequence of its own.

    Raises:
        SamplesError: an empty prompt, or no tokens.
    """
    if not prompt or not tokens:
        raise SamplesError("the share of agreeing tokens needs a prompt and at least one token")
    decoder.restart()
    logits = decoder.extend((*prompt, *tokens[:-1]))[len(prompt) - 1 :]
    return float((logits.argmax(axis=1) == np.array(tokens)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Agreement over many sequences.

    Attributes:
        sequences: how many.
        identical: share of them that agree to the end.
        share, prefix: means over sequences of those of `Agreement`.
        first: median position of the first difference among those that differ; None where none does.
    """

    sequences: int
    identical: float
    share: float
    prefix: float
    first: float | None


def alike(found: Sequence[Agreement]) -> Alike:
    """What single agreements come to.

    Raises:
        SamplesError: there are none.
    """
    if not found:
        raise SamplesError("no sequences to compare; give at least one prompt")
    firsts = [item.first for item in found if item.first is not None]
    return Alike(
        sequences=len(found),
        identical=1 - len(firsts) / len(found),
        share=float(np.mean([item.share for item in found])),
        prefix=float(np.mean([item.prefix for item in found])),
        first=float(np.median(firsts)) if firsts else None,
    )
