"""Triton kernel: loss, metrics and gradient of rows of logits, in place, one launch per chunk.

A program handles one row of V logits in tiles of LANES. In the first pass, each thread keeps the
largest logit m besides the target's, the sums Σe and Σe·log2 e with e = exp(z − m), and, if the
head set matters, the lists of `triton_topk.py`. Everything else about the row follows from these
numbers. The second pass writes the gradient over the logits. `kernels/README.md` has the formulas.

The target's logit is read and replaced by −inf, so that no pass has to leave out the target. With a
softcap, which makes a finite logit of −inf, it is masked.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_arithmetic import (
    LARGEST,
    LN_2,
    LOWEST_LOG_E,
    bits_below,
    entropy_weight,
    lanes,
    minus_p_log_p,
    target_terms,
    times_nll,
    to_order,
    value_of,
)
from .triton_groups import find_head_in_groups, store_maxima
from .triton_topk import count_before, find_head, insert, no_keys, to_key

# The largest logit of no tokens. It replaces -inf, and stays finite when it is scaled.
LOWEST_LOGIT = tl.constexpr(-1.0e30)
# More columns than a row has beyond the vocabulary.
SPARE = tl.constexpr(64)


@triton.jit
def _load(row_ptr, ids, width, EVICTION: tl.constexpr):
    """Load the logits of a tile.

    Both passes load two tiles ahead, since the lists leave room for few warps, which must not wait.
    """
    return tl.load(row_ptr + ids, mask=ids < width, other=float("-inf"), eviction_policy=EVICTION)


@triton.jit
def stream(
    row_ptr,
    x,
    V,
    width,
    logit_scale,
    softcap,
    rate,
    groups_ptr,
    LISTS: tl.constexpr,
    SUMS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    FIVE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """First pass: (m, Σe, Σe·log2 e) over the others, and the lists of keys [threads, PER].

    It fills the lists if LISTS, and writes the maxima of groups if GROUP is not 0.
    """
    dtype: tl.constexpr = row_ptr.dtype.element_ty
    lane = lanes(LANES, PER)
    m = tl.full([LANES // PER], LOWEST_LOGIT, tl.float32)
    s = tl.zeros([LANES // PER], tl.float32)
    t = tl.zeros([LANES // PER], tl.float32)
    a = no_keys(dtype, LANES, PER)
    b, c, d, e = a, a, a, a
    near = _load(row_ptr, lane, width, "evict_last")
    far = _load(row_ptr, LANES + lane, width, "evict_last")
    for start in range(0, V, LANES):
        ids = start + lane
        raw, near = near, far
        far = _load(row_ptr, ids + 2 * LANES, width, "evict_last")
        if GROUP:
            store_maxima(raw, groups_ptr, start, GROUP, LANES)
        if LISTS:
            a, b, c, d, e = insert(to_key(raw, start // LANES), a, b, c, d, e, FIVE)
        value = value_of(raw, logit_scale, softcap, SOFTCAP)
        if SOFTCAP:
            value = tl.where((ids < V) & (ids != x), value, float("-inf"))
        larger = tl.maximum(m, tl.max(value, 1))
        shift = (m - larger) * rate
        rescale = tl.exp2(shift)
        log_e = bits_below(value, larger[:, None], rate, dtype == tl.float32)
        if SUMS:
            log_e = tl.maximum(log_e, LOWEST_LOG_E, propagate_nan=tl.PropagateNan.ALL)
        u = tl.exp2(log_e)
        if SUMS:
            t = rescale * (t + shift * s) + tl.sum(u * log_e, 1)
        s = rescale * s + tl.sum(u, 1)
        m = larger
    largest = tl.max(m, 0)
    shift = (m - largest) * rate
    rescale = tl.exp2(shift)
    return largest, tl.sum(rescale * s, 0), tl.sum(rescale * (t + shift * s), 0), a, b, c, d, e


@triton.jit
def write_tiles(
    row_ptr,
    x,
    V,
    width,
    first,
    last,
    m,
    head_rate,
    rest_rate,
    threshold,
    last_id,
    logit_scale,
    softcap,
    rate,
    GRAD: tl.constexpr,
    TIES: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """Write e times its rate over the logits of the tiles `first` to `last` − 1.

    Return Σe of the tail.

    TIES: which entries at the threshold belong to K: "all", "none", "first" (up to `last_id`), or
        "" if there is no K.
    """
    dtype: tl.constexpr = row_ptr.dtype.element_ty
    lane = lanes(LANES, PER)
    s = tl.zeros([LANES // PER], tl.float32)
    near = _load(row_ptr, first + lane, width, "evict_first")
    far = _load(row_ptr, first + LANES + lane, width, "evict_first")
    for start in range(first, last, LANES):
        ids = start + lane
        raw, near = near, far
        far = _load(row_ptr, ids + 2 * LANES, width, "evict_first")
        value = value_of(raw, logit_scale, softcap, SOFTCAP)
        e = tl.exp2(bits_below(value, m, rate, dtype == tl.float32))
        multiple = rest_rate
        if TIES != "":
            logit = raw.to(tl.float32)
            in_head = logit >= threshold if TIES == "all" else logit > threshold
            if TIES == "first":
                in_head = in_head | ((logit == threshold) & (ids <= last_id))
            multiple = tl.where(in_head, head_rate, rest_rate)
            tail = tl.where(in_head, 0.0, e)
            if SOFTCAP:
                tail = tl.where((ids < V) & (ids != x), tail, 0.0)
            s += tl.sum(tail, 1)
        if GRAD:
            gradient = e * multiple
            if SOFTCAP:
                gradient *= 1.0 - (value / softcap) * (value / softcap)
            tl.store(
                row_ptr + ids, gradient.to(dtype), mask=ids < width, eviction_policy="evict_first"
            )
    return tl.sum(s, 0)


@triton.jit
def _write_row(
    row_ptr,
    x,
    V,
    width,
    m,
    head_rate,
    rest_rate,
    threshold,
    last_id,
    logit_scale,
    softcap,
    rate,
    GRAD: tl.constexpr,
    HEAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """Second pass over the whole row; returns Σe of the tail if HEAD.

    Only the tile with the last tie of K has to compare ids: all ties before it belong to K, and
    none after it.
    """
    s = 0.0
    cut = V
    if HEAD:
        cut = last_id // LANES * LANES
        s = write_tiles(
            row_ptr, x, V, width, 0, cut, m, head_rate, rest_rate, threshold, last_id,
            logit_scale, softcap, rate,
            GRAD, "all", SOFTCAP, LANES, PER,
        )  # fmt: skip
        s += write_tiles(
            row_ptr, x, V, width, cut, cut + LANES, m, head_rate, rest_rate, threshold, last_id,
            logit_scale, softcap, rate,
            GRAD, "first", SOFTCAP, LANES, PER,
        )  # fmt: skip
        s += write_tiles(
            row_ptr, x, V, width, cut + LANES, V, m, head_rate, rest_rate, threshold, last_id,
            logit_scale, softcap, rate,
            GRAD, "none", SOFTCAP, LANES, PER,
        )  # fmt: skip
    else:
        write_tiles(
            row_ptr, x, V, width, 0, V, m, head_rate, rest_rate, threshold, last_id,
            logit_scale, softcap, rate, GRAD, "", SOFTCAP, LANES, PER,
        )  # fmt: skip
    return s


@triton.jit
def _clear(row_ptr, width, LANES: tl.constexpr, PER: tl.constexpr):
    lane = lanes(LANES, PER)
    for start in range(0, width, LANES):
        ids = start + lane
        tl.store(
            row_ptr + ids, tl.zeros([LANES // PER, PER], row_ptr.dtype.element_ty), mask=ids < width
        )


@triton.jit(do_not_specialize=["top_k", "form", "with_top1", "with_rank"])
def shape_rows(
    logits_ptr,  # [C, width], V of its columns: logits in, gradient out
    targets_ptr,  # [C] int64, −1 if ignored
    weights_ptr,  # [C] fp32: the factor of loss and gradient, or None for 1
    # [9, C] fp32: the loss, then as in `_METRIC_ROWS` of triton_rows.py
    out_ptr,
    scratch_ptr,  # [C, 2·GROUPS + 2·SLOTS] int32 if GROUP, or None
    V,
    width,  # the distance of rows, a multiple of 64 in use, so that tiles are read in whole vectors
    top_k,
    form,
    with_top1,
    with_rank,
    beta,
    alpha,
    min_p,
    lambda_head,
    lambda_rest,
    z_loss,
    temperature,
    logit_scale,
    softcap,
    rate,
    GRAD: tl.constexpr,
    HEAD: tl.constexpr,
    SUMS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    FIVE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
):
    """One row per program: loss and metrics go to `out_ptr`, the gradient over the logits if GRAD.

    Without GRAD the logits are left as they were. `rate` is the number of bits per unit of
    `value_of`; it includes 1/`temperature`.
    HEAD: the head set matters; without it all others get `lambda_rest`, and their mass is the
    tail's.
    SUMS: Σ p ln p over the others matters (for a reward, or the entropy).
    FIVE: the lists have five keys, otherwise three.
    GROUP: the head set is found from maxima of groups of this size instead of lists; 0 if not.
    """
    dtype: tl.constexpr = logits_ptr.dtype.element_ty
    row = tl.program_id(0)
    columns = tl.num_programs(0)
    row_ptr = logits_ptr + row.to(tl.int64) * width
    x = tl.load(targets_ptr + row).to(tl.int32)
    if x < 0:
        for column in tl.static_range(9):
            tl.store(out_ptr + column * columns + row, 0.0)
        if GRAD:
            _clear(row_ptr, width, LANES, PER)
    else:
        raw_x = tl.load(row_ptr + x)
        tl.debug_barrier()
        tl.store(row_ptr + x, float("-inf"))
        spare = V + tl.arange(0, SPARE)
        tl.store(row_ptr + spare, float("-inf"), mask=spare < width)
        tl.debug_barrier()
        groups_ptr = scratch_ptr
        if GROUP:
            groups_ptr += row.to(tl.int64) * (2 * GROUPS + 2 * SLOTS)
        m, s, t, a, b, c, d, e = stream(
            row_ptr, x, V, width, logit_scale, softcap, rate, groups_ptr,
            HEAD and GROUP == 0, SUMS, SOFTCAP, FIVE, GROUP, LANES, PER,
        )  # fmt: skip
        threshold, last_id, s_head, t_head = 0.0, 0, 0.0, 0.0
        if GROUP:
            tl.debug_barrier()
            threshold, last_id, s_head, t_head = find_head_in_groups(
                row_ptr, groups_ptr, V, top_k, x, raw_x, m, logit_scale, softcap, rate,
                SOFTCAP, GROUP, GROUPS, SLOTS, LANES, PER,
            )  # fmt: skip
        elif HEAD:
            threshold, last_id, s_head, t_head = find_head(
                row_ptr, V, top_k, x, raw_x, m, logit_scale, softcap, rate, a, b, c, d, e,
                SOFTCAP, FIVE, LANES, PER,
            )  # fmt: skip
        # From here on only a few numbers are computed. Earlier they would have held registers.
        value_x = value_of(raw_x, logit_scale, softcap, SOFTCAP)
        # +inf among the logits, or nothing but -inf, is not a distribution. NaN is in s, and false
        # in a comparison.
        has_largest = (
            (value_x < float("inf"))
            & (m < float("inf"))
            & ((value_x > LOWEST_LOGIT) | (m > LOWEST_LOGIT))
        )
        alone = has_largest & (s == 0)
        # The largest e is 1, so this changes only a target without a competitor.
        s = tl.maximum(s, 1.0, propagate_nan=tl.PropagateNan.ALL)
        bits_x = bits_below(value_x, m, rate, dtype == tl.float32)
        delta = tl.where(has_largest, bits_x * LN_2 - tl.log(s), float("nan"))
        delta = tl.where(alone, float("inf"), delta)
        nll, p, q, minus_log_q, wq, loss = target_terms(delta, form, beta, alpha, min_p)
        wq = tl.where(alone, 0.0, wq)
        loss = tl.where(alone, 0.0, loss)
        is_number = nll == nll
        if form == 5:
            s_k, t_k, is_in_head = s, t, is_number
            if HEAD:
                s_k, t_k = s_head, t_head
                logit_x = raw_x.to(tl.float32)
                is_in_head = (logit_x > threshold) | ((logit_x == threshold) & (x <= last_id))
            w = entropy_weight(s_k, t_k, s, p, q, nll, minus_log_q, is_in_head, top_k)
            wq *= w
            loss = times_nll(w, loss)
        top1 = (value_x > m).to(tl.float32)
        if (with_rank != 0) | ((with_top1 != 0) & (value_x == m)):
            rank = count_before(row_ptr, V, to_order(raw_x), x - 1, LANES, PER)
            top1 = (rank == 0).to(tl.float32)
            tl.store(out_ptr + 7 * columns + row, tl.where(is_number, rank.to(tl.float32), nll))

        unit = 1.0 if SOFTCAP else logit_scale
        lse = tl.where(delta >= 0, value_x * unit + nll, m * unit + tl.log(s) + minus_log_q)
        factor = logit_scale
        if weights_ptr is not None:
            weight = tl.load(weights_ptr + row)
            factor *= weight
        head_share = s_head / s
        mean_reward = q * (lambda_head * head_share + lambda_rest * (1.0 - head_share))
        if z_loss != 0:  # lse² may overflow
            mean_reward += 2.0 * z_loss * lse
            loss += z_loss * lse * lse
        head_rate = factor / s * (wq + q * (mean_reward - lambda_head))
        rest_rate = factor / s * (wq + q * (mean_reward - lambda_rest))
        s_rest = s
        if GRAD or HEAD:
            s_tail = _write_row(
                row_ptr, x, V, width, m, head_rate, rest_rate, threshold, last_id,
                logit_scale, softcap, rate, GRAD, HEAD, SOFTCAP, LANES, PER,
            )  # fmt: skip
            if HEAD:
                s_rest = s_tail
        if GRAD:
            gradient_x = factor * (p * mean_reward - wq)
            if SOFTCAP:
                gradient_x *= 1.0 - (value_x / softcap) * (value_x / softcap)
            tl.debug_barrier()
            tl.store(row_ptr + x, gradient_x.to(dtype))
        else:
            tl.debug_barrier()
            tl.store(row_ptr + x, raw_x)
        head_entropy = minus_p_log_p(s_head, t_head, s, q, minus_log_q)
        others_entropy = minus_p_log_p(s, t, s, q, minus_log_q)
        if SUMS:
            loss += lambda_head * head_entropy + lambda_rest * (others_entropy - head_entropy)
        loss *= temperature
        if weights_ptr is not None:
            loss *= weight
        tl.store(out_ptr + row, loss)
        tl.store(out_ptr + columns + row, nll)
        tl.store(out_ptr + 2 * columns + row, p * tl.minimum(nll, LARGEST) + others_entropy)
        tl.store(out_ptr + 3 * columns + row, p)
        tl.store(out_ptr + 4 * columns + row, q * head_share)
        tl.store(out_ptr + 5 * columns + row, q * s_rest / s)
        tl.store(out_ptr + 6 * columns + row, tl.where(is_number, top1, nll))
        tl.store(out_ptr + 8 * columns + row, lse)


@triton.jit
def scale(in_ptr, out_ptr, factor_ptr, numel, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr):
    """out = in · factor, with the factor read on the device; in place, a factor of 1 is skipped."""
    factor = tl.load(factor_ptr).to(tl.float32)
    if not IN_PLACE or factor != 1.0:
        for block in range(tl.program_id(0), tl.cdiv(numel, BLOCK), tl.num_programs(0)):
            ids = (tl.zeros([BLOCK], tl.int64) + block) * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(in_ptr + ids, mask=ids < numel, other=0.0).to(tl.float32) * factor
            tl.store(out_ptr + ids, value.to(out_ptr.dtype.element_ty), mask=ids < numel)
