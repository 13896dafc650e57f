"""The command line as a user types it: what it prints, where, and with which exit status."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import compose, stages
from pipeline.__main__ import main
from pipeline.compose import CONF, Command, parse, run_of_job
from pipeline.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent


def pipeline(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline` with these words in the folder `cwd`."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a line that must be refused with exit status 2, in an empty folder that stays empty; return the message."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []
        return err

    return run


# ------------------------------------------------------------------------------------------------- as typed


def test_help_lists_every_stage_with_one_line_and_imports_none(tmp_path: Path) -> None:
    for words in ((), ("--help",)):
        done = pipeline(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        for stage in stages.STAGES:
            assert re.search(rf"^  {stage} +[A-Z].*\.$", done.stdout, re.MULTILINE), stage
    code = "import sys; from pipeline.__main__ import main; main(['train', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


def test_a_file_at_fault_exits_1_with_the_message_alone(tmp_path: Path) -> None:
    done = pipeline("convert", "competition=sartorius", "paths.data=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert re.search(r"^maskline convert: .*nowhere.*", done.stderr, re.MULTILINE)


def test_a_misspelt_option_exits_2_before_anything_is_made(tmp_path: Path) -> None:
    done = pipeline("convert", "competition=sartorious", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "maskline convert: competition=sartorious: no such competition; nearest: sartorius; "
        f"there are: {', '.join(sorted(path.stem for path in (CONF / 'competition').glob('*.yaml')))}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_composed_configuration_and_makes_nothing(tmp_path: Path) -> None:
    done = pipeline("convert", "competition=dsb2018", "seed=3", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 3\n" in done.stdout
    assert "key: dsb2018\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_each_job_of_a_sweep_runs_and_logs_in_a_folder_of_its_own(tmp_path: Path) -> None:
    done = pipeline("convert", "competition=dsb2018,sartorius", "paths.data=nowhere", "--multirun", cwd=tmp_path)
    assert done.returncode == 1
    assert "#0 : competition=dsb2018" in done.stderr
    assert "#1 : competition=sartorius" in done.stderr
    logs = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("convert.log"))
    assert [re.sub(r"\d{4}-[\d_-]+", "TIME", path) for path in logs] == [
        "outputs/dsb2018/logs/convert/TIME/0/convert.log",
        "outputs/sartorius/logs/convert/TIME/1/convert.log",
    ]


def test_a_stage_that_writes_nothing_leaves_no_log_either(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,predicted\n")
    assert pipeline("lint", "submission=x.csv", cwd=tmp_path).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_stage_sees_the_command_line_as_typed_so_that_training_can_start_its_other_processes(tmp_path: Path) -> None:
    code = """
import sys
from pipeline import stages
from pipeline.__main__ import main

def convert(*, seed: int, paths: object) -> None:
    print(sys.argv[1:], seed)

stages.load = lambda stage: convert
sys.exit(main())
"""
    words = ["convert", "seed=5"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "['convert', 'seed=5'] 5\n"), done.stderr


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("maskline tra", "train", "convert"),
        ("maskline convert ", "competition=", "trainer="),
        ("maskline convert competition=s", "competition=sartorius", "competition=toy"),
        ("python -m pipeline convert paths.", "paths.data=", "seed="),
    ],
)
def test_tab_completion_knows_stages_and_their_keys(line: str, wanted: str, unwanted: str, tmp_path: Path) -> None:
    done = pipeline("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    assert wanted in done.stdout.split()
    assert unwanted not in done.stdout.split()


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convrt", "maskline: convrt: no such stage; nearest: convert; there are: download, convert, train"),
        ("competition=toy", "maskline: name a stage first; there are: "),
        ("convert seeds=1", "maskline convert: seeds: no such key; nearest: seed"),
        ("convert path.data=x", "path.data: no such key; nearest: paths.data"),
        ("convert data=x", "data: no such key; nearest: paths.data"),
        ("convert run=x", "run=x: convert does not take run; train, predict, "),
        ("convert optimizer=adamw", "optimizer=adamw: convert does not take optimizer; train, run do"),
        ("convert seed", "seed: cannot be read as key=value"),
        ("convert seed=[1", "seed=[1: cannot be read as key=value"),
        ("convert seed=one", "seed: expected int, got 'one'"),
        ("convert seed=0,1", "To sweep over it, add --multirun"),
        ("convert annotations=mask", "annotations: expected one of csv, masks, got 'mask'; nearest: masks"),
        ("convert +paths.outputs=x", "paths.outputs: pipeline.files.Paths has no such key; nearest: paths.output"),
        ("convert competition._target_=os.system", "competition._target_: os.system may not be built"),
        ("convert paths=kaggle", "paths.data: has no default; give it on the command line"),
        ("convert ~paths.data", "paths.data: not given, and pipeline.files.Paths cannot do without"),
        ("convert experiment=null", "experiment=null: to choose no option of a group, write ~experiment"),
        ("convert hydra/laucher=basic", "hydra/laucher: no such key; nearest: hydra/launcher"),
        ("convert hydra.job.nam=x", "hydra.job.nam: no such key; nearest: hydra.job.name"),
        ("convert seed=0,one --multirun", "seed: expected int, got 'one'"),
        ("convert seed=0,1 --multirun", "jobs 0 and 1 of the sweep would write the same files below outputs/toy"),
    ],
)
def test_a_wrong_line_is_refused_before_any_work_with_the_place_and_the_nearest_name(refused, words, message) -> None:
    assert message in refused(*words.split())


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["convert", "--fast"])
    assert leaving.value.code == 2


def test_a_defect_of_the_program_shows_its_traceback_and_asks_for_a_report(monkeypatch, capsys) -> None:
    monkeypatch.setattr(compose, "check", lambda command: 1 / 0)
    assert main(["convert"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert err.endswith("please report the lines above\n")


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_command_exits_130(monkeypatch, capsys, how) -> None:
    def interrupted(command: Command) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:  # the training engine answers by leaving
            raise how from None

    monkeypatch.setattr(compose, "check", interrupted)
    assert main(["convert"]) == 130
    assert capsys.readouterr().err == "maskline convert: interrupted\n"


# ------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    ("typed", "job", "run"),
    [
        ("seed=0,1", "seed=1", "base_seed-1"),
        ("seed=0,1 optimizer=sgd,adamw", "seed=1 optimizer=sgd", "base_seed-1_optimizer-sgd"),
        ("seed=0,1 trainer.max_steps=9", "seed=0 trainer.max_steps=9", "base_seed-0"),
        ("fold=0,1", "fold=1", "base"),
        ("run=a,b seed=0,1", "run=a seed=1", "base"),
        ("competition=toy,dsb2018 paths.output=x,y", "competition=toy paths.output=x", "base"),
        ("+trainer.precision=a,b", "+trainer.precision=a", "base_trainer.precision-a"),
    ],
)
def test_a_job_of_a_sweep_gets_a_run_of_its_own_unless_it_has_its_own_place(typed, job, run) -> None:
    fixed = Command("train", tuple(typed.split()), multirun=True).fixed()
    assert run_of_job("base", parse(job.split()), fixed) == run


def test_runs_of_jobs_are_names_of_folders_and_differ_where_the_jobs_do() -> None:
    values = [
        "[1,2]",
        "[1.2]",
        "{a:1}",
        "'a b'",
        "'a/b'",
        f"[{','.join(['12345'] * 30)}]",
        f"[{','.join(['12345'] * 31)}]",
    ]
    runs = [run_of_job("base", parse([f"x={value}"]), set()) for value in values]
    assert len(set(runs)) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,100}", run) for run in runs)


# ------------------------------------------------------------------------------------------------- the whole


def test_the_configuration_holds_exactly_the_keys_that_stages_take() -> None:
    taken = {key for stage in stages.STAGES for key in stages.parameters(stage)}
    command = Command("run", ())
    with compose.composer(command):
        assert set(compose.compose(())) - {"hydra"} == taken


def test_what_is_told_of_a_stage_without_importing_it_is_true_of_the_function() -> None:
    annotations: dict[str, object] = {}
    for stage in stages.STAGES:
        function = stages.load(stage)
        parameters = inspect.signature(function, eval_str=True).parameters
        own = stages.parameters(stage)
        assert tuple(parameters)[: len(own)] == own
        assert len(parameters) == len(own) or stage == "reproduce"  # gets all defaults, for what a record does not know
        assert inspect.getdoc(function) == stages.description(stage)
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
        for name, parameter in parameters.items():
            if (stage, name) != ("lint", "submission"):  # lint cannot do without the file
                assert annotations.setdefault(name, parameter.annotation) == parameter.annotation, (stage, name)


NO_DEFAULT = {f"competition={key}": ("competition.categories=[cell]",) for key in ("coco", "openimages2019")}
NO_DEFAULT["search=given"] = ("postprocess.score=0.5",)


def test_every_option_of_every_group_builds() -> None:
    own = {name for stage in stages.STAGES for name in stages.parameters(stage)} | {"experiment", "debug"}
    with compose.composer(Command("run", ())) as loader:
        choices = [
            f"{group}={name}" for group, names in compose.groups(loader).items() if group in own for name in names
        ]
    assert "competition=dsb2018" in choices
    for choice in choices:
        compose.check(Command("run", (choice, "paths.data=somewhere", *NO_DEFAULT.get(choice, ()))))


@pytest.mark.parametrize("stage", ["predict", "ensemble", "convert", "submit"])
def test_every_stage_finds_the_folder_of_its_contest(stage: str, capsys) -> None:
    assert main([stage, "competition=dsb2018", "--cfg", "job"]) == 0
    assert "key: dsb2018" in capsys.readouterr().out


def test_a_folder_of_own_experiments_is_found_with_config_dir(tmp_path: Path, capsys) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    assert main(["convert", "experiment=mine", "--config-dir", str(tmp_path), "--cfg", "job"]) == 0
    assert "seed: 77" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no such experiment; nearest: mine"):
        compose.check(Command("convert", ("experiment=mien",), extra=tmp_path))


def test_no_stage_reads_the_command_line_or_hydra() -> None:
    for stage in stages.STAGES:
        source = (Path(stages.__file__).parent / f"{stage}.py").read_text(encoding="utf-8")
        names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        assert "argv" not in names


def test_the_wheel_holds_the_configuration(tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"conf": "pipeline/conf"}
    if importlib.util.find_spec("hatchling") is None:
        return
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"])
    inside = set(zipfile.ZipFile(wheel).namelist())
    ours = {f"pipeline/conf/{path.relative_to(CONF)}" for path in CONF.rglob("*.yaml")}
    assert ours <= inside
    assert {"pipeline/__main__.py", "pipeline/stages/run.py"} <= inside
    assert not any(name.startswith(("tests/", "outputs/", "data/")) for name in inside)


def test_who_stops_reading_gets_no_complaint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "train", "--help"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
