"""Runs a test module's cases in worlds of several gloo processes."""

import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

WORLDS = (2, 4)


def run_in_worlds(module: str, golden: Path, scratch: Path) -> Mapping[int, list[dict]]:
    """By number of processes, what ``module.run_cases(golden, rank, world)`` gave on each of them.

    Args:
        module: Has ``run_cases``; its results are made of tensors, numbers, strings, and
            dictionaries and tuples of them.
        golden: Folder of the fixture that the cases read.
        scratch: An empty folder.
    """
    # A process of their own loads the packages once, has no threads and can thus be forked.
    command = [sys.executable, "-m", __name__, module, golden, scratch]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=120)
    return {
        world: [
            torch.load(scratch / f"{world}_{rank}.pt", weights_only=True) for rank in range(world)
        ]
        for world in WORLDS
    }


def work(rank: int, module: str, golden: Path, scratch: Path) -> None:
    """Runs the cases in each world that has this rank."""
    torch.set_num_threads(1)
    run_cases = import_module(module).run_cases
    for world in WORLDS:
        if rank >= world:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{scratch}/store{world}", rank=rank, world_size=world
        )
        torch.save(run_cases(golden, rank, world), scratch / f"{world}_{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    module, golden, scratch = sys.argv[1:]
    import_module(module)  # before the fork, so that it is loaded once
    torch.multiprocessing.start_processes(
        work, (module, Path(golden), Path(scratch)), nprocs=max(WORLDS), start_method="fork"
    )
