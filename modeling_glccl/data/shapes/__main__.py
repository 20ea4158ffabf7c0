"""`python -m modeling_glccl.data.shapes oracles` prints the oracle table, `... picture FILE` draws examples."""

import argparse
from pathlib import Path

from .oracles import oracle_table
from .picture import draw_examples
from .sampler import sample_clips


def main() -> None:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m modeling_glccl.data.shapes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    oracles = commands.add_parser("oracles", help="scores of judges that see only some attributes")
    oracles.add_argument("--split", default="test", choices=["validation", "test"])
    oracles.add_argument("--count", type=int, default=400)
    oracles.add_argument("--seed", type=int, default=0)
    picture = commands.add_parser("picture", help="examples as a .png file")
    picture.add_argument("file", type=Path)
    picture.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "picture":
        draw_examples(arguments.seed).save(arguments.file)
    else:
        print(oracle_table(sample_clips(arguments.split, arguments.count, arguments.seed)))


if __name__ == "__main__":
    main()
