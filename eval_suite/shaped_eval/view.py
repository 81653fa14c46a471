"""Browsing the samples of runs: a server for this machine's own browser.

The texts stay in the runs' files and are read when a page shows them, so that runs of any size
open. Benchmarks whose texts may not be published are shown as well: nothing leaves this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from shaped_eval.reporting.viewing.pages import Viewer
from shaped_eval.reporting.viewing.scan import read_indices
from shaped_eval.reporting.viewing.server import serving


def view(folders: Sequence[str | Path], port: int = 0) -> None:
    """Serve the samples of runs until Ctrl-C. The address is printed.

    Args:
        folders: runs; they need not be complete or graded.
        port: on 127.0.0.1; 0 for any free one.

    Raises:
        UserError: a folder holds no run, or the port cannot be used.
    """
    with read_indices(folders) as indices:
        viewer = Viewer(indices)
        pages = {"": viewer.samples, "samples": viewer.samples, "problem": viewer.problem}
        with serving(port, pages) as server:
            samples = sum(map(len, indices))
            print(server.url, flush=True)
            print(f"{samples:,} samples; Ctrl-C ends the server", file=sys.stderr)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
