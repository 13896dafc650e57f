"""What a training sees, chosen on the command line: augmentation, sampler, categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.line import TINY, places

from pipeline import toy
from pipeline.__main__ import main
from pipeline.data.dataset import TrainingSamples
from pipeline.files import read_json

SEEN = ["augment=strong", "augment.mosaic=0.5", "augment.elastic=3", "sampler=by_class", "sampler.power=0.5"]


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that name the places of a converted toy contest."""
    folder = tmp_path_factory.mktemp("samples")
    toy.draw(folder / "toy", seed=4, n_train=6, n_test=3)
    where = places(folder / "toy", folder)
    assert main(["convert", *where, "n_folds=2", "leaks=false"]) == 0
    return where


def test_a_dedicated_model_is_trained_on_strong_samples_of_its_class(
    contest: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: set[int] = set()
    plain = TrainingSamples.__getitem__

    def watched(self: TrainingSamples, place: tuple[int, int]) -> Any:
        sample = plain(self, place)
        labels.update(sample.target["labels"].tolist())
        return sample

    monkeypatch.setattr(TrainingSamples, "__getitem__", watched)
    dedicated = ["categories=[spindle]", "model.mask_loss=bce_dice", "model.class_weights=[1,1,2]"]
    assert main(["train", *contest, *TINY, *SEEN, *dedicated, "augment.crop=96"]) == 0
    assert labels == {2}
    folder = Path(contest[1].removeprefix("paths.output=")) / "runs" / "tiny" / "fold0"
    assert (folder / "best.pt").is_file()
    settings = read_json(folder / ".train.json", "train")["settings"]
    assert settings["sampler"]["power"] == 0.5
    assert settings["categories"] == ["spindle"]
    assert settings["augment"]["mosaic"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["categories=[spindel]"], "categories: 'spindel' is not among round, spindle; nearest is 'spindle'"),
        (["sampler=by_clas"], "sampler=by_clas: no such sampler; nearest: by_class"),
        (["sampler=by_density", "sampler.empty=2"], "empty: wanted a share of the samples, 0 to 1, or null, got 2"),
        (["augment.elastic=9"], "elastic_every: wanted more than 4 times elastic=9.0"),
        (
            ["augment.paste_from=sane"],
            "augment.paste_from: expected one of same, class, any, got 'sane'; nearest: same",
        ),
        (["model.mask_loss=focal"], "model.mask_loss: expected one of bce, dice, bce_dice, lovasz"),
        (["model.class_weights=[1,2]"], "model.class_weights: wanted 3, one for the background and one for each cat"),
    ],
)
def test_what_cannot_be_meant_exits_2_with_the_key_and_the_nearest_name(
    contest: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *contest, *TINY, "run=refused", *words]) == 2
    assert message in capsys.readouterr().err
