"""A fitted study, and its laws as they are read back."""

import pytest

from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from tests.llama_scale.scaling.helpers import fit_study


@pytest.fixture(scope="package")
def study(tmp_path_factory):
    """A folder with points.csv and laws.json; tests only add files to it."""
    folder = tmp_path_factory.mktemp("fitted")
    fit_study(folder)
    return folder


@pytest.fixture
def laws(study):
    return FittedLaws.read(study)
