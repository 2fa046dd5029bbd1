"""Configuration: what a person types, and the one line for what is wrong with it."""

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from llama_scale.cli import parse
from llama_scale.config import CONFIGS, TrainConfig, load_size, read_yaml, renamed_fields
from llama_scale.errors import InputError


def train(*argv: str) -> TrainConfig:
    return parse(TrainConfig, "Train.", list(argv))


def test_size_file_overrides_and_types():
    config = train("--size", "M3", "--optim.lr", "1e-3", "--tokens=2e6", "--compile", "false")
    assert config.model == load_size("M3")
    assert config.size == "M3"
    assert (config.optim.lr, config.tokens, config.compile) == (1e-3, 2e6, False)
    assert train("--size=M1", "--model.vocab_size", "2048").model == load_size("M1", vocab_size=2048)


def test_config_file_then_flags(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("size: M1\nseed: 3\noptim:\n  lr: 0.002\n  grad_clip: 0.5\n")
    config = train("--size", "M1", "--config", str(path), "--optim.lr", "0.004")
    assert (config.seed, config.optim.lr, config.optim.grad_clip) == (3, 0.004, 0.5)


def test_the_size_of_a_flag_wins_over_that_of_a_file(tmp_path):
    small, whole, part = (tmp_path / f"{name}.yaml" for name in ("small", "whole", "part"))
    small.write_text("size: S2\nseed: 3\n")
    shape = dataclasses.asdict(load_size("S2", vocab_size=99, d_ff=7))
    whole.write_text(yaml.safe_dump({"size": "S2", "model": shape}))  # as a run's config.yaml
    part.write_text("model: {d_ff: 7}\n")

    def chosen(*argv: str) -> tuple:
        config = train(*argv)
        return config.size, config.model

    assert chosen("--config", str(small)) == ("S2", load_size("S2"))
    assert chosen(f"--config={whole}") == ("S2", load_size("S2", vocab_size=99, d_ff=7))
    for file in (small, whole):
        flags = ["--size", "M1", f"--config={file}"]
        vocabulary = 32_000 if file == small else 99  # no size sets it
        expected = "M1", load_size("M1", vocab_size=vocabulary)
        assert chosen(*flags) == chosen(*flags[2:], *flags[:2]) == expected
    assert chosen("--size=M1", "--size=S2", f"--config={small}") == ("S2", load_size("S2"))
    assert chosen("--size=M1", f"--config={part}") == ("M1", load_size("M1", d_ff=7))
    small.write_text("size: S2\nmodel: 3\n")
    with pytest.raises(InputError, match=r"small\.yaml: model: expected fields"):
        train(f"--config={small}")
    small.write_text("size: custom\n")
    with pytest.raises(InputError, match=r"configs/size/custom\.yaml"):
        train(f"--config={small}")
    whole.write_text(yaml.safe_dump({"size": "custom", "model": shape}))
    assert chosen(f"--config={whole}")[0] == "custom"


def test_positional_fills_its_field():
    config = parse(TrainConfig, "Train.", ["some/data", "--size", "M1"], positional="data")
    assert config.data == "some/data"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--size", "M7"], ["size", "M7", "did you mean", "M1, M2, M3, M4, M5"]),
        (["--size", "M1", "--optim.lrr", "1"], ["'optim.lrr'", "did you mean 'optim.lr'"]),
        (["--size", "M1", "--sede", "1"], ["'sede'", "did you mean 'seed'"]),
        (["--size", "M1", "--seed", "many"], ["seed", "a whole number", "many"]),
        (["--size", "M1", "--optim.lr", "fast"], ["optim.lr", "fast"]),
        (["--size", "M1", "--model.n_heads", "5"], ["model.n_heads", "5", "192"]),
        (["--size", "M1", "--model.n_kv_heads", "2"], ["model.n_kv_heads", "2", "3"]),
        (["--size", "M1", "--model.d_ff", "0"], ["model.d_ff", "0"]),
        (["--size", "M1", "--config", "absent.yaml"], ["absent.yaml"]),
        (["--size", "M1", "--optim.grad_clip", "0"], ["optim.grad_clip", "positive", "found 0.0"]),
        (["--size", "M1", "--optim.beta1", "1"], ["optim.beta1", "below 1", "found 1.0"]),
        (["--size", "M1", "--optim.beta2", "-.1"], ["optim.beta2", "at least 0", "found -0.1"]),
        (["--size", "M1", "--optim.weight_decay", "-1"], ["optim.weight_decay", "found -1.0"]),
        (["--size", "M1", "--optim.min_lr_ratio", "1.1"], ["optim.min_lr_ratio", "0 to 1"]),
        (["--size", "M1", "--optim.eps", "0"], ["optim.eps", "found 0.0"]),
        (["--size", "M1", "--optim.lr", ".nan"], ["optim.lr", "found nan"]),
        (["--size", "M1", "--optim.warmup_steps", "-1"], ["optim.warmup_steps", "found -1"]),
        (["--size", "M1", "--optim.batch_tokens", "0"], ["optim.batch_tokens", "found 0"]),
        (["--size", "M1", "--model.rope_theta", ".inf"], ["model.rope_theta", "found inf"]),
        (["--size", "M1", "--model.n_kv_heads", "0"], ["model.n_kv_heads", "found 0"]),
        (["--size", "M1", "--tokens", "-5"], ["tokens: expected at least 1, found -5"]),
        (["--size", "M1", "--tokens", ".inf"], ["tokens", "found inf"]),
        (["--size", "M1", "--optim", "-1"], ["optim: expected fields or a file, found -1"]),
        (["--size", "M1", "--seed", "-1"], ["seed", "found -1"]),
        (["--size", "M1", "--threads", "0"], ["threads", "found 0"]),
        (["--size", "M1", "--checkpoint_every", "-3"], ["checkpoint_every", "found -3"]),
        (["--size", "M1", "--keep_steps", "[4,0]"], ["keep_steps", "[4, 0]"]),
        ([], ["--size"]),
    ],
)
def test_bad_input_is_one_line(argv, words):
    with pytest.raises(InputError) as error:
        train(*argv)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_variable_that_is_not_set_is_no_setting():
    with pytest.raises(InputError, match="run: expected text or null, found empty text; leave it out for null"):
        train("--size=M1", "--run=")
    with pytest.raises(InputError, match="config: expected a YAML file, found empty text"):
        train("--size=M1", "--config=")
    with pytest.raises(InputError, match=r"size: no configs/size/a/M1.yaml.*known: E1, E2"):
        train("--size=a/M1")


def test_keys_of_different_fields_are_no_copies(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("base: &b {a: 1, c: 2}\none: {<<: *b, a: 3}\ntwo: {<<: *b}\n")
    assert read_yaml(path) == {"base": {"a": 1, "c": 2}, "one": {"a": 3, "c": 2}, "two": {"a": 1, "c": 2}}


def test_limits_are_inside():
    config = train(
        "--size=M1", "--optim.beta1=0", "--optim.min_lr_ratio=1", "--optim.weight_decay=0",
        "--optim.grad_clip=.inf", "--val_every=0", "--keep_steps=[1]", "--tokens=1",
        "--seed=4294967295",
    )  # fmt: skip
    assert (config.optim.grad_clip, config.tokens, config.keep_steps) == (math.inf, 1, [1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 3}\n", ["unknown key 'optim.lrr'", "'optim.lr'"]),
        ("modle: {d_model: 3}\n", ["unknown key 'modle'", "'model'"]),
        ("seed: [1\n", ["seed"]),
        ("- 1\n", ["expected a mapping"]),
        ("seed: 1\nseed: 2\n", ["seed is given twice", "line 2"]),
        ("optim:\n  lr: 1\n  eps: 1\n  lr: 2\n", ["lr is given twice", "line 4"]),
        ("'seed': 1\nseed: 1\n", ["seed is given twice"]),
        ('run: "a\\0b"\n', ["run: found a null character in 'a\\x00b'"]),
        ("optim.lr: 1\noptim: {lr: 2}\n", ["optim.lr: is given twice"]),
        ("a: &a [*a]\n", ["its aliases stand for"]),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
            ),
            ["its aliases stand for more than 1,000,000 values"],
        ),
        ('run: ""\n', ["run: expected text or null, found empty text"]),
    ],
)
def test_bad_file_is_named(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        train("--size", "M1", "--config", str(path))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


def test_every_shipped_size_is_valid():
    names = sorted(path.stem for path in Path(CONFIGS / "size").glob("*.yaml"))
    assert {f"M{i}" for i in range(1, 6)} | {f"S{i}" for i in range(1, 9)} <= set(names)
    for name in names:
        load_size(name)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tokens=foo"], "tokens: expected a number or auto, found foo"),
        (["--log_every=x"], "log_every: expected a whole number, found x"),
        (["--compile=maybe"], "compile: expected true or false or auto or loss, found maybe"),
        (["--precision=fp16"], "precision: expected auto or fp32 or bf16, found fp16"),
        (["--keep_steps=foo"], "keep_steps: expected a list of whole numbers, found foo"),
        (["--optim.lr=foo"], "optim.lr: expected a number or auto, found foo"),
        (["--model.d_model=1.5"], "model.d_model: expected a whole number, found 1.5"),
    ],
)
def test_a_value_of_the_wrong_type_is_said_in_words(tmp_path, argv, message):
    innocent = tmp_path / "fine.yaml"
    innocent.write_text("seed: 1")
    for more in ([], [f"--config={innocent}"]):
        with pytest.raises(InputError) as error:
            train("--size=M1", *more, *argv)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tokens: nan", "tokens: expected a number or auto, found nan"),
        ("optim: 5", "optim: expected fields or a file, found 5"),
        ("[1, 2]", "expected a mapping of fields, found [1, 2]"),
        ("", "expected a mapping of fields, found None"),
    ],
)
def test_a_value_of_a_file_is_told_with_the_file(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        train("--size=M1", f"--config={path}")
    assert str(error.value) == f"{path}: {words}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: 2026", 'run: expected text or null, found 2026; quote it: "2026"'),
        ("data: no", "data: expected text, found False (as YAML reads yes, no, on and off); quote it"),
        ("seed:", "seed: expected a whole number, found null"),
        ("model: {d_ff: ~}", "model.d_ff: expected a whole number, found null"),
        ("data:", "data: expected text, found null (as YAML reads null, ~ and nothing); quote it"),
        ("run: 1e5", 'run: expected text or null, found 100000.0; quote it: "100000.0"'),
        ("run: 24:00:00", 'not valid YAML (24:00:00 would be read as a number of base 60; quote it: "24:00:00"'),
        ("seed: 1:30", "1:30 would be read as a number of base 60"),
        ("tokens: 1:30.5", "1:30.5 would be read as a number of base 60"),
        ("run: 2026-01-01", '2026-01-01 would be read as a date; quote it: "2026-01-01"'),
        ("seed: 010", "010 would be read as 8 (base 8); leave the zero out"),
        ("seed: 2026-13-45", "2026-13-45"),
        ("seed: " + "[" * 3000, "not valid YAML"),
    ],
)
def test_what_yaml_makes_of_plain_text_is_said(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        train("--size=M1", f"--config={path}")
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value) and "\n" not in str(error.value)


def test_numbers_of_base_60_are_no_numbers_and_plain_ones_stay(tmp_path):
    for flags in (["--tokens=1:30"], ["--tokens", "1:30"], ["--seed=1:30"]):
        with pytest.raises(InputError, match=r"expected a .*number.*, found 1:30"):
            train("--size=M1", *flags)
    assert train("--size=M1", "--run", "24:00:00").run == "24:00:00"
    path = tmp_path / "c.yaml"
    path.write_text("run: '2026'\ndata: \"no\"\nseed: 1_000\ntokens: 2e5\ncompile: on\nkeep_steps: [0x10, 0]\n")
    with pytest.raises(InputError, match="keep_steps"):
        train("--size=M1", f"--config={path}")
    path.write_text(path.read_text().replace(", 0]", ", 7]"))
    config = train("--size=M1", f"--config={path}")
    assert (config.run, config.data, config.seed, config.tokens) == ("2026", "no", 1000, 2e5)
    assert (config.compile, config.keep_steps) == (True, [16, 7])


@dataclasses.dataclass(frozen=True)
class Inner:
    """Settings of which one had another name.

    Args:
        grad_clip: Once clip.
    """

    RENAMED: ClassVar[dict[str, str]] = {"clip": "grad_clip"}
    grad_clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Renamed:
    """Settings of which two had other names.

    Args:
        optim: Nested settings.
        cuda_graphs: Once graphs.
        keep_last: Once keep.
    """

    RENAMED: ClassVar[dict[str, str]] = {"graphs": "cuda_graphs", "keep": "keep_last"}
    optim: Inner = dataclasses.field(default_factory=Inner)
    cuda_graphs: bool = False
    keep_last: int = 2


def renamed(*argv: str) -> Renamed:
    return parse(Renamed, "Old names.", list(argv))


def test_old_names_are_read_as_the_new_ones(tmp_path):
    new = Renamed(Inner(0.5), cuda_graphs=True, keep_last=3)
    path, part = tmp_path / "old.yaml", tmp_path / "part.yaml"
    assert renamed("--graphs", "--keep=3", "--optim.clip", "0.5") == new
    assert renamed("--cuda-graphs", "--keep_last", "3", "--optim.grad_clip=0.5") == new
    path.write_text("graphs: true\nkeep: 3\noptim:\n  clip: .5\n")
    assert renamed("--config", str(path)) == new
    assert renamed(f"--config={path}", "--keep=4").keep_last == 4
    assert renamed("--keep=4", f"--config={path}").keep_last == 3
    path.write_text("cuda_graphs: true\nkeep_last: 3\noptim: part.yaml\n")
    part.write_text("clip: .5\n")
    assert renamed(f"--config={path}") == new
    part.write_text("clip: .inf\n")
    assert renamed(f"--config={path}").optim.grad_clip == math.inf
    assert "clip" not in renamed_fields(Renamed)
    assert renamed_fields(Renamed)["optim.clip"] == "optim.grad_clip"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep: many", "keep_last: expected a whole number, found many"),
        ("keep: 3\nseed: 1", "unknown key 'seed'"),
        ("keep: 3\nkeep_last: 3", "keep: is the old name of keep_last, which is given too"),
        ("optim: {clip: x}", "optim.grad_clip: expected a number, found x"),
    ],
)
def test_bad_input_under_an_old_name_is_one_line(tmp_path, text, words):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        renamed(f"--config={path}")
    assert "\n" not in str(error.value)
    assert words in str(error.value)
    assert str(path) in str(error.value)
