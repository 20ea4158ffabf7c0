"""Programs in processes of their own, copied from one that has imported what takes long."""

import os
import subprocess
import sys
from pathlib import Path

_COPY = """
import os, sys
folder, first, *programs = sys.argv[1:]
exec(first)
for number, program in enumerate(programs):
    if not (child := os.fork()):
        for stream in (1, 2):
            os.dup2(os.open(f"{folder}/{number}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        exec(program, {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_forked(folder: Path, first: str, *programs: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each program, run after `first`, which all of them share."""
    if not hasattr(os, "fork"):
        done = [
            subprocess.run([sys.executable, "-c", f"{first}\n{program}"], capture_output=True, text=True)
            for program in programs
        ]
        return [(one.returncode, one.stdout, one.stderr) for one in done]
    codes = subprocess.check_output([sys.executable, "-c", _COPY, str(folder), first, *programs], text=True)
    streams = (
        [Path(folder, f"{number}.{stream}").read_text() for stream in (1, 2)] for number in range(len(programs))
    )
    return [(int(code), *streams) for code, streams in zip(codes.split(), streams, strict=True)]
