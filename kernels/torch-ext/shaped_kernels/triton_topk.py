"""Triton: the head set K of a row, exact under ties, from lists kept during the first pass.

A key is an integer that orders entries by logit, then by lower tile. Every lane keeps a list of its
largest keys. The k-th largest of the listed keys is found by bisection in registers. It is the k-th
largest of the row, unless a lane may have dropped a key that is not below it; in this case, the row
itself is searched by counting passes. K is taken on the raw logits, since scale and softcap do not
change their order. Ties go to the lowest token id.

The row holds −inf at the target, whose own logit is passed separately: it takes part in every count
but in no sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_arithmetic import (
    LOWEST_LOG_E,
    bits_below,
    from_order,
    lanes,
    to_order,
    value_of,
)

# Below the order of every float and its key.
LOWEST_ORDER = tl.constexpr(-0x7FFFFFFF)
LOWEST_KEY_64 = tl.constexpr(-(2**45))
LAST_TILE = tl.constexpr(255)


@triton.jit
def to_key(raw, tile):
    """The key of entries in `tile`: int32 for 16-bit logits, whose order leaves low bits free."""
    if raw.dtype.primitive_bitwidth == 16:
        key = to_order(raw) + (LAST_TILE - tile)
    else:
        key = to_order(raw).to(tl.int64) * (LAST_TILE + 1) + (LAST_TILE - tile)
    return key


@triton.jit
def key_order(key, dtype: tl.constexpr):
    """The `to_order` of the logits that have these keys."""
    return key & ~LAST_TILE if dtype.primitive_bitwidth == 16 else (key >> 8).to(tl.int32)


@triton.jit
def key_tile(key):
    """The tile of the entries with these keys."""
    return ((~key) & LAST_TILE).to(tl.int32)


@triton.jit
def no_keys(dtype: tl.constexpr, LANES: tl.constexpr, PER: tl.constexpr):
    """A list of the lowest key, [threads, PER]."""
    if dtype.primitive_bitwidth == 16:
        keys = tl.full([LANES // PER, PER], LOWEST_ORDER, tl.int32)
    else:
        keys = tl.full([LANES // PER, PER], LOWEST_KEY_64, tl.int64)
    return keys


@triton.jit
def _push(key, slot):
    """(the larger, the smaller) of a key and a slot of a list."""
    return tl.maximum(slot, key), tl.minimum(slot, key)


@triton.jit
def insert(key, a, b, c, d, e, FIVE: tl.constexpr):
    """Insert `key` into the descending lists a to c, or a to e, and drop the smallest."""
    a, key = _push(key, a)
    b, key = _push(key, b)
    c, key = _push(key, c)
    if FIVE:
        d, key = _push(key, d)
        e = tl.maximum(e, key)
    return a, b, c, d, e


@triton.jit
def _count(mask):
    return tl.sum(tl.sum(mask.to(tl.int32), 1), 0)


@triton.jit
def _listed_from(key, a, b, c, d, e, FIVE: tl.constexpr):
    """The number of listed keys that are at least `key`."""
    listed = (a >= key).to(tl.int32) + (b >= key).to(tl.int32) + (c >= key).to(tl.int32)
    if FIVE:
        listed += (d >= key).to(tl.int32) + (e >= key).to(tl.int32)
    return tl.sum(tl.sum(listed, 1), 0)


@triton.jit
def _pack(key, GRAIN: tl.constexpr):
    """Scalar int32 keys without the bits that are always 0, so that bisection skips them."""
    return ((key >> GRAIN) << 8) | (key & LAST_TILE) if GRAIN else key


@triton.jit
def _unpack(packed, GRAIN: tl.constexpr):
    return ((packed >> 8) << GRAIN) | (packed & LAST_TILE) if GRAIN else packed


@triton.jit
def upper_middle(low, high):
    """The upper middle of two integers, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def _search_lists(
    top_k,
    key_x,
    lane_x,
    a,
    b,
    c,
    d,
    e,
    GRAIN: tl.constexpr,
    FIVE: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """(the `top_k`-th largest key, the last lane with it that is in K, is that certain)."""
    last_listed = e if FIVE else c
    # Every lane has at least its first key: if top_k is at most the number of lanes, the smallest
    # of these keys is a lower bound. Otherwise the lists may hold too few keys. The search then
    # ends at its lower bound, which is not certain.
    low = _pack(
        tl.where(top_k <= LANES, tl.min(tl.min(a, 1), 0), tl.min(tl.min(last_listed, 1), 0)), GRAIN
    )
    high = _pack(tl.maximum(tl.max(tl.max(a, 1), 0), key_x), GRAIN)
    while low < high:
        middle = upper_middle(low, high)
        key = _unpack(middle, GRAIN)
        enough = _listed_from(key, a, b, c, d, e, FIVE) + (key_x >= key).to(tl.int32) >= top_k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    low = _unpack(low, GRAIN)
    holds = (a == low) | (b == low) | (c == low)
    if FIVE:
        holds = holds | (d == low) | (e == low)
    missing = top_k - _listed_from(low + 1, a, b, c, d, e, FIVE) - (key_x > low).to(tl.int32)
    lane = lanes(LANES, PER)
    first_lane = 0
    last_lane = tl.max(tl.max(lane, 1), 0)
    if _count(holds) + (key_x == low).to(tl.int32) > missing:
        while first_lane < last_lane:
            middle_lane = (first_lane + last_lane) >> 1
            target_holds = (key_x == low) & (lane_x <= middle_lane)
            enough = _count(holds & (lane <= middle_lane)) + target_holds.to(tl.int32) >= missing
            last_lane = tl.where(enough, middle_lane, last_lane)
            first_lane = tl.where(enough, first_lane, middle_lane + 1)
    return low, last_lane, tl.max(tl.max(last_listed, 1), 0) < low


@triton.jit
def count_before(row_ptr, V, order, last_id, LANES: tl.constexpr, PER: tl.constexpr):
    """The number of entries larger than `order`, or equal with an id of at most `last_id`."""
    lane = lanes(LANES, PER)
    count = tl.zeros([LANES // PER], tl.int32)
    for start in range(0, V, LANES):
        ids = start + lane
        found = to_order(tl.load(row_ptr + ids, mask=ids < V, other=float("-inf")))
        before = (found > order) | ((found == order) & (ids <= last_id))
        count += tl.sum((before & (ids < V)).to(tl.int32), 1)
    return tl.sum(count, 0)


@triton.jit
def _count_with_target(
    row_ptr, V, order, last_id, order_x, x, LANES: tl.constexpr, PER: tl.constexpr
):
    """`count_before`, with the target's own logit."""
    target = (order_x > order) | ((order_x == order) & (x <= last_id))
    return count_before(row_ptr, V, order, last_id, LANES, PER) + target.to(tl.int32)


@triton.jit
def search_row(
    row_ptr, V, top_k, order_x, x, low, GRAIN: tl.constexpr, LANES: tl.constexpr, PER: tl.constexpr
):
    """(order, id) of the last entry of K, found by counting passes.

    At least `top_k` entries reach `low`. The result is close to it, since the lists missed only a
    few entries. So steps grow until one goes too far, and then bisection follows.

    """
    low = low >> GRAIN
    high = tl.full([], 0x7F800000, tl.int32) >> GRAIN
    step = 1
    count = _count_with_target(row_ptr, V, low << GRAIN, V, order_x, x, LANES, PER)
    while low < high:
        middle = tl.minimum(upper_middle(low, high), low + step)
        step = tl.minimum(4 * step, 1 << 28)
        found = _count_with_target(row_ptr, V, middle << GRAIN, V, order_x, x, LANES, PER)
        enough = found >= top_k
        low = tl.where(enough, middle, low)
        count = tl.where(enough, found, count)
        high = tl.where(enough, high, middle - 1)
    order = low << GRAIN
    first_id = 0
    last_id = V - 1
    if count > top_k:
        while first_id < last_id:
            middle_id = (first_id + last_id) >> 1
            enough = (
                _count_with_target(row_ptr, V, order, middle_id, order_x, x, LANES, PER) >= top_k
            )
            last_id = tl.where(enough, middle_id, last_id)
            first_id = tl.where(enough, first_id, middle_id + 1)
    return order, last_id


@triton.jit
def _list_sums(
    key,
    threshold,
    last_lane,
    m,
    logit_scale,
    softcap,
    rate,
    dtype: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """(Σe, Σe·log2 e) over the entries of a list that belong to K."""
    belongs = (key > threshold) | ((key == threshold) & (lanes(LANES, PER) <= last_lane))
    value = value_of(from_order(key_order(key, dtype)), logit_scale, softcap, SOFTCAP)
    log_e = bits_below(value, m, rate, dtype == tl.float32)
    log_e = tl.where(belongs, tl.maximum(log_e, LOWEST_LOG_E), LOWEST_LOG_E)
    e = tl.exp2(log_e)
    return tl.sum(tl.sum(e, 1), 0), tl.sum(tl.sum(e * log_e, 1), 0)


@triton.jit
def row_sums(
    row_ptr,
    V,
    threshold,
    last_id,
    x,
    m,
    logit_scale,
    softcap,
    rate,
    SOFTCAP: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """(Σe, Σe·log2 e) over K without the target, by a pass over the row."""
    dtype: tl.constexpr = row_ptr.dtype.element_ty
    lane = lanes(LANES, PER)
    s = tl.zeros([LANES // PER], tl.float32)
    t = tl.zeros([LANES // PER], tl.float32)
    for start in range(0, V, LANES):
        ids = start + lane
        raw = tl.load(row_ptr + ids, mask=ids < V, other=float("-inf"))
        belongs = (raw.to(tl.float32) > threshold) | (
            (raw.to(tl.float32) == threshold) & (ids <= last_id)
        )
        value = value_of(raw, logit_scale, softcap, SOFTCAP)
        log_e = tl.maximum(bits_below(value, m, rate, dtype == tl.float32), LOWEST_LOG_E)
        e = tl.where(belongs & (ids != x) & (ids < V), tl.exp2(log_e), 0.0)
        s += tl.sum(e, 1)
        t += tl.sum(e * log_e, 1)
    return tl.sum(s, 0), tl.sum(t, 0)


@triton.jit
def find_head(
    row_ptr,
    V,
    top_k,
    x,
    raw_x,
    m,
    logit_scale,
    softcap,
    rate,
    a,
    b,
    c,
    d,
    e,
    SOFTCAP: tl.constexpr,
    FIVE: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """(smallest logit of K, its last id in K, Σe, Σe·log2 e over K); the sums omit the target."""
    dtype: tl.constexpr = row_ptr.dtype.element_ty
    # The number of low bits of `to_order` that are 0 for every float of the type. Keys of fp32 are
    # not packed.
    GRAIN: tl.constexpr = 16 if dtype == tl.bfloat16 else (13 if dtype == tl.float16 else 0)
    key, last_lane, certain = _search_lists(
        top_k, to_key(raw_x, x // LANES), x % LANES, a, b, c, d, e, GRAIN, FIVE, LANES, PER
    )
    order = key_order(key, dtype)
    last_id = key_tile(key) * LANES + last_lane
    if certain:
        s, t = _list_sums(
            a, key, last_lane, m, logit_scale, softcap, rate, dtype, SOFTCAP, LANES, PER
        )
        s_b, t_b = _list_sums(
            b, key, last_lane, m, logit_scale, softcap, rate, dtype, SOFTCAP, LANES, PER
        )
        s_c, t_c = _list_sums(
            c, key, last_lane, m, logit_scale, softcap, rate, dtype, SOFTCAP, LANES, PER
        )
        s, t = s + s_b + s_c, t + t_b + t_c
        if FIVE:
            s_d, t_d = _list_sums(
                d, key, last_lane, m, logit_scale, softcap, rate, dtype, SOFTCAP, LANES, PER
            )
            s_e, t_e = _list_sums(
                e, key, last_lane, m, logit_scale, softcap, rate, dtype, SOFTCAP, LANES, PER
            )
            s, t = s + s_d + s_e, t + t_d + t_e
    else:
        order = tl.where(top_k <= LANES, order, LOWEST_ORDER)
        order, last_id = search_row(row_ptr, V, top_k, to_order(raw_x), x, order, GRAIN, LANES, PER)
        s, t = row_sums(
            row_ptr,
            V,
            from_order(order),
            last_id,
            x,
            m,
            logit_scale,
            softcap,
            rate,
            SOFTCAP,
            LANES,
            PER,
        )
    return from_order(order), last_id, s, t
