"""What `docs/results/speed.md` quotes."""

from __future__ import annotations

from quoted.kernel_rows import CROSS_ENTROPY, FULL, LARGE, faster, leaner, measured, to_matmuls
from quoted.pages import Page
from quoted.records import number, ratio, row

LOG_PROBS, SAMPLING = "kernels/benchmarks/log_probs.csv", "speed/sampling.csv"


def loss_quotes() -> list[str]:
    entropy, full = (measured(LARGE, variant).to_base for variant in (CROSS_ENTROPY, FULL))
    return [
        f"16 chunks) | {entropy:.2f} {entropy:[.2f]} | equal |",
        f"against the same | {full:.2f} {full:[.2f]} | equal |",
        f"{faster(LARGE):.1f} times faster | {leaner(LARGE):.0f} times less |",
        f"it takes {to_matmuls(CROSS_ENTROPY):.2f} (cross-entropy) to {to_matmuls(FULL):.2f} times",
    ]


def training_quotes() -> list[str]:
    quotes = []
    for size, words in (("demo", "the demo's, V=512"), ("32k", "V=32,768")):
        found = row("speed/training.csv", size=size)
        speed = ratio(found, "speed_ratio")
        memory = number(found, "memory_ratio")
        quotes.append(f"| {words} | {speed:.3f} {speed:[.3f]} times | {memory:.2f} |")
    return [f"in {number(found, 'pairs')} pairs of runs", *quotes]


def rl_quotes() -> list[str]:
    step, large = (row("speed/rlvr.csv", size=size) for size in ("demo", "49k"))
    processor = ratio(large, "cpu_ratio")
    wall = ratio(step, "wall_ratio")
    quotes = [
        f"takes {wall:.3f} {wall:[.3f]} times as long",
        f"in {number(step, 'pairs')} pairs of steps",
        f"takes {processor:.3f} {processor:[.3f]} of the processor time",
        f"in {number(large, 'pairs')} pairs, and {number(large, 'ours_peak_mb')} MiB instead of "
        f"{number(large, 'grpo_peak_mb')}",
    ]
    for size, words in (
        ("256x576x49152", "576 × 49,152 (the head of SmolLM2-135M)"),
        ("256x512x151936", "512 × 151,936"),
    ):
        ours, head, logits = (
            row(LOG_PROBS, size=size, variant=variant)
            for variant in ("linear_log_probs", "TRL's head", "full logits")
        )
        time, of_logits = ratio(ours, "ratio"), ratio(logits, "ratio")
        quotes.append(
            f"| {words} | {time:.3f} {time:[.3f]} | {number(ours, 'peak_mb')} MiB "
            f"({number(head, 'peak_mb')}) | {of_logits:.3f} {of_logits:[.3f]}, "
            f"{number(logits, 'peak_mb')} MiB |"
        )
    return [f"over {number(ours, 'pairs')} interleaved pairs", *quotes]


def sampling_quotes() -> list[str]:
    lines = (
        ("greedy, 20 problems, 24 tokens", {"temperature": "0.0", "pairs": "6"}),
        ("the same again, 8 pairs", {"temperature": "0.0", "pairs": "8"}),
        ("n = 1, temperature 0.7, 20 problems, 24 tokens", {"n": "1", "temperature": "0.7"}),
        ("n = 4, 8 problems, 16 tokens", {"n": "4"}),
        ("n = 128, 1 problem, 8 tokens", {"n": "128"}),
    )
    quotes = []
    for words, wanted in lines:
        found = row(SAMPLING, **wanted)
        faster = ratio(found, "ratio")
        quotes.append(
            f"| {words} | {number(found, 'ours_tokens_per_cpu_s')} "
            f"| {number(found, 'generate_tokens_per_cpu_s')} | {faster:.2f} {faster:[.2f]} |"
        )
    return quotes


def engine_quotes() -> list[str]:
    lines = (
        ("SmolLM2-135M-Instruct, gsm8k with 4 worked examples: 8 problems, n = 1", "gsm8k:8"),
        ("the same: 2 problems, n = 16", "gsm8k:2"),
        ("SmolLM2-135M-Instruct, humaneval: 4 problems, n = 4", "humaneval:4"),
        ("a model of 0.19M parameters, running sums: 32 problems, n = 64", "running_sums:32"),
    )
    quotes = []
    for words, benchmark in lines:
        found = row("speed/engines.csv", benchmark=benchmark)
        ours, theirs = (number(found, f"{name}_tokens_per_second") for name in ("vllm", "static"))
        faster = ratio(found, "ratio")
        quotes.append(f"| {words} | {ours:,.0f} | {theirs:,.0f} | {faster:.2f} {faster:[.2f]} |")
    return quotes


PAGE = Page(
    "docs/results/speed.md",
    quotes=[*loss_quotes(), *training_quotes(), *rl_quotes(), *sampling_quotes(), *engine_quotes()],
    settings=[
        *("one H200, with 8192 tokens, D=2560", "V=151,936", "2026-11-26, commit 28ee587"),
        *("16 chunks", "1024 tokens, D=512", "2 threads", "2026-11-21, commit 819bc0a"),
        *(
            "1 CPU core",
            "2026-11-26",
            "2026-11-29",
            "2026-11-30",
            "V=512",
            "V=32,768",
            "SmolLM2-135M",
        ),
        *("at least 49,152 tokens", "576 × 49,152", "512 × 151,936", "256 tokens"),
        *("top-p 0.95", "over 6 pairs", "SmolLM2-135M-Instruct", "8 pairs"),
        *("temperature 0.7", "20 problems, 24 tokens", "n = 1", "n = 4, 8 problems, 16 tokens"),
        *("n = 128, 1 problem, 8 tokens", "(0.31, CPU build)", "over 10 pairs", "with 4 worked"),
        *(
            "4 prompts × 4 completions × 64 tokens",
            "8 problems, n = 1",
            "2 problems, n = 16",
            "4 problems, n = 4",
            "0.19M parameters",
        ),
        "32 problems, n = 64",
    ],
)
