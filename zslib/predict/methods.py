"""The methods that can answer, by their names in the leaderboard."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zslib.artifacts.place import refuse_place
from zslib.errors import InputError
from zslib.params import Params
from zslib.predict import refit, sazs, simbaseline
from zslib.predict.artifacts import Artifact, Artifacts
from zslib.predict.heads import HeadMethod
from zslib.predict.output import FILES, Prediction, write
from zslib.predict.request import Request

SPNET = Artifact(
    "{split}/spnet/frozen/classifier.safetensors", "pipelines/spnet/dvc.yaml:train@{split}"
)
JOEM = Artifact(
    "{split}/joem/frozen/classifier.safetensors", "pipelines/joem/dvc.yaml:frozen@{split}"
)
JOEM_HEAD = Artifact(
    "{split}/joem/frozen_head/classifier.safetensors", "pipelines/joem/dvc.yaml:frozen_head@{split}"
)


def _generative(method: str, folder: str, stage: str) -> Artifact:
    path = f"{{split}}/{method}/{folder}/classifier.safetensors"
    return Artifact(path, f"pipelines/{method}/dvc.yaml:{stage}@{{split}}")


HEADS = (
    HeadMethod("spnet", SPNET, calibrated=False, learn=refit.with_spnet),
    HeadMethod("spnet-c", SPNET, learn=refit.with_spnet),
    HeadMethod("joem-frozen", JOEM, learn=refit.with_joem),
    HeadMethod("joem-frozen-head", JOEM_HEAD),
    HeadMethod("zs3net", _generative("zs3net", "clean", "classifier")),
    HeadMethod("zs3net+st", _generative("zs3net", "st", "self_training")),
    HeadMethod("zs3net-gc", _generative("zs3net-gc", "clean", "classifier")),
    HeadMethod("zs3net-gc+st", _generative("zs3net-gc", "st", "self_training")),
)
METHODS: Mapping[str, Callable[[Request], Prediction]] = {
    "simbaseline": simbaseline.predict,
    "sazs": sazs.predict,
    **{head.name: head.predict for head in HEADS},
}


def predict(
    method: str,
    photograph: Path,
    names: Sequence[str],
    params: Params,
    artifacts: Artifacts,
    *,
    out: Path,
) -> list[dict[str, Any]]:
    """Divide a photograph among names and publish what `output.write` says; return what each name got.

    Raises:
        InputError: no such method, or it cannot know a name; an artifact or the photograph is unusable;
            something else is at `out`, or nothing can be written there.
    """
    if method not in METHODS:
        raise InputError(f"--method: '{method}' cannot predict; {_offer()}")
    refuse_place(out, FILES)
    with tempfile.TemporaryDirectory(prefix="zslib-predict-") as folder:
        request = Request.read(photograph, names, params, artifacts, scratch=Path(folder))
        prediction = METHODS[method](request)
    facts = {
        "photograph": str(photograph),
        "benchmark": params.benchmark.name,
        "split": artifacts.split,
        "method": method,
        "artifacts": artifacts.digests(),
    }
    return write(prediction, request.image, facts, out)


def _offer() -> str:
    fixed = [head.name for head in HEADS if head.learn is None]
    free = [name for name in METHODS if name not in fixed]
    return f"for any names take {', '.join(free)}; for the benchmark's own also {', '.join(fixed)}"
