"""`zslib predict`: one photograph, any class names, a trained method of the benchmark in force.

`request` says what is asked for, `artifacts` where what was trained lies, `methods` who can answer.
`simbaseline` names anything that CLIP can read (`spelling`); `heads` are classifiers of pixel features,
some of which learn new names by `refit` with vectors of `words`; `output` draws and writes.
"""

from zslib.predict.artifacts import Artifacts, named_paths
from zslib.predict.methods import predict
from zslib.predict.request import chosen_params, class_names, readable

__all__ = ["Artifacts", "chosen_params", "class_names", "named_paths", "predict", "readable"]
