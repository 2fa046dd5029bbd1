"""Who this process is among those of a run, read from what started it: torchrun, srun or itself."""

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

from llama_scale.errors import InputError

STARTED_BY = "LLAMA_SCALE_STARTED_BY"  # the process that starts the others of a run, for them
# By which launchers tell a process its place. Lightning and torch read them wherever they come from.
PLACE = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK",
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE",
)  # fmt: skip
SHELLS = ("bash", "zsh", "sh", "fish", "tcsh", "interactive")


@dataclass(frozen=True)
class ProcessRank:
    """Which process of a run this is."""

    launcher: Literal["torchrun", "slurm", "self"]  # what started the processes; self is launch/train.py
    rank: int  # its number among the processes of all nodes, from 0
    world: int  # number of processes


def find_rank(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> ProcessRank:
    """Return this process's rank; raise InputError if the launcher started another number.

    torchrun is known by TORCHELASTIC_RUN_ID, srun by SLURM_STEP_ID with more than one task or node (an interactive
    shell, of srun --pty too, or an sbatch script alone starts nothing). Otherwise a run of several devices on one node
    starts its own processes, each with LOCAL_RANK and this process in STARTED_BY. An empty variable is none.
    """
    environment = {name: value for name, value in environment.items() if value.strip()}
    n_processes = devices * nodes
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher, names, leftover = "torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "TORCHELASTIC_RUN_ID"
        advice = f"torchrun --nnodes {nodes} --nproc-per-node {devices}"
    elif (
        "SLURM_STEP_ID" in environment
        and environment.get("SLURM_NTASKS", "1") != "1"
        and not (nodes == 1 and typed_in_a_shell(environment))
    ):
        launcher, names, leftover = "slurm", ("SLURM_PROCID", "SLURM_NTASKS"), "SLURM_STEP_ID"
        advice = f"srun --nodes {nodes} --ntasks-per-node {devices}"
    elif nodes > 1:
        raise InputError(f"nodes: {nodes} nodes need a launcher; use torchrun or srun (docs/distributed.md)")
    else:
        started = is_started_by_a_run(environment)
        return ProcessRank("self", _number(environment, "LOCAL_RANK") if started else 0, n_processes)
    rank, world, *_ = (_number(environment, name) for name in names)
    if world != n_processes or rank >= world:
        raise InputError(
            f"devices: by its variables this is process {rank} of {world} that {launcher} started, the run is for "
            f"{devices} devices x {nodes} nodes; start it with {advice}, or set devices and nodes; if {launcher} did "
            f"not start this command, unset {leftover}"
        )
    return ProcessRank(launcher, rank, world)


def is_started_by_a_run(environment: Mapping[str, str]) -> bool:
    """Whether the first process of this run started this one."""
    return environment.get(STARTED_BY) == str(os.getppid()) and bool(environment.get("LOCAL_RANK"))


def typed_in_a_shell(environment: Mapping[str, str]) -> bool:
    """Whether srun started an interactive shell (srun --pty bash) and not this command."""
    task = environment.get("SLURM_TASK_PID", "")
    if task == str(os.getpid()):
        return False
    try:
        return os.readlink(f"/proc/{int(task)}/fd/0").startswith(("/dev/pts/", "/dev/tty"))
    except (ValueError, OSError):  # not told, or of another user or node
        return "SLURM_PTY_PORT" in environment or environment.get("SLURM_JOB_NAME") in SHELLS


def forget_other_launchers(process: ProcessRank, environment: MutableMapping[str, str] = os.environ) -> None:
    """Drop what another launcher left of a process's place, where this run starts its own processes.

    A line on standard error names what was not empty. Processes that this one starts will know it.
    """
    if process.launcher != "self" or is_started_by_a_run(environment):
        return
    left = {name: environment.pop(name) for name in PLACE if name in environment}
    told = [f"{name}={value}" for name, value in left.items() if value.strip() and not name.startswith("SLURM_")]
    if told:
        print(f"{', '.join(told)}: left by another launcher, not used", file=sys.stderr)
    if process.world > 1:
        environment[STARTED_BY] = str(os.getpid())


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if not re.fullmatch(r"[0-9]{1,9}", value or ""):
        raise InputError(f"{name}: the launcher should set it to a number, found {value!r}")
    return int(value or 0)
