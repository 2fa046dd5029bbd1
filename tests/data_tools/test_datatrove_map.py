"""A build by datatrove's executors is the build of one process."""

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools import datatrove_map as datatrove_map_module
from data_tools import prepare
from data_tools.datatrove_map import ENGINE_FOLDER, datatrove_map, map_over_ranks
from llama_scale.errors import InputError
from tests.data_tools.helpers import file_contents


def test_datatroves_local_executor_makes_the_same_bytes(built, config, monkeypatch, site):
    pytest.importorskip("datatrove", reason="needs the extra engine")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *sys.path]))
    prepare.prepare(replace(config, engine="datatrove", workers=2))
    assert file_contents(config.folder) == file_contents(built[0].folder)


def test_a_map_keeps_its_order_and_goes_on(config, tmp_path):
    pytest.importorskip("datatrove", reason="needs the extra engine")
    map_ = datatrove_map(replace(config, engine="datatrove"), tmp_path, 3)
    assert list(map_(divmod, range(10), [3] * 10)) == [divmod(i, 3) for i in range(10)]
    assert list(map_(divmod, [], [])) == []
    assert list(map_(abs, [-1])) == [1], "fewer tasks than ranks"
    folder = tmp_path / ENGINE_FOLDER
    assert list(folder.iterdir()) == []
    ran = []

    def broken(step, n_ranks, logs):
        for rank in (0, 2):
            step(None, rank, n_ranks)
        raise KeyboardInterrupt

    def rest(step, n_ranks, logs):
        for rank in range(n_ranks):
            if not (logs.parent / f"{rank}.results").exists():
                ran.append(rank)
                step(None, rank, n_ranks)

    for run in (broken, rest):
        results = map_over_ranks(folder, 3, run, divmod, zip(range(10), [3] * 10, strict=True))
        if run is broken:
            with pytest.raises(KeyboardInterrupt):
                list(results)
    assert list(results) == [divmod(i, 3) for i in range(10)]
    assert ran == [1]


SBATCH = """#!{python}
import os, subprocess, sys
script = sys.argv[-1]
if "merge_stats" in open(script).read():
    print("Submitted batch job 8")
    sys.exit()
n = next(line for line in open(script) if line.startswith("#SBATCH --array")).split("-")[-1]
for i in range(int(n.split("%")[0]) + 1):
    env = os.environ | {{"SLURM_ARRAY_TASK_ID": str(i), "RUN_OFFSET": "0", "SLURM_NODELIST": "a"}}
    env |= {{"SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_CPU": "1", "SLURM_GPUS_ON_NODE": "0"}}
    subprocess.run(["bash", script], env=env, stdout=sys.stderr)
print("Submitted batch job 7")
"""


def test_slurm_jobs_of_a_stand_in(built, config, monkeypatch, site, tmp_path):
    """sbatch is a program that runs the job script here and now, srun one that runs its command."""
    pytest.importorskip("datatrove", reason="needs the extra engine")
    programs = tmp_path / "bin"
    programs.mkdir()
    trove = Path(sys.modules["datatrove"].__file__).parent
    launch = f'#!/bin/sh\nexec {sys.executable} {trove}/tools/launch_pickled_pipeline.py "$@"\n'
    for name, text in {
        "sbatch": SBATCH.format(python=sys.executable),
        "srun": '#!/bin/sh\nwhile [ "$1" != launch_pickled_pipeline ]; do shift; done\nexec "$@"\n',
        "squeue": "#!/bin/sh\n",
        "scontrol": "#!/bin/sh\necho a\n",
        "launch_pickled_pipeline": launch,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(datatrove_map_module, "POLL_SECONDS", 0.01)
    map_ = datatrove_map(replace(config, engine="slurm", partition="cpu"), tmp_path, 2)
    assert list(map_(divmod, range(5), [3] * 5)) == [divmod(i, 3) for i in range(5)]
    with pytest.raises(InputError, match=r"engine: 1 of 2 tasks ended unfinished, see .*logs"):
        list(map_(divmod, range(2), [1, 0]))


def test_engines_that_cannot_be_had(config, monkeypatch, tmp_path):
    monkeypatch.setattr(datatrove_map_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"engine: datatrove needs datatrove; pip install"):
        datatrove_map(replace(config, engine="datatrove"), tmp_path, 2)
    monkeypatch.undo()
    if datatrove_map_module.importlib.util.find_spec("datatrove"):
        with pytest.raises(InputError, match="partition: engine slurm needs"):
            datatrove_map(replace(config, engine="slurm"), tmp_path, 2)
