"""`python -m tests.fuzz --cases 10000 [--kind video] [--seed N]`."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before anything is imported: nothing is fetched, no thread is there when a case forks.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), f"glccl-fuzz-home-{os.getuid()}")
sys.path.insert(0, str(Path(__file__).parent.parent))  # the helpers of the tests

from .harness import FAILED, KINDS, READ, REFUSED, Outcome, cases

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("--cases", type=int, default=700)
parser.add_argument("--kind", choices=KINDS, action="append", help="this kind alone; may be repeated")
parser.add_argument("--seed", type=int, default=0, help="of the first case of each kind; the others follow")


def main() -> int:
    options = parser.parse_args()
    kinds = tuple(options.kind or KINDS)
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends it with what it has found so far
        signal.signal(number, signal.default_int_handler)
    began, found = time.monotonic(), {kind: [] for kind in kinds}
    with cases(kinds) as run:
        print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
        began = shown = time.monotonic()
        for number in range(options.cases):
            kind = kinds[number % len(kinds)]
            try:
                outcome = run(kind, options.seed + number // len(kinds))
            except KeyboardInterrupt:
                break
            if outcome.code == FAILED:
                _show(outcome, whole=outcome.cause not in _causes(found[kind]))
            elif options.cases == 1:
                print(outcome.report)
            found[kind].append(outcome)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                left = (shown - began) / (number + 1) * (options.cases - number - 1)
                failed = sum(_causes(outcomes).total() for outcomes in found.values())
                print(f"{number + 1} of {options.cases}, {failed} failed, {left:.0f} s left", flush=True)
    print(f"{'kind':12} {'cases':>6} {'read':>6} {'refused':>7} {'failed':>6} {'s each':>6} {'longest':>7} {'MB':>5}")
    for kind, outcomes in found.items():
        codes, seconds = (
            Counter(outcome.code for outcome in outcomes),
            [outcome.seconds for outcome in outcomes] or [0],
        )
        print(
            f"{kind:12} {len(outcomes):6} {codes[READ]:6} {codes[REFUSED]:7} {codes[FAILED]:6} "
            f"{sum(seconds) / len(seconds):6.2f} {max(seconds):7.1f} "
            f"{max((outcome.bytes for outcome in outcomes), default=0) >> 20:5}"
        )
        for cause, times in _causes(outcomes).most_common():
            print(f"    {times} x {cause}")
    return any(map(_causes, found.values()))


def _causes(outcomes: list[Outcome]) -> Counter:
    return Counter(outcome.cause for outcome in outcomes if outcome.code == FAILED)


def _show(outcome: Outcome, whole: bool) -> None:
    print(f"FAILED: {outcome.command}")
    print("    " + (outcome.report if whole else outcome.cause).strip().replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
