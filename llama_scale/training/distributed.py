"""Who this process is among those of a run, read from what started it: torchrun, srun or itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llama_scale.errors import InputError


@dataclass(frozen=True)
class ProcessRank:
    """Which process of a run this is."""

    launcher: Literal["torchrun", "slurm", "self"]  # what started the processes; self is launch/train.py
    rank: int  # its number among the processes of all nodes, from 0
    world: int  # number of processes


def find_rank(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> ProcessRank:
    """Return this process's rank; raise InputError if the launcher started another number.

    torchrun is known by TORCHELASTIC_RUN_ID, srun by SLURM_STEP_ID with more than one task or node (an interactive
    shell or sbatch script alone starts nothing). Otherwise a run of several devices on one node starts its own
    processes, each with LOCAL_RANK.
    """
    n_processes = devices * nodes
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher, names = "torchrun", ("RANK", "WORLD_SIZE")
        advice = f"torchrun --nnodes {nodes} --nproc-per-node {devices}"
    elif "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1":
        launcher, names = "slurm", ("SLURM_PROCID", "SLURM_NTASKS")
        advice = f"srun --nodes {nodes} --ntasks-per-node {devices}"
    elif nodes > 1:
        raise InputError(f"nodes: {nodes} nodes need a launcher; use torchrun or srun (docs/distributed.md)")
    else:
        return ProcessRank("self", int(environment.get("LOCAL_RANK", "0")), n_processes)
    for name in names:
        if not environment.get(name, "").isdigit():
            raise InputError(f"{name}: the launcher should set it to a number, found {environment.get(name)!r}")
    rank, world = (int(environment[name]) for name in names)
    if world != n_processes:
        raise InputError(
            f"devices: {launcher} started {world} processes, the run is for {devices} devices x {nodes} nodes; "
            f"start it with {advice}, or set devices and nodes"
        )
    return ProcessRank(launcher, rank, world)
