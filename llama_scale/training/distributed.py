"""Who this process is among those of a run, read from what started it: torchrun, srun or itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llama_scale.errors import InputError


@dataclass(frozen=True)
class ProcessRank:
    """Which process of a run this is.

    Attributes:
        launcher: What started the processes; self is launch/train.py.
        rank: Its number among the processes of all nodes, from 0.
        world: Number of processes.
    """

    launcher: Literal["torchrun", "slurm", "self"]
    rank: int
    world: int


def find_rank(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> ProcessRank:
    """Return this process's rank; raise InputError if the launcher started another number.

    torchrun is known by TORCHELASTIC_RUN_ID, srun by SLURM_STEP_ID with more than one task or node (an interactive
    shell or sbatch script alone starts nothing). Otherwise a run of several devices on one node starts its own
    processes, each with LOCAL_RANK.
    """
    n_processes = devices * nodes
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("RANK", "WORLD_SIZE")
        process = ProcessRank("torchrun", *_numbers(names, environment))
        advice = f"torchrun --nnodes {nodes} --nproc-per-node {devices}"
    elif "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1":
        names = ("SLURM_PROCID", "SLURM_NTASKS")
        process = ProcessRank("slurm", *_numbers(names, environment))
        advice = f"srun --nodes {nodes} --ntasks-per-node {devices}"
    elif nodes > 1:
        raise InputError(f"nodes: {nodes} nodes need a launcher; use torchrun or srun (docs/distributed.md)")
    else:
        return ProcessRank("self", int(environment.get("LOCAL_RANK", "0")), n_processes)
    if process.world != n_processes:
        raise InputError(
            f"devices: {process.launcher} started {process.world} processes, the run is for "
            f"{devices} devices x {nodes} nodes; start it with {advice}, or set devices and nodes"
        )
    return process


def _numbers(names: tuple[str, ...], environment: Mapping[str, str]) -> list[int]:
    numbers = []
    for name in names:
        text = environment.get(name)
        if text is None or not text.isdigit():
            raise InputError(f"{name}: the launcher should set it to a number, found {text!r}")
        numbers.append(int(text))
    return numbers
