"""A small study file, planned."""

import pytest
import yaml

from llama_scale.scaling.study.plan import read_study
from tests.conftest import ROOT
from tests.llama_scale.scaling.helpers import TOY


@pytest.fixture
def plan(tmp_path):
    """Write a study file that is TOY with changes, and plan it in an empty folder."""

    def plan(*overrides, **changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (TOY | changes).items() if v is not None}))
        return read_study(tmp_path, [str(path), *overrides], scripts=ROOT / "launch")

    return plan
