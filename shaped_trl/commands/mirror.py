"""`shaped-trl mirror`."""

from __future__ import annotations

from shaped_trl.usage import argparser


def mirror_command(argv: list[str]) -> int:
    parser = argparser(
        "mirror",
        "Copy data sets of the Hub into a folder, which --hub_mirror reads on a machine without a "
        "network.\n"
        "\n"
        "  shaped-trl mirror --benchmarks base,math2026 --datasets openai/gsm8k:main --out DIR\n"
        "\n"
        "DIR/mirror.json records revision, licence and hash of each file. A command that was "
        "interrupted continues when it is run again. Gated data sets are read with your token: run "
        "`hf auth login`, or set HF_TOKEN.",
    )
    parser.add_argument(
        "--benchmarks",
        default="",
        metavar="NAME,NAME",
        help="Benchmarks and suites, with the splits that their worked examples come from.",
    )
    parser.add_argument(
        "--datasets",
        default="",
        metavar="ID,ID",
        help="Other data sets: id, id:config or id:config:split. Without a split, all of them.",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="Folder of the mirror.")
    args = parser.parse_args(argv)
    from shaped_eval.hub.mirror import mirror
    from shaped_eval.untrusted.locks import locked_folders

    with locked_folders([args.out]):
        print(mirror(args.benchmarks, args.datasets, args.out))
    return 0
