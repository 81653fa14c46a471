"""Triton helpers: the arithmetic of `arithmetic.py` in fp32, and integers that order floats."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# They replace -inf and inf, so that differences and products stay finite.
LOWEST_LOG_E = tl.constexpr(-1.0e4)
LARGEST = tl.constexpr(3.0e38)
# Beyond −ln of the spacing of fp32, nll/q is 1 up to rounding.
SATURATED = tl.constexpr(15.942385)


@triton.jit
def to_order(raw):
    """int32 in the order of the floats `raw` (16 or 32 bits); −0 and +0 are equal."""
    bits = raw.to(tl.float32).to(tl.int32, bitcast=True)
    sign = bits >> 31
    return ((bits & 0x7FFFFFFF) ^ sign) - sign


@triton.jit
def from_order(order):
    """The fp32 values of the floats that `to_order` mapped to the int32 `order`."""
    value = tl.abs(order).to(tl.float32, bitcast=True)
    return tl.where(order < 0, -value, value)


@triton.jit
def lanes(LANES: tl.constexpr, PER: tl.constexpr):
    """Offsets within a tile, as [threads, PER]; the entries of a thread are adjacent."""
    return tl.arange(0, LANES // PER)[:, None] * PER + tl.arange(0, PER)[None, :]


@triton.jit
def _tanh(x):
    """tanh up to fp32 rounding; a series if the quotient would cancel."""
    t = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    large = (1.0 - t) / (1.0 + t)
    y = x * x
    small = x * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, small, tl.where(x < 0, -large, large))


@triton.jit
def value_of(raw, logit_scale, softcap, SOFTCAP: tl.constexpr):
    """fp32 values v of raw logits: the logit in bits is rate·v, so that it is scaled only once."""
    value = raw.to(tl.float32)
    if SOFTCAP:
        value = softcap * _tanh(value * (logit_scale / softcap))
    return value


@triton.jit
def bits_below(value, largest, rate, EXACT: tl.constexpr):
    """log2 e = rate·(value − largest).

    Without EXACT it takes one instruction less; this is enough for logits that are coarser than its
    rounding.
    """
    return (value - largest) * rate if EXACT else value * rate - largest * rate


@triton.jit
def _log1p(y):
    """ln(1 + y) for y in [−1/2, 1], as the series of 2·atanh(y/(2 + y)), which does not cancel."""
    w = y / (2.0 + y)
    v = w * w
    tail = v * (1.0 / 9 + v * (1.0 / 11 + v * (1.0 / 13 + v * (1.0 / 15))))
    return 2.0 * w * (1.0 + v * (1.0 / 3 + v * (1.0 / 5 + v * (1.0 / 7 + tail))))


@triton.jit
def _expm1(x):
    """exp(x) − 1; a series if the difference would cancel."""
    series = x * (
        1 + x * (1.0 / 2 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720)))))
    )
    return tl.where(tl.abs(x) < 0.25, series, tl.exp(x) - 1.0)


@triton.jit
def target_terms(delta, form, beta, alpha, min_p):
    """(nll, p, q, −ln q, w·q, loss) of the target at log-odds `delta`; see `arithmetic.py`.

    `form`: 0 cross-entropy, 1 product, 2 exponent, 3 power, 4 threshold (`min_p`), 5 entropy, whose
    weight is multiplied in later.
    """
    t = tl.exp(-tl.abs(delta))
    log1p_t = _log1p(t)
    nll = tl.maximum(-delta, 0.0) + log1p_t  # if Δ is NaN, so is the second term
    minus_log_q = tl.maximum(delta, 0.0) + log1p_t
    p = tl.where(delta >= 0, 1.0, t) / (1.0 + t)
    q = tl.where(delta >= 0, t, 1.0) / (1.0 + t)
    finite_nll = tl.minimum(nll, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    wq = q
    loss = nll
    if form == 1 or form == 2:
        wq = tl.exp(-(1.0 + beta) * minus_log_q)
        loss = wq * tl.where(delta > SATURATED, 1.0, nll / q)
    if form == 2:
        likely = loss - nll
        unlikely = finite_nll * _expm1(-beta * minus_log_q)
        w = tl.exp(tl.where(delta >= 0, likely, unlikely))
        wq = w * q
        loss = w * nll
    if form == 3:
        w = tl.exp(-alpha * finite_nll)
        wq = w * q
        loss = w * finite_nll
    if form == 4:
        w = tl.where(p > min_p, 1.0, tl.where(p == p, 0.0, p))
        wq = w * q
        loss = times_nll(w, nll)
    return nll, p, q, minus_log_q, wq, loss


@triton.jit
def times_nll(w, nll):
    """w·nll, with its limit 0 where w is 0 and nll is infinite."""
    return tl.where(w == 0, w, w * nll)


@triton.jit
def entropy_weight(s_head, t_head, s, p, q, nll, minus_log_q, is_in_head, top_k):
    """H/ln k, where H is the entropy of the softmax over the head set alone; see `arithmetic.py`.

    The head set without the target has Σe = `s_head` and Σe·log2 e = `t_head`.
    """
    outside = q * (s - s_head) / s
    head_mass = q * s_head / s
    log1p_outside = tl.where(outside < 0.5, _log1p(-outside), tl.log(1.0 - outside))
    own = p * tl.minimum(nll, LARGEST)
    total = minus_p_log_p(s_head, t_head, s, q, minus_log_q) + tl.where(is_in_head, own, 0.0)
    mass = tl.where(is_in_head, 1.0 - outside, head_mass)
    log_mass = tl.where(is_in_head, log1p_outside, tl.log(head_mass))
    entropy = tl.maximum(log_mass + total / mass, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return entropy / tl.log(top_k.to(tl.float32))


@triton.jit
def minus_p_log_p(s_set, t_set, s, q, minus_log_q):
    """−Σ p ln p over a set of other tokens with Σe = `s_set` and Σe·log2 e = `t_set`.

    Over all other tokens Σe = `s`.
    """
    return q * (s_set / s * (tl.minimum(minus_log_q, LARGEST) + tl.log(s)) - t_set * LN_2 / s)
