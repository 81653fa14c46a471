"""Triton: the head set K of a row, exact under ties, from maxima of groups of adjacent tokens.

The first pass writes the maximum of each group. The k-th largest of these maxima is a lower bound
of the k-th largest logit, since k groups hold an entry that reaches it. So only groups whose
maximum reaches the bound are looked at again, and their entries that reach it are listed. K is
found among those as in `triton_topk.py`: ties go to the lowest token id. If there are more than the
list holds, the row is searched by counting passes, from the bound upwards.

As there, the row holds −inf at the target, whose own logit takes part in every count and in no sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_arithmetic import LOWEST_LOG_E, bits_below, from_order, to_order, value_of
from .triton_topk import LOWEST_ORDER, row_sums, search_row, upper_middle


@triton.jit
def store_maxima(raw, groups_ptr, start, GROUP: tl.constexpr, LANES: tl.constexpr):
    """Write the `to_order` of the maximum of each group of a tile [threads, entries]."""
    PER: tl.constexpr = raw.shape[1]
    of_thread = tl.max(raw.to(tl.float32), 1)
    of_group = tl.max(tl.reshape(of_thread, [LANES // GROUP, GROUP // PER]), 1)
    tl.store(groups_ptr + start // GROUP + tl.arange(0, LANES // GROUP), to_order(of_group))


@triton.jit
def _reaching(order, order_x, least):
    """The number of entries that are at least `least`, the target's included."""
    return tl.sum((order >= least).to(tl.int32), 0) + (order_x >= least).to(tl.int32)


@triton.jit
def _kth_largest(order, order_x, top_k, GRAIN: tl.constexpr):
    """The `top_k`-th largest of the integers `order` and of `order_x`."""
    low = tl.full([], LOWEST_ORDER, tl.int32) >> GRAIN
    high = tl.maximum(tl.max(order, 0), order_x) >> GRAIN
    while low < high:
        middle = upper_middle(low, high)
        enough = _reaching(order, order_x, middle << GRAIN) >= top_k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low << GRAIN


@triton.jit
def _list_entries(
    row_ptr,
    V,
    groups_ptr,
    group_count,
    bound,
    list_ptr,
    GROUP: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """List order and id of the entries that reach `bound`, with ascending ids; return their number.

    It looks at the groups whose numbers are at `groups_ptr`. If there are more than SLOTS entries,
    the list is useless, and the number is only above SLOTS.
    """
    lane = tl.arange(0, LANES)
    total = 0
    first = 0
    while (first < group_count) & (total <= SLOTS):
        place = first + lane // GROUP
        group = tl.load(groups_ptr + place, mask=place < group_count, other=0)
        ids = group * GROUP + lane % GROUP
        inside = (place < group_count) & (ids < V)
        order = to_order(tl.load(row_ptr + ids, mask=inside, other=float("-inf")))
        listed = (inside & (order >= bound)).to(tl.int32)
        slot = total + tl.cumsum(listed, 0) - 1
        keep = (listed != 0) & (slot < SLOTS)
        tl.store(list_ptr + slot, order, mask=keep)
        tl.store(list_ptr + SLOTS + slot, ids, mask=keep)
        total += tl.sum(listed, 0)
        first += LANES // GROUP
    return total


@triton.jit
def _last_tie(tied, ids, ties_x, x, missing, V):
    """The id up to which entries at the threshold belong to K, of which `missing` do."""
    first_id = 0
    last_id = V - 1
    if tl.sum(tied.to(tl.int32), 0) + ties_x.to(tl.int32) > missing:
        while first_id < last_id:
            middle_id = (first_id + last_id) >> 1
            found = tl.sum((tied & (ids <= middle_id)).to(tl.int32), 0)
            enough = found + (ties_x & (x <= middle_id)).to(tl.int32) >= missing
            last_id = tl.where(enough, middle_id, last_id)
            first_id = tl.where(enough, first_id, middle_id + 1)
    return last_id


@triton.jit
def find_head_in_groups(
    row_ptr,
    scratch_ptr,  # the maxima [GROUPS], and space for GROUPS numbers and for SLOTS orders and ids
    V,
    top_k,
    x,
    raw_x,
    m,
    logit_scale,
    softcap,
    rate,
    SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """As from `find_head`: (smallest logit of K, its last id in K, Σe, Σe·log2 e over K)."""
    dtype: tl.constexpr = row_ptr.dtype.element_ty
    GRAIN: tl.constexpr = 16 if dtype == tl.bfloat16 else (13 if dtype == tl.float16 else 0)
    order_x = to_order(raw_x)
    numbers = tl.arange(0, GROUPS)
    exists = numbers < tl.cdiv(V, GROUP)
    maxima = tl.load(scratch_ptr + numbers, mask=exists, other=LOWEST_ORDER)
    bound = _kth_largest(maxima, order_x, top_k, GRAIN)
    reaches = (exists & (maxima >= bound)).to(tl.int32)
    groups_ptr = scratch_ptr + GROUPS
    list_ptr = groups_ptr + GROUPS
    tl.store(groups_ptr + tl.cumsum(reaches, 0) - 1, numbers, mask=reaches != 0)
    tl.debug_barrier()
    count = _list_entries(
        row_ptr, V, groups_ptr, tl.sum(reaches, 0), bound, list_ptr, GROUP, SLOTS, LANES
    )
    tl.debug_barrier()
    if count <= SLOTS:
        slots = tl.arange(0, SLOTS)
        order = tl.load(list_ptr + slots, mask=slots < count, other=LOWEST_ORDER)
        ids = tl.load(list_ptr + SLOTS + slots, mask=slots < count, other=0)
        threshold = _kth_largest(order, order_x, top_k, GRAIN)
        missing = top_k - _reaching(order, order_x, threshold + 1)
        tied = order == threshold
        last_id = _last_tie(tied, ids, order_x == threshold, x, missing, V)
        belongs = (order > threshold) | (tied & (ids <= last_id))
        value = value_of(from_order(order), logit_scale, softcap, SOFTCAP)
        log_e = bits_below(value, m, rate, dtype == tl.float32)
        log_e = tl.where(belongs, tl.maximum(log_e, LOWEST_LOG_E), LOWEST_LOG_E)
        e = tl.exp2(log_e)
        s, t = tl.sum(e, 0), tl.sum(e * log_e, 0)
    else:
        threshold, last_id = search_row(row_ptr, V, top_k, order_x, x, bound, GRAIN, LANES, PER)
        s, t = row_sums(
            row_ptr, V, from_order(threshold), last_id, x, m,
            logit_scale, softcap, rate, SOFTCAP, LANES, PER,
        )  # fmt: skip
    return from_order(threshold), last_id, s, t
