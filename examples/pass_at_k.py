"""Pass@k of a model, with intervals.

    python examples/pass_at_k.py HuggingFaceTB/SmolLM2-135M --benchmarks gsm8k --n 16 --limit 100

The estimate of pass@k is unbiased for every k up to n, the number of samples of a problem. Started
again, the script continues where it stopped. `shaped-trl compare RUN OTHER_RUN` compares two models
on the same problems.
"""

import argparse

from shaped_eval import evaluate_model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="id on the Hub, or folder")
    parser.add_argument("--benchmarks", default="gsm8k", help="names or files, with commas")
    parser.add_argument("--n", type=int, default=16, help="samples of each problem")
    parser.add_argument("--limit", type=int, help="take the first problems only")
    parser.add_argument("--max_new_tokens", type=int, default=512)
    parser.add_argument("--out", default="outputs/pass_at_k", help="folder of the run")
    given = parser.parse_args(argv)
    results = evaluate_model(
        given.model,
        given.benchmarks,
        given.out,
        n=given.n,
        limit=given.limit,
        max_new_tokens=given.max_new_tokens,
    )
    for benchmark, result in results.items():
        for metric, found in result["metrics"].items():
            if metric.startswith("pass@"):
                low, high = found["low"], found["high"]
                print(f"{benchmark} {metric}: {found['value']:.3f} [{low:.3f}, {high:.3f}]")
        print(f"{benchmark}: {result['truncated']:.1%} of the samples were cut off")


if __name__ == "__main__":
    main()
