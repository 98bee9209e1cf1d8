"""What is said of an artifact that is not there."""

import re

import pytest

from tests.unit.predict.project import PROJECT
from zslib.errors import InputError
from zslib.params import load_params
from zslib.predict import Artifacts
from zslib.predict.simbaseline import CLIP


@pytest.mark.parametrize(
    ("models", "remedy"),
    [
        (
            [],
            "needs a vision-language model: set vision_language.models, or name one with --artifact",
        ),
        (["clip"], "run `dvc repro vision_language@clip`, which makes it, or name another with"),
    ],
)
def test_only_a_stage_that_is_there_is_named(models: list[str], remedy: str) -> None:
    params = load_params(PROJECT / "params.yaml")
    language = params.vision_language.model_copy(update={"models": models})
    benchmark = params.benchmark.model_copy(update={"name": "elsewhere"})
    params = params.model_copy(update={"vision_language": language, "benchmark": benchmark})
    artifacts = Artifacts.of(params, params.splits[0], {}, in_force=params)
    with pytest.raises(InputError, match=re.escape(remedy)):
        artifacts.find("clip", CLIP)
