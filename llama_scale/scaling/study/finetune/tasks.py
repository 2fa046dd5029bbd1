"""The tasks of a fine-tuning study: base and pairs, rates, runs, scores, and what they say together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_scale.config import flatten, nest
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.finetune.settings import BASE, FEW_SHOT, PAIRS_SUITE, Arm, TuningStudyConfig
from llama_scale.scaling.study.runs import device_settings
from llama_scale.scaling.study.tasks import TaskMaker, can_track
from llama_scale.training.wandb_log import pick_mode

SCORES = "evals/end"
BASE_FLOPS = 6.0  # for each parameter and token, where only the share of the time matters


def plan_tasks(config: TuningStudyConfig, data: dict[str, Any], arms: list[Arm], scripts: str) -> list[Task]:
    """Return the study's tasks, each after those that it waits for.

    Args:
        config: The study.
        data: The file and folder of the base's data, and the settings that train it.
        arms: The bases first, then what it is compared with.
        scripts: Folder of the launch scripts.
    """
    make = TuningTaskMaker(config, {}, scripts)  # type: ignore[arg-type]
    tasks = [*make.base(data), *make.pairs([arm for arm in arms if arm.trained])]
    ready = tuple(task.name for task in tasks if task.name in ("train-base", "split"))
    bases = [arm for arm in arms if not arm.trained]
    for arm in bases:
        for draw in arm.draws:
            before = ready
            if arm.method == FEW_SHOT:
                tasks.append(make.shots(arm, draw, ready))
                before = (tasks[-1].name,)
            tasks += make.run(arm, draw, before)
    after = tuple(f"finetune-{arm.name}" for arm in bases if arm.method == BASE)
    if len({arm.rank for arm in arms if arm.rank}) > 1:
        tasks.append(make.forecast(after))
        after = (*after, tasks[-1].name)
    for arm in arms[len(bases) :]:
        before = after
        if arm.tuned:
            tasks.append(make.search(arm, after))
            before = (tasks[-1].name,)
        for draw in arm.draws:
            tasks += make.run(arm, draw, before)
    return [*tasks, *make.results([task.name for task in tasks])]


class TuningTaskMaker(TaskMaker):
    """Makes the tasks of one fine-tuning study."""

    config: TuningStudyConfig  # type: ignore[assignment]

    def base(self, data: dict[str, Any]) -> list[Task]:
        """Return the tasks that train the base; none where it is given."""
        if not data["file"]:
            return []
        manifest, run = f"{data['folder']}/manifest.json", data["train"]["run"]
        train = self.task(
            "train-base",
            "train",
            inputs=("prepare",),
            outputs=(f"{run}/result.json",),
            flops=BASE_FLOPS * float(flatten(data["train"]).get("tokens", 1)),
            metrics=None,
            settings=nest(data["train"] | device_settings(self.config)),  # type: ignore[arg-type]
        )
        return [self.task("prepare", "prepare", "--config", data["file"], outputs=(manifest,)), train]

    def pairs(self, arms: list[Arm]) -> list[Task]:
        """Return the tasks that make the pairs of each language and take out of them what ``arms`` need."""
        tasks = []
        for language, source in self.config.pairs.items():
            if not isinstance(source, str):
                folder = self.pairs_folder(language)
                settings = source | {"out": str(Path(folder).parent), "name": Path(folder).name}
                outputs = (f"{folder}/train.jsonl", f"{folder}/test.jsonl")
                tasks.append(self.task(f"pairs-{language}", "prepare", "pairs", outputs=outputs, settings=settings))
        files = [self.file(language, part) for language in self.config.pairs for part in ("pool", "tune", "test")]
        settings = {
            "folders": {language: self.pairs_folder(language) for language in self.config.pairs},
            "out": f"{self.folder}/data",
            "longest": self.config.longest,
            "pool": self.config.pool,
            "examples": max((arm.examples or 1 for arm in arms), default=1),
            "tune": self.config.rates.pairs,
            "test": self.config.test,
        }
        subsets = [{"only": only, "examples": arm.examples or 1} for arm in arms if (only := arm.settings.get("only"))]
        settings |= {"subsets": subsets} if subsets else {}
        names = tuple(task.name for task in tasks)
        return [*tasks, self.task("split", "finetune", "split", inputs=names, outputs=tuple(files), settings=settings)]

    def pairs_folder(self, language: str) -> str:
        """Return the folder of a language's pairs."""
        source = self.config.pairs[language]
        return source if isinstance(source, str) else f"{self.folder}/pairs/{language}"

    def file(self, language: str, part: str) -> str:
        """Return the file of the pool, the tuning or the test pairs of a language."""
        return f"{self.folder}/data/{language}/{part}.jsonl"

    def settings(self, arm: Arm, part: str) -> dict[str, Any]:
        """Return what launch/finetune.py is told of an arm, scored on a ``part`` of the held-out pairs."""
        files = {"train": self.file(arm.language, "pool"), "validation": self.file(arm.language, part)}
        return arm.settings | files

    def shots_file(self, arm: Arm, draw: int) -> str:
        """Return the file of the test pairs with the pairs that are shown before each."""
        return self.file(arm.language, f"{arm.name}-draw{draw}")

    def shots(self, arm: Arm, draw: int, after: tuple[str, ...]) -> Task:
        """Return the task that puts pairs of a draw before the test pairs."""
        out, evaluate = self.shots_file(arm, draw), flatten(self.config.evaluate)
        asked = [evaluate.get(f"{suite}.sampling.max_new_tokens") for suite in self.config.suites]
        settings = {
            "base": arm.settings["base"],
            "pool": self.file(arm.language, "pool"),
            "test": self.file(arm.language, "test"),
            "out": out,
            "shots": arm.examples,
            "draw": draw,
        }
        settings |= {"room": max(asked)} if asked and None not in asked else {}  # type: ignore[type-var]
        return self.task(
            f"shots-{arm.run_name(draw)}", "finetune", "shots", inputs=after, outputs=(out,), settings=settings
        )

    def search(self, arm: Arm, after: tuple[str, ...]) -> Task:
        """Return the task that finds an arm's rate."""
        rates, out = self.config.rates, f"{self.folder}/rates/{arm.name}.json"
        settings = self.settings(arm, "tune") | {
            "run": f"runs/{self.config.name}/rates/{arm.name}",
            "start": rates.start,
            "factor": rates.factor,
            "most": rates.most,
            "out": out,
            "retain": None,
        }
        name = f"rates-{arm.name}"
        return self.task(name, "finetune", "search", inputs=after, outputs=(out,), settings=settings)

    def run(self, arm: Arm, draw: int, after: tuple[str, ...]) -> list[Task]:
        """Return the tasks that train a run of an arm and, if its draw is one to be sampled, draw and judge samples."""
        name, before = arm.run_name(draw), None
        folder = f"runs/{self.config.name}/{name}"
        settings = self.settings(arm, "test") | {"run": folder, "draw": draw, "seed": draw}
        if arm.method == FEW_SHOT:
            before = self.shots_file(arm, draw)
            settings |= {"validation": before, "retain": None}
        if arm.tuned:
            settings["rate_from"] = f"{self.folder}/rates/{arm.name}.json"
        tune = self.task(
            f"finetune-{name}", "finetune", inputs=after, outputs=(f"{folder}/result.json",), settings=settings
        )
        if not self.config.suites or arm.draws.index(draw) >= (self.config.sampled or len(arm.draws)):
            return [tune]
        subject = folder if arm.trained else arm.settings["base"]
        outputs = tuple(f"{folder}/{SCORES}/{suite_file(suite, arm.language)}.json" for suite in self.config.suites)
        evaluate = self.task(
            f"evaluate-{name}",
            "evaluate",
            subject,
            "--out",
            f"{folder}/{SCORES}",
            inputs=(tune.name,),
            outputs=outputs,
            settings=self.evaluation_of(arm.language) | ({"before": before} if before else {}),
            file=f"evaluate-{name}" if before else f"evaluate-{arm.language}",
        )
        return [tune, evaluate]

    def evaluation_of(self, language: str) -> dict[str, Any]:
        """Return the settings of launch/evaluate.py for runs of a language."""
        own: dict[str, Any] = {"suites": ",".join(self.config.suites), "similarity": True}
        if PAIRS_SUITE in self.config.suites:
            own |= {"pairs.data": self.file(language, "test")}
        if "mbxp" in self.config.suites:
            own |= {"mbxp.language": language}
        return nest(device_settings(self.config) | own | flatten(self.config.evaluate))  # type: ignore[arg-type]

    def forecast(self, after: tuple[str, ...]) -> Task:
        """Return the task that writes which rank should do, before a rank has been tried."""
        out = f"{self.folder}/rank-forecast.json"
        return self.task("rank-forecast", "finetune", "forecast", self.folder, inputs=after, outputs=(out,))

    def results(self, names: Iterable[str]) -> list[Task]:
        """Return the tasks that gather, compare and report all that the others found."""
        study = self.folder
        after = tuple(name for name in names if name.split("-")[0] in ("finetune", "evaluate"))
        points, comparison = f"{study}/points.csv", f"{study}/comparison.json"
        tasks = [
            self.task("collect", "collect", study, inputs=after, outputs=(points,)),
            self.task("compare", "finetune", "compare", study, inputs=("collect",), outputs=(comparison,)),
            self.task("report", "finetune", "report", study, inputs=("compare",), outputs=(f"{study}/report.html",)),
        ]
        if can_track():
            tasks.append(self.task("track", "track", study, "--mode", pick_mode(), inputs=("report",)))
        return tasks


def suite_file(suite: str, language: str) -> str:
    """Return the stem of a suite's result file."""
    return f"{suite}-{language}" if suite == "mbxp" else suite
