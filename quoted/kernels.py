"""What the section "Measured" of `kernels/README.md` quotes."""

from __future__ import annotations

from quoted.kernel_rows import (
    CPU,
    CPU_SIZE,
    CROSS_ENTROPY,
    FULL,
    FULL_LOGITS,
    H200,
    LARGE,
    LIGER,
    PATH,
    Measured,
    faster,
    leaner,
    measured,
    to_matmuls,
)
from quoted.pages import Page
from quoted.records import Number, number, row, rows

# three later runs on a CPU
FORMS, SMALL, SMOLLM2 = "2026-11-29T06:53", "2026-11-29T21:04", "2026-11-30T00:33"
FIRST = "2026-11-21"  # the rows of the script's predecessor
WIDE, NARROW, TALL = "16384x2560x151936", "16384x1536x151936", "4096x4096x128256"
SIZES = {
    LARGE: ("8192 × 2560 × 151,936", ("ce", "beta", "full", "ce16", "full16")),
    WIDE: ("16384 × 2560 × 151,936", ("ce", "full")),
    NARROW: ("16384 × 1536 × 151,936", ("ce", "full")),
    TALL: ("4096 × 4096 × 128,256", ("ce", "full")),
}
LINES = {  # words of the table, variant, the row of Liger that has its memory beside it
    "ce": ("cross-entropy, fp32", CROSS_ENTROPY, f"{LIGER}, fp32 sums"),
    "beta": ("β only, product, fp32", "ours beta", None),
    "full": ("full, metrics, fp32", FULL, None),
    "ce16": ("cross-entropy, bf16", f"{CROSS_ENTROPY}, bf16 sums", LIGER),
    "full16": ("full, metrics, bf16", f"{FULL}, bf16 sums", None),
}


def gpu_table(size: str) -> str:
    """The lines of one size."""
    first, names = SIZES[size]
    lines = []
    for name in names:
        words, variant, peer = LINES[name]
        ours = measured(size, variant)
        beside = f" ({measured(size, peer).mib})" if peer else ""
        lines.append(
            f"| {words} | {ours.ms:.1f} ms | {ours.to_floor:.3f} {ours.to_floor:[.3f]} "
            f"| {ours.to_base:.3f} {ours.to_base:[.3f]} | {ours.mib}{beside} |"
        )
    return f"| {first} " + " | ".join(lines)


def gpu_quotes() -> list[str]:
    """The table of the H200, and the text below it."""
    times, memory = ([of(size) for size in SIZES] for of in (faster, leaner))
    full, narrow = (measured(size, FULL).to_floor for size in (LARGE, NARROW))
    narrow_bf16 = measured(NARROW, f"{FULL}, bf16 sums").to_floor
    errors = {each["error_ratio"] for each in rows(PATH) if each["date"] == H200} - {""}
    (error,) = (Number(each) for each in errors)
    return [
        f"The errors of all variants are {error:.2f} times those",
        f"one H200 on {measured(LARGE, FULL).date}",
        f"{measured(LARGE, FULL).rounds} interleaved rounds, while",
        *map(gpu_table, SIZES),
        f"it is {times[0]:.1f}, {times[1]:.1f}, {times[2]:.1f} and {times[3]:.1f} times faster and "
        f"takes {memory[0]:.0f}, {memory[1]:.0f}, {memory[2]:.0f} and {memory[3]:.1f} times less "
        f"memory ({measured(LARGE, FULL_LOGITS).mib:,.0f} against "
        f"{measured(LARGE, 'ours full').mib:,.0f} MiB",
        f"8192 × 2560 ({full:.3f}) and at 16384 × 1536 ({narrow:.3f}; {narrow_bf16:.3f} with bf16",
        f"full logits at 4096 × 4096 ({memory[3]:.1f})",
    ]


def cpu_line(words: str, of: Measured) -> str:
    """A line of a table of times and of the memory beyond the inputs."""
    extra = f" {of.mib} MiB" if of.row["peak_mb"] else ""
    return f"| {words} | {of.ms} ms | {of.to_floor:.3f} {of.to_floor:[.3f]} |{extra} |"


def cpu_quotes() -> list[str]:
    """The table of the CPU, and the text below it."""
    entropy, full, matmuls = (
        measured(CPU_SIZE, name, CPU)
        for name in (CROSS_ENTROPY, FULL, "floor: 3 matmuls, our chunks")
    )
    forms = {
        name: measured("512x512x151936", variant, FORMS)
        for name, variant in (
            ("exponent", "ours beta, exponent"),
            ("product", "ours beta"),
            ("ce", CROSS_ENTROPY),
        )
    }
    (same,) = {f"{of.mib}" for of in forms.values()}
    exponent, product, plain = (of.to_floor for of in forms.values())
    table = [
        cpu_line("cross-entropy", entropy),
        cpu_line("β only, product", measured(CPU_SIZE, "ours beta", CPU)),
        cpu_line("full shape", measured(CPU_SIZE, "ours full", CPU)),
        cpu_line("full shape, all metrics", full),
        cpu_line("three matmuls", matmuls),
    ]
    return [
        f"{full.rounds} interleaved rounds ([plot]",
        " ".join(table),
        f"in one run of {forms['ce'].rounds} rounds on {forms['ce'].date}",
        f"the exponent {exponent:.3f} {exponent:[.3f]} of the floor, the product {product:.3f} "
        f"{product:[.3f]}, cross-entropy {plain:.3f} {plain:[.3f]}, each with {same} MiB extra",
        f"cross-entropy takes {to_matmuls(CROSS_ENTROPY):.2f} and the full shape with all metrics "
        f"{to_matmuls(FULL):.2f} of their time ({entropy.ms} and {full.ms} ms against "
        f"{matmuls.ms} ms)",
    ]


def small_quotes() -> list[str]:
    """The two smaller heads."""
    any_row = measured("256x512x49152", FULL, SMALL)
    quotes = [f"of one thread, {any_row.rounds} interleaved rounds on {any_row.date}"]
    for size, words in (
        ("512x256x32768", "512 × 256 × 32,768"),
        ("256x512x49152", "256 × 512 × 49,152"),
    ):
        lines = [
            cpu_line(name, measured(size, variant, SMALL))
            for name, variant in (
                ("cross-entropy", CROSS_ENTROPY),
                ("full shape", "ours full"),
                ("full shape, all metrics", FULL),
            )
        ]
        quotes.append(f"| {words} " + " | ".join(lines))
    return quotes


def smollm2_quotes() -> list[str]:
    """The head of SmolLM2-135M beside its peers."""
    variants = {
        "cross-entropy": CROSS_ENTROPY,
        "full shape": "ours full",
        "full shape, all metrics": FULL,
        "TRL's chunked function": "TRL ChunkedLogProbFunction",
        "torch's `linear_cross_entropy`": "torch linear_cross_entropy",
        "full logits, cross-entropy": "full logits",
        "full logits, full shape": FULL_LOGITS,
    }
    found = {words: measured("256x576x49152", name, SMOLLM2) for words, name in variants.items()}
    first, torchs = (
        found[words].rounds for words in ("cross-entropy", "torch's `linear_cross_entropy`")
    )
    return [
        f"on {found['cross-entropy'].date}. {first} rounds, but\n{torchs} of torch's own function",
        " ".join(cpu_line(words, of) for words, of in found.items()),
    ]


def peer(size: str, variant: str) -> Measured:
    """A row of the script's predecessor."""
    (date,) = {
        each["date"] for each in rows(PATH) if (each["size"], each["variant"]) == (size, variant)
    }
    return Measured(row(PATH, size=size, variant=variant, date=date))


def peer_line(words: str, of: Measured) -> str:
    """A line with seconds, the ratio and its interval, and memory."""
    ratio, digits = of.to_base, 1 if of.to_base.value > 10 else 2
    interval = (
        f"{ratio:.{digits}f} {ratio:[.{digits}f]}" if ratio.low < ratio.high else f"{ratio:.0f}"
    )
    return f"| {words} | {Number(of.ms / 1000):.2f} s | {interval} | {of.mib} MiB |"


def peer_quotes() -> list[str]:
    """The tables of the others, and the sentence below them."""
    ours, shaped = "shaped_kernels chunked, cross-entropy", "shaped_kernels chunked, full shape"
    full_logits = "full-logits autograd, cross-entropy"
    reference = "full-logits autograd, full shape"
    most, least = "4096x512x151936", "512x512x151936"
    middle = CPU_SIZE
    one, two = (
        Number(peer(size, large).mib / peer(size, small).mib)
        for size, large, small in ((most, full_logits, ours), (middle, reference, shaped))
    )
    tables = {
        most: {
            "chunked, cross-entropy": ours,
            "chunked, full shape": shaped,
            "full logits, cross-entropy": full_logits,
        },
        middle: {
            "chunked, full shape": shaped,
            "full logits, full shape (`reference`)": reference,
        },
        least: {
            "chunked, cross-entropy": ours,
            "`F.linear_cross_entropy`": "torch linear_cross_entropy",
            "TRL `ChunkedLogProbFunction`": "TRL ChunkedLogProbFunction",
        },
    }
    torch_error, trl_error = (
        number(peer(least, name).row, "error_ratio")
        for name in ("torch linear_cross_entropy", "TRL ChunkedLogProbFunction")
    )
    return [
        f"at most {trl_error:.1f} for ours and for TRL; {torch_error:.0f} for",
        *(
            " ".join(peer_line(words, peer(size, name)) for words, name in lines.items())
            for size, lines in tables.items()
        ),
        f"So the chunked loss needs {one:.1f} times less memory than full-logits cross-entropy at "
        f"N=4096, and {two:.1f} times less",
    ]


PAGE = Page(
    "kernels/README.md",
    section="## Measured",
    quotes=[*gpu_quotes(), *cpu_quotes(), *small_quotes(), *smollm2_quotes(), *peer_quotes()],
    settings=[
        *("β=−0.25", "λ̃=0.1", "λ̂=−0.1", "k=100", "torch 2.11, triton 3.6, Liger 0.8.5"),
        *("torch 2.13", "2 threads", "C=16", "C=1", "in 10 rounds", "at most 256 rows"),
        *("8192 × 2560", "16384 × 2560", "16384 × 1536", "4096 × 4096", "× 151,936"),
        *("× 128,256", "512 × 256 × 32,768", "256 × 512 × 49,152", "at 8192", "at 16384 × 1536"),
        *(
            "N=4096",
            "N=1024",
            "N=512",
            "N=256",
            "D=512",
            "D=576",
            "V=151,936",
            "V=49,152",
            "SmolLM2-135M",
            "D ≥ 256",
            "D = 256",
            "D = 512",
        ),
        # the aims
        *("within 1.15 of the floor", "within 1.08 anywhere", "1.4 times faster than Liger's"),
        *("8 times leaner than", "The aim is 1.1 of the floor at most", "1.15 of the floor, is"),
        # what tests say
        *("passed 15 tests", "for bfloat16 on sm_90 it has at most 64 registers"),
    ],
    unrecorded=[
        "1.39 [1.37, 1.41]",  # of paired rounds, which are not in the file
        "took 0.21 ms for cross-entropy, of which e^z is 0.13, and 0.51 ms for the full shape",
        "the top-k added 0.23",
        "takes 619 MiB and TRL's function 4539 MiB",
        "relative, 64 rows",
        "1.3e-5 against 5.3e-7",
    ],
)
