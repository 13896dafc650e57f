"""Other families than Mask R-CNN on the whole line: trained, killed, predicted, fused, tuned and submitted alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fixtures.line import maskline, places

from pipeline import toy
from pipeline.__main__ import main
from pipeline.errors import ConfigError
from pipeline.files import read_detections
from pipeline.inference.calibrate import MARKER
from pipeline.model.classical import Otsu
from pipeline.model.unet import Segmenter, Thresholds, UNet
from pipeline.model.weights import load_detector, save_weights

UNET = [
    "model=unet",
    "model.weights=none",
    "model.backbone.channels=16",
    "model.mask_size=28",
    "model.foreground=0.0",
    "model.marker=null",
    "augment.crop=64",
    "postprocess.score=0.1",
    "trainer.steps=4",
    "trainer.epoch_steps=2",
    "trainer.validation_images=1",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "fold=0",
    "quiet=true",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The toy contest, run to the end with a U-Net: the words that say where it is, and what was made."""
    folder = tmp_path_factory.mktemp("families")
    toy.draw(folder / "toy", seed=1, n_train=6, n_test=3)
    words = places(folder / "toy", folder)
    done = maskline("run", *words, "n_folds=2", *UNET, "run=unet", "views=flips")
    assert done.returncode == 0, done.stderr
    return words, folder / "output"


def state(output: Path, run: str) -> dict[str, torch.Tensor]:
    path = output / "runs" / run / "fold0/last.ckpt"
    return dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


def test_a_u_net_leads_to_a_checked_csv(finished: tuple[list[str], Path]) -> None:
    words, output = finished
    rows = pd.read_csv(output / "submission.csv", dtype=str, keep_default_na=False)
    assert set(rows["id"]) == {path.stem for path in (output.parent / "toy/test").iterdir()}
    assert main(["lint", f"submission={output}/submission.csv", *words]) == 0
    found = read_detections(output / "runs/unet/detections_validation.npz")
    assert sum(map(len, found)) > 0
    assert {one.masks.shape[-1] for one in found} == {28}
    table = pd.read_csv(output / "runs/unet/fold0/history.csv")
    assert {"loss_foreground", "loss_boundary", "loss_depth", "loss_class"} <= set(table.columns)
    (record,) = (output.parent / "submissions").glob("*_toy_unet/record.yaml")
    assert "model=unet" in record.read_text()


def test_thresholds_that_were_left_open_are_chosen_when_the_training_ends(finished: tuple[list[str], Path]) -> None:
    _, output = finished
    model, info = load_detector(output / "runs/unet/fold0/best.pt")
    assert model.spec.foreground == 0.0, "this one was given"
    assert model.spec.marker == info["calibration"]["marker"] in (UNet.OPEN["marker"], *MARKER)
    assert info["calibration"]["after"] >= info["calibration"]["before"] >= 0


def test_a_u_net_that_breaks_off_ends_with_the_same_bits(
    finished: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, output = finished
    plain, calls = Segmenter.detect, [0]

    def breaks(self: Segmenter, image: torch.Tensor, image_id: str) -> object:
        calls[0] += 1
        if calls[0] == 2:  # in the second validation: two steps are made and lost
            raise RuntimeError("something that nobody foresaw")
        return plain(self, image, image_id)

    monkeypatch.setattr(Segmenter, "detect", breaks)
    again = ["train", *words, *UNET, "run=broken"]
    assert main(again) == 1
    assert main(again) == 0
    assert calls[0] == 3
    wanted, found = state(output, "unet"), state(output, "broken")
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_thresholds_given_to_a_prediction_are_those_of_weights_that_hold_them(
    finished: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words, output = finished
    model, info = load_detector(output / "runs/unet/fold0/best.pt")
    own = [*words, "trainer.accelerator=cpu", "trainer.threads=1", "split=test", "quiet=true"]
    made = []
    for run, given in (("own", {}), ("held", {"foreground": 0.55, "marker": 0.2})):
        model.spec = replace(model.spec, **given)
        (output / f"runs/{run}/fold0").mkdir(parents=True)
        save_weights(output / f"runs/{run}/fold0/best.pt", model, info)
        asked = [] if given else ["watershed.foreground=0.55", "watershed.marker=0.2"]
        assert main(["predict", *own, f"run={run}", *asked]) == 0
        made.append((output / f"runs/{run}/fold0/detections_test.npz").read_bytes())
    assert made[0] == made[1]
    assert made[0] != (output / "runs/unet/fold0/detections_test.npz").read_bytes()
    capsys.readouterr()
    assert main(["predict", *own, "run=own", "watershed.foreground=0.55", "watershed.marker=0.2"]) == 0
    assert "is complete" in capsys.readouterr().err
    assert main(["predict", *own, "run=own", "watershed.marker=1.2"]) == 2
    assert "marker: wanted a number from 0 to less than 1, got 1.2" in capsys.readouterr().err


def test_a_model_without_a_watershed_takes_no_thresholds_of_one() -> None:
    with pytest.raises(ConfigError, match="wanted weights of model=unet, got those of classical"):
        Thresholds(marker=0.2).within(Otsu("bright", 1.0, 5, 10, 28))


def test_a_baseline_without_weights_takes_the_same_way_and_is_fused(finished: tuple[list[str], Path]) -> None:
    words, output = finished
    otsu = [*words, "run=otsu", "fold=0", "trainer.accelerator=cpu", "quiet=true"]
    assert main(["train", *otsu, "model=otsu", "model.mask_size=28"]) == 0
    assert main(["predict", *otsu]) == 0
    assert main(["ensemble", *words, "run=both", "runs=[unet,otsu]"]) == 0
    assert main(["tune", *words, "run=both", "search.scores=[0.1,0.3]", "search.areas=[1]", "search.masks=[0.5]"]) == 0
    assert main(["postprocess", *words, "run=both", "tuned=true"]) == 0
    assert main(["evaluate", *words, "run=both"]) == 0
    assert isinstance(load_detector(output / "runs/otsu/fold0/best.pt")[0].spec.objects, str)
    assert yaml.safe_load((output / "runs/both/tuned.yaml").read_text())["rules"]["score"] in (0.1, 0.3)
    one, two, both = (
        read_detections(output / "runs" / name / "detections_validation.npz") for name in ("unet", "otsu/fold0", "both")
    )
    for each, other, fused in zip(one, two, both, strict=True):
        assert max(len(each), len(other)) <= len(fused) <= len(each) + len(other)
        assert np.isfinite(fused.scores).all()
