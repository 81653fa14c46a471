"""Results as rows with their provenance, as a table on the screen and in results.csv."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import platform
import statistics
import subprocess
from pathlib import Path

import torch
from measure import MedianInterval, Result, Size, time_ratio
from peers import Variant

FLOORS = {"cuda": "floor: 3 matmuls, our chunks", "cpu": "floor: 3 matmuls and a pass"}
COLUMNS = [
    *("size", "dtype", "variant", "sums", "median_ms", "p20_ms", "p80_ms", "calls", "rounds"),
    *("floor", "floor_ratio", "floor_ratio_low", "floor_ratio_high"),
    *("base", "base_ratio", "base_ratio_low", "base_ratio_high", "peak_mb", "error_ratio"),
    *("date", "commit", "device", "torch", "triton", "liger", "command"),
]


def base_of(variant: Variant, results: dict[str, Result]) -> str:
    """The variant with which this one's time is compared.

    This is Liger at C=16 with the same kind of sums, or the first variant without Liger.
    """
    liger = "Liger C=16, fp32 sums" if variant.sums == "float32" else "Liger C=16"
    return liger if liger in results else next(iter(results))


def make_rows(
    size: Size, results: dict[str, Result], device: str, dtype: torch.dtype, origin: dict[str, str]
) -> list[dict[str, str]]:
    """A row for each variant. If it ran out of memory, this replaces the median."""
    rows = []
    for name, result in results.items():
        floor, base = FLOORS[device], base_of(result.variant, results)
        p20, p80 = _p20_p80(result.calls_ms)
        row = {
            "size": str(size),
            "dtype": str(dtype).removeprefix("torch."),
            "variant": name,
            "sums": result.variant.sums,
            "median_ms": f"{statistics.median(result.calls_ms):.2f}"
            if result.calls_ms
            else "out of memory",
            "p20_ms": p20,
            "p80_ms": p80,
            "calls": str(len(result.calls_ms)),
            "rounds": str(len(result.rounds)),
            "floor": floor,
            **_ratio_columns("floor", time_ratio(result, results.get(floor))),
            "base": base,
            **_ratio_columns("base", time_ratio(result, results[base])),
            "peak_mb": "" if result.peak_mb is None else f"{result.peak_mb:.0f}",
            "error_ratio": "" if result.error is None else f"{result.error:.2f}",
        }
        rows.append(row | origin)
    return rows


def _p20_p80(values: list[float]) -> tuple[str, str]:
    if len(values) < 2:
        return "", ""
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return f"{fifths[0]:.2f}", f"{fifths[-1]:.2f}"


def _ratio_columns(name: str, ratio: MedianInterval | None) -> dict[str, str]:
    columns = (f"{name}_ratio", f"{name}_ratio_low", f"{name}_ratio_high")
    return dict(
        zip(columns, [f"{value:.3f}" for value in ratio] if ratio else [""] * 3, strict=True)
    )


def print_table(rows: list[dict[str, str]]) -> None:
    """The rows of one size."""
    reference = rows[0]["floor"].removeprefix("floor: ")
    print(f"\n{rows[0]['size']} {rows[0]['dtype']}, ms; floor = {reference}")
    print(f"{'':30} {'sums':10} {'median':>9} {'p20':>9} {'p80':>9} {'rounds':>6}", end="")
    print(f"  {'/ floor':20}  {'/ base':20} {'MiB':>6} {'error':>6}  base")
    for row in rows:
        times = " ".join(f"{row[key]:>9}" for key in ("median_ms", "p20_ms", "p80_ms"))
        ratios = "  ".join(f"{_ratio_text(row, name):20}" for name in ("floor", "base"))
        print(f"{row['variant']:30} {row['sums']:10} {times} {row['rounds']:>6}  {ratios}", end="")
        print(f" {row['peak_mb']:>6} {row['error_ratio']:>6}  {row['base']}", flush=True)


def _ratio_text(row: dict[str, str], name: str) -> str:
    ratio, low, high = (row[f"{name}_ratio{end}"] for end in ("", "_low", "_high"))
    return f"{ratio} [{low}, {high}]" if ratio else ""


def provenance(device: str, commit: str | None, command: str) -> dict[str, str]:
    """The provenance of the numbers; `commit` comes from git if it is None."""
    if commit is None:
        git = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
        ]
        commit = (
            subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
            or "unknown"
        )
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        models = [
            line.split(":")[1].strip()
            for line in cpuinfo.splitlines()
            if line.startswith("model name")
        ]
        model = models[0] if models else platform.processor()
        name = f"CPU {model}, {torch.get_num_threads()} threads"
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "commit": commit,
        "device": name,
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "liger": package_version("liger-kernel"),
        "command": command,
    }


def package_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def require_columns(path: Path) -> None:
    """Check that rows can be appended to the file.

    Raises:
        SystemExit: the file has other columns.
    """
    if path.exists() and path.read_text(encoding="utf-8").splitlines()[:1] != [",".join(COLUMNS)]:
        raise SystemExit(
            f"--out {path}: its columns are not those of this script; give another file"
        )


def append_rows(path: Path, rows: list[dict[str, str]], columns: list[str] = COLUMNS) -> None:
    """Append the columns of the rows to a csv file, which gets a header if it is new."""
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
