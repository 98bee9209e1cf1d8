"""What every section of params.yaml has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
