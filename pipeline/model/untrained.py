"""Models that have nothing to learn, in the files that a training leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.atomic import atomic
from pipeline.instances import Detections
from pipeline.model.weights import save_weights


def without_training(
    model: Any,
    batches: Iterable[Sequence[tuple[Tensor, str]]],
    score: Callable[[Sequence[Detections]], Mapping[str, float]],
    folder: Path,
    info: Mapping[str, Any],
) -> None:
    """Into `folder` the weights file of a model that has nothing to learn, and a history of one row: its validation.

    batches: of images uint8 (3, H, W) and their ids.
    """
    figures = score([model.detect(image, name) for batch in batches for image, name in batch])
    row = {"epoch": 0, "step": 0, **{f"validation_{name}": value for name, value in figures.items()}}
    with atomic(folder / "history.csv") as partial:
        pd.DataFrame([row]).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    save_weights(folder / "best.pt", model, {**info, "step": 0, "validation_score": figures["score"]})
