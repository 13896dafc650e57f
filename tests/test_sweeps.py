"""Sweeps: what their jobs return and where they write, on a grid and in a search by scores."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fixtures.line import places
from fixtures.predicted import predicted
from omegaconf import DictConfig

from pipeline import __main__ as front_door
from pipeline import compose, stages, sweep, toy
from pipeline.compose import Command, parse
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths

REPOSITORY = Path(__file__).resolve().parent.parent
SEARCH = "hydra.sweeper._target_=hydra_plugins.of_my_own.Search"  # any sweeper but Hydra's own searches
GIVEN = ["competition=sartorius", "run=r", "search=given", "quiet=true"]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return predicted(tmp_path)


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Run a command line through Hydra's own launch and return what it got of each job."""
    found: list[float] = []
    plain = front_door._job

    def kept(command: Command, failures: list[Exception]) -> Callable[[DictConfig], Any]:
        job = plain(command, failures)

        def keep(config: DictConfig) -> Any:
            found.append(job(config))
            return found[-1]

        return keep

    def run(*words: str) -> list[float]:
        found.clear()
        assert front_door.main(words) == 0
        return list(found)

    monkeypatch.setattr(front_door, "_job", kept)
    return run


def of(paths: Paths) -> list[str]:
    return [f"paths.data={paths.data}", f"paths.output={paths.output}", f"paths.submissions={paths.submissions}"]


def nested(paths: Paths, run: str) -> float:
    found: float = json.loads((paths.run(run) / "tuning.json").read_text())["nested"]["mean"]
    return found


# ------------------------------------------------------------------------------------------------- what jobs return


def test_a_sweep_of_tune_returns_the_scores_that_evaluate_finds_of_postprocess(paths: Paths, returned) -> None:
    swept = "postprocess.score=0.3,0.9"
    before = sorted(path.name for path in paths.run("r").iterdir())
    scores = returned("tune", "--multirun", *GIVEN, *of(paths), swept)
    runs = [f"r_postprocess.score-{value}" for value in ("0.3", "0.9")]
    assert scores == [nested(paths, run) for run in runs]
    assert scores[0] > scores[1]
    returned("postprocess", "-m", "competition=sartorius", "run=r", "split=validation", *of(paths), swept)
    line = ["competition=sartorius", "quiet=true", "split=validation", *of(paths)]
    assert returned("evaluate", *line, f"run={runs[0]}") == pytest.approx(scores[:1], abs=1e-12)
    assert sorted(path.name for path in paths.run("r").iterdir()) == before


def test_what_tune_returns_of_a_grid_is_the_nested_estimate_and_not_the_best(paths: Paths, returned) -> None:
    score = returned("tune", "competition=sartorius", "run=r", "quiet=true", *of(paths), "search.masks=[0.5]")
    assert score == [nested(paths, "r")]
    report = json.loads((paths.run("r") / "tuning.json").read_text())
    assert score[0] <= report["peak"]


def test_train_and_run_return_the_validation_score(tmp_path: Path, returned) -> None:
    data, output = toy.draw(tmp_path / "toy", seed=1, n_train=6, n_test=2) or tmp_path / "toy", tmp_path / "output"
    line = ["model=otsu", "n_folds=2", "fold=0", "quiet=true", *places(data, tmp_path)]
    (score,) = returned("run", "-m", *line, "postprocess.min_area=range(5,6)", "run=o")
    run = output / "runs" / "o_postprocess.min_area-5"
    assert score == json.loads((run / "scores.json").read_text())["total"] > 0
    trained = [word for word in line if not word.startswith("n_folds")]
    again = returned("train", *trained, "run=o_postprocess.min_area-5", "postprocess.min_area=5")
    assert again == [pd.read_csv(run / "fold0" / "history.csv")["validation_score"].max()]


@pytest.mark.parametrize(
    ("select", "wanted"), [("score", (0.5 + 0.25) / 2), ("tuned_score", 0.75), ("last", (0.125 + 0.25) / 2)]
)
def test_a_training_returns_the_figure_that_its_weights_were_kept_by(tmp_path: Path, select, wanted) -> None:
    from pipeline.stages.train import _reached

    rows = {
        "fold0": "step,validation_score,validation_tuned_score\n1,0.5,0.75\n2,0.125,0.5\n",
        "fold1": "step,validation_score\n1,0.25\n2,\n",
        "all": "step,loss\n1,2.0\n",
    }
    for name, text in rows.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.csv").write_text(text)
    assert _reached([tmp_path / name for name in rows], select) == wanted
    assert _reached([tmp_path / "all"], select) is None


def test_the_stages_with_a_score_are_those_whose_functions_say_so() -> None:
    assert {name for name in stages.STAGES if stages.scores(name)} == {"train", "tune", "evaluate", "run"}


# ------------------------------------------------------------------------------------------------- where they write


def test_a_run_that_has_detections_of_its_own_is_lent_none(paths: Paths) -> None:
    where = {"_target_": "pipeline.files.Paths", "data": "d", "output": str(paths.output), "submissions": "s"}
    stages.lend(where, "r", "other/one")
    stages.lend(where, "r", "other/one")
    lent = paths.run("other/one") / "detections_validation.npz"
    assert lent.read_bytes() == (paths.run("r") / "detections_validation.npz").read_bytes()
    lent.unlink()
    lent.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"detections_validation.npz is not that of r, .* give another run=NAME"):
        stages.lend(where, "r", "other/one")
    assert lent.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("typed", "grid", "search"),
    [
        ("a=1,2 b=3", ["a=1 b=3", "a=2 b=3"], ["a=1 b=3", "a=2 b=3"]),
        ("a=1,2,3 b=x,y", None, ["a=1 b=x", "a=3 b=x", "a=1 b=y"]),
        ("a=interval(0.1,0.9) b=x,y", None, ["a=0.1 b=x", "a=0.9 b=x", "a=0.1 b=y"]),
        ("a=range(1,7,2)", ["a=1", "a=3", "a=5"], ["a=1", "a=5"]),
        ("a=tag(log,interval(1,8))", None, ["a=1.0", "a=8.0"]),
        ("a=int(interval(1,8))", None, ["a=1", "a=8"]),
        ("a=1,2 a=5", ["a=5"], ["a=5"]),
        ("a=1", ["a=1"], ["a=1"]),
    ],
)
def test_the_jobs_of_a_search_are_told_from_the_ends_of_what_it_chooses_from(typed, grid, search) -> None:
    overrides = parse(typed.split())
    assert [" ".join(job) for job in sweep.jobs(overrides, True)] == search
    if grid is None and "interval" not in typed:
        values = [one.sweep_string_iterator() for one in overrides]
        grid = [f"a={a} b={b}" for a, b in itertools.product(*values)]
    if grid is not None:
        assert [" ".join(job) for job in sweep.jobs(overrides, False)] == grid


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            f"tune {SEARCH} search=given postprocess.score=interval(0.1,1.5)",
            "score: wanted a number from 0 to 1, got 1.5",
        ),
        (f"tune {SEARCH} postprocess.scor=interval(0.1,0.5)", "postprocess.scor: no such key; nearest: postprocess"),
        (f"train {SEARCH} run=a,b seed=range(0,3)", "jobs 0 and 2 of the sweep would write the same files below"),
        (f"evaluate {SEARCH} competition.overlap=allowed,forbidden", "jobs 0 and 1 of the sweep would write the same"),
        ("evaluate competition.overlap=allowed,forbidden", "jobs 0 and 1 of the sweep would write the same files"),
        ("tune run=a,b seed=0,1", "jobs 0 and 1 of the sweep would write the same files below outputs/toy"),
        (
            f"convert {SEARCH} n_folds=2,3",
            "Search searches by a score, and convert returns none; train, tune, evaluate",
        ),
        (f"train {SEARCH} fold=all seed=0,1", "fold=all: nothing is left to validate on"),
    ],
)
def test_a_sweep_that_cannot_go_well_is_refused_before_its_first_job(words: str, message: str) -> None:
    stage, *overrides = words.split()
    with pytest.raises(ConfigError) as refused:
        compose.check(Command(stage, tuple(overrides), multirun=True))
    assert message in str(refused.value)


@pytest.mark.parametrize("stage", ["train", "run", "tune"])
def test_jobs_of_a_search_get_runs_of_their_own(stage: str) -> None:
    compose.check(Command(stage, (SEARCH, "postprocess.min_area=range(1,9)", "seed=0,1"), multirun=True))


# ------------------------------------------------------------------------------------------------- Optuna


def test_a_search_is_told_that_more_is_better_unless_the_line_says_otherwise() -> None:
    def told(*words: str) -> list[str]:
        return [word for word in front_door._hydra_overrides(Command("tune", words)) if "hydra.sweeper" in word]

    assert told("hydra.sweeper.n_trials=3") == []
    alone = told("hydra/sweeper=optuna")
    assert alone == ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=${seed}"]
    assert told("hydra/sweeper=optuna", "hydra.sweeper.n_jobs=4", "hydra/sweeper/sampler=grid") == alone[:1]


def test_without_its_extra_the_search_is_refused_with_the_way_to_install_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['hydra_plugins'] = None; from pipeline.__main__ import main; sys.exit(main())"
    words = ["tune", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "seed=0,1"]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command, variables = [sys.executable, "-c", code, *words], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    line = 'maskline tune: hydra/sweeper=optuna needs the extra optuna: pip install "maskline[optuna]"\n'
    assert done.stderr == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins") is None
    or importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="the search needs the extra `optuna`",
)
def test_optuna_searches_by_the_score_and_the_same_command_tries_the_same_values(paths: Paths, returned) -> None:
    line = ["tune", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", *GIVEN, *of(paths)]
    swept = ["postprocess.score=interval(0.1,0.9)", "postprocess.mask=0.4,0.5"]
    scores = returned(*line, *swept)
    runs = sorted(path.name for path in (paths.output / "runs").iterdir())
    assert len(scores) == 4
    assert sorted(set(scores)) == sorted({nested(paths, run) for run in runs if run != "r"})
    (file,) = paths.output.glob("logs/tune/*/optimization_results.yaml")
    found = yaml.safe_load(file.read_text())
    assert found["best_value"] == max(scores) > min(scores)
    assert set(found["best_params"]) == {"postprocess.score", "postprocess.mask"}
    assert returned(*line, *swept) == scores
    assert sorted(path.name for path in (paths.output / "runs").iterdir()) == runs
