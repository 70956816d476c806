"""Makes the synthetic data set: `python tools/make_scenes.py OUT [--tier hard]`."""

import argparse
from pathlib import Path

from owlkit.data.scenes import TIERS, make_scenes
from owlkit.errors import OwlkitError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--tier", choices=list(TIERS), default="easy", help="default: %(default)s")
    parser.add_argument("--train", type=int, default=8000, help="pictures; default: %(default)s")
    parser.add_argument("--val", type=int, default=500, help="pictures; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Draws, writes, reports."""
    options = parse_arguments(arguments)
    try:
        summary = make_scenes(
            options.out,
            tier=options.tier,
            train=options.train,
            val=options.val,
            seed=options.seed,
        )
    except (OwlkitError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(
        f"{options.out}: {summary.train} training pictures, {summary.boxed} with boxes, "
        f"and {summary.val} for validation; every pair is in at least {summary.rarest} training "
        f"pictures, every base pair has at least {summary.rarest_boxed} training boxes"
    )


if __name__ == "__main__":
    main()
