"""The schema of every artifact (name/version), and the stage that writes it.

A version changes when a reader of the old form would go wrong.
"""

INDEX = "index/1"
LABELS = "labels/1"
VECTORS = "vectors/1"
BACKBONE = "backbone/1"
BANK = "bank/1"
DENSE = "dense/1"
GENERATOR = "generator/1"
CLASSIFIER = "classifier/1"
CONFUSION = "confusion/1"
PREDICTIONS = "predictions/1"

_WRITERS = {
    INDEX: "index",
    LABELS: "seen_labels, all_labels or val_labels",
    VECTORS: "vectors or embeddings",
    BACKBONE: "backbone",
    BANK: "bank",
    DENSE: "tuning_maps or val_maps",
    GENERATOR: "generator",
    CLASSIFIER: "train or classifier",
    CONFUSION: "evaluate",
    PREDICTIONS: "evaluate",
}


def remedy(schema: str) -> str:
    """Say what to do about a bad artifact of this schema."""
    stage = _WRITERS.get(schema, schema.split("/")[0])
    return f"run `make fsck`, delete the file and rerun the stage that writes it: {stage}"
