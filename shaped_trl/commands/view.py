"""`shaped-trl view`."""

from __future__ import annotations

from shaped_trl.usage import argparser


def view_command(argv: list[str]) -> int:
    parser = argparser(
        "view",
        "Browse the samples of runs in a browser on this machine: by benchmark, verdict, length, "
        "agreement with the majority and words. A problem is shown with the samples of all runs "
        "side by side.\n"
        "\n"
        "  shaped-trl view outputs/eval\n"
        "  shaped-trl view outputs/before outputs/after\n"
        "\n"
        "The command prints an address on 127.0.0.1, and serves it until Ctrl-C. Runs of any size "
        "open, also while they are sampled or graded; what is written later is seen after a new "
        "start.",
    )
    parser.add_argument("folders", nargs="+", metavar="RUN", help="Folder of a run.")
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        metavar="PORT",
        help="Port of the server, such as one that ssh -L forwards. By default any free one.",
    )
    args = parser.parse_args(argv)
    from shaped_eval.view import view

    view(args.folders, args.port)
    return 0
