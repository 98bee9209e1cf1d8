"""What a benchmark will take on this machine before it runs: `zslib plan`."""

from zslib.plan.forecast import Forecast, forecast, refuse_what_does_not_fit, table
from zslib.plan.graph import Stage, read_stages
from zslib.plan.pace import Pace, measure
from zslib.plan.survey import Survey

__all__ = [
    "Forecast",
    "Pace",
    "Stage",
    "Survey",
    "forecast",
    "measure",
    "read_stages",
    "refuse_what_does_not_fit",
    "table",
]
