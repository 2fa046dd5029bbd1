"""Settings from mappings, and files of settings by name."""

import pytest

from llama_scale.cli import build, parse
from llama_scale.config import CONFIGS, TrainConfig, find_config, load_size, nest, read_yaml
from llama_scale.errors import InputError

SHAPE = read_yaml(CONFIGS / "size/S1.yaml")


def test_a_mapping_is_what_the_command_line_is():
    config = build(
        TrainConfig, {"model": SHAPE, "model.vocab_size": 512, "size": "S1", "tokens": 1e6, "optim.lr": 1e-3}
    )
    argv = ["--size=S1", "--model.vocab_size=512", "--tokens=1e6", "--optim.lr=1e-3"]
    assert config == parse(TrainConfig, "", argv)
    assert config.model == load_size("S1", vocab_size=512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim.lrr": 1}, r"^unknown key 'optim.lrr' \(did you mean 'optim.lr'\?\)$"),
        ({"seeed": 1}, r"^unknown key 'seeed' \(did you mean 'seed'\?\)$"),
        ({"seed": "x"}, "^seed: expected a whole number, found x$"),
        ({"seed": -1}, "^seed: expected a whole number from 0"),
        ({"optim": 3}, "^optim: expected fields, found 3$"),
        ({"optim": 3, "optim.lr": 1}, "^optim.lr: optim has a value already, 3; give one$"),
    ],
)
def test_bad_mappings_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        build(TrainConfig, {"model": SHAPE} | settings)
    assert "\n" not in str(error.value) and "--" not in str(error.value)


def test_dotted_settings_are_nested():
    assert nest({"a.b": 1, "a": {"c.d": None}, "e": []}) == {"a": {"b": 1, "c": {"d": None}}, "e": []}


def test_the_working_directory_comes_before_the_shipped_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = CONFIGS / "eval/quick.yaml"
    for name in ("quick", "configs/eval/quick.yaml", str(shipped)):
        assert find_config(name, "eval") == shipped
    (tmp_path / "quick").write_text("x: 1")
    assert find_config("quick", "eval") == tmp_path / "quick"
    assert find_config("quick", "eval", tmp_path / "absent") == shipped
    with pytest.raises(InputError, match=r"no file quik \(did you mean 'quick'\?\); give a YAML"):
        find_config("quik", "eval")
