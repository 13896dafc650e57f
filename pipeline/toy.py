"""Draws the toy contest: phase-contrast-like cells of two types, in the layout in which Kaggle hands out a contest.

The folder holds `train/<id>.png` and `test/<id>.png` (8-bit grey), `train.csv` (a row per cell: id, annotation, width,
height, cell_type; run-length text from pixel 1 along rows), `sample_submission.csv` (id, predicted) and, formed like
`train.csv`, `test_truth.csv`. An image without cells has no row. The truth overlaps itself a little, as people's
annotations of touching cells do. Points are (row, column), pixel centres lie on whole numbers.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.random import Generator
from PIL import Image
from skimage.filters import gaussian
from skimage.measure import label
from skimage.morphology import dilation

from pipeline.atomic import atomic_folder
from pipeline.errors import InputError
from pipeline.masks.runs import from_dense
from pipeline.masks.text import to_text

KINDS = ("round", "spindle")
TRUTH_COLUMNS = ("id", "annotation", "width", "height", "cell_type")

MEDIAN_COUNT, COUNT_SPREAD, MOST_COUNT = 25, 0.75, 110  # log-normal: few images have many cells
SIZES = ((192, 256), (192, 256), (192, 256), (256, 256), (192, 256), (192, 256), (160, 224), (192, 256))  # in turn
ROUND_SHARES = (1.0, 0.0, 1.0, 0.0, 0.5)  # in turn: most images hold one type, every fifth both
CROWD, CROWD_SIZE, CROWD_SHARE, CROWD_SCALE = (195, 221), (256, 256), 0.8, 0.72  # one image of a split

TRIES_PER_CELL, LEAST_AREA = 30, 40  # pixels: a smaller cell, cut by the frame, would be a fleck without a shape
MOST_COVERING, LEAST_VISIBLE = 0.25, 0.65  # shares: of a new cell that may lie on others, of an old one that must show
HALO = 7.0  # pixels around the outline that a cell still brightens
WARP = 0.7  # pixels by which an outline strays from its plain shape, about
EDGES = {"round": (1.0, 1.5), "spindle": (-0.6, 1.1)}  # depth and width of the bright rim, pixels, inside positive
GREYS = {  # what each part of a cell adds to the background, grey levels at full contrast
    "round": {"body": -20.0, "rim": 62.0, "halo": 26.0, "nucleus": 16.0, "grain": 7.0},
    "spindle": {"body": -27.0, "rim": 36.0, "halo": 11.0, "nucleus": 18.0, "grain": 8.0},
}


@dataclass(frozen=True)
class Plan:
    """What one image shows: `size` (height, width), `count` cells or, where no room is left, fewer; `key` seeds it."""

    image_id: str
    size: tuple[int, int]
    count: int
    round_share: float
    scale: float
    key: tuple[int, int, int]


@dataclass(frozen=True)
class Cell:
    """A cell in its own window. `center` and `reach`, half its length, in pixels; `depth`: see `_depth`."""

    kind: str
    rows: slice
    columns: slice
    center: tuple[float, float]
    reach: float
    depth: np.ndarray
    greys: dict[str, float]

    @property
    def footprint(self) -> np.ndarray:
        """The pixels of the cell, hidden ones too: bool (h, w)."""
        return self.depth > 0


def draw(root: Path, *, seed: int = 0, n_train: int = 48, n_test: int = 12) -> None:
    """Draw the contest into the folder `root`, absent or empty, all or nothing. The same arguments give the same bytes.

    A split of three images or more has one without cells and one with about two hundred. A split depends on `seed` and
    its own length only. Raises InputError where `root` is taken, `seed` is below 0, or `n_train` or `n_test` below 1.
    """
    root = Path(root).resolve()
    for name, value, least in (("seed", seed, 0), ("n_train", n_train, 1), ("n_test", n_test, 1)):
        if value < least:
            raise InputError(f"toy contest: {name} is {value}, wanted {least} or more")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"toy contest: {root} exists and is not an empty folder; give another one or empty it")
    with atomic_folder(root) as contest:
        _write_contest(contest, seed, n_train, n_test)
        if root.exists():
            root.rmdir()  # which fails where somebody has put something into it meanwhile


def _write_contest(folder: Path, seed: int, n_train: int, n_test: int) -> None:
    train, test = plans(seed, 0, n_train), plans(seed, 1, n_test)
    _write_table(folder / "train.csv", TRUTH_COLUMNS, _write_images(folder / "train", train))
    _write_table(folder / "test_truth.csv", TRUTH_COLUMNS, _write_images(folder / "test", test))
    _write_table(folder / "sample_submission.csv", ("id", "predicted"), ((plan.image_id, "") for plan in test))


def _write_images(folder: Path, todo: Sequence[Plan]) -> Iterator[tuple[object, ...]]:
    """Write each plan's picture and yield the truth's rows, a row per cell."""
    folder.mkdir()
    for plan in todo:
        image, kinds, masks = picture(plan)
        Image.fromarray(image).save(folder / f"{plan.image_id}.png")
        for kind, mask in zip(kinds, masks, strict=True):
            (text,) = to_text(from_dense(mask[None]), "row")
            yield plan.image_id, text, plan.size[1], plan.size[0], kind


def _write_table(path: Path, header: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def plans(seed: int, split: int, n: int) -> list[Plan]:
    """The `n` images of a split (0 training, 1 test), sorted by id; their counts are quantiles, so few span all."""
    rng = np.random.default_rng([seed, split])
    spread = [NormalDist(0, COUNT_SPREAD).inv_cdf((i + 0.5) / n) for i in range(n)]
    counts = [min(MOST_COUNT, round(MEDIAN_COUNT * float(np.exp(x)))) for x in spread]
    counts[0] = 0 if n >= 3 else counts[0]
    todo = []
    for i, count in enumerate(rng.permutation(counts).tolist()):
        name = hashlib.sha256(f"toy {seed} {split} {i}".encode()).hexdigest()[:12]
        size, share, scale = SIZES[i % len(SIZES)], ROUND_SHARES[i % len(ROUND_SHARES)], float(rng.uniform(0.9, 1.2))
        todo.append(Plan(name, size, count, share, scale, (seed, split, i)))
    if n >= 3:
        most = max(range(n), key=lambda i: todo[i].count)
        crowd = replace(todo[most], count=int(rng.integers(*CROWD)), size=CROWD_SIZE, round_share=CROWD_SHARE)
        todo[most] = replace(crowd, scale=CROWD_SCALE)
    return sorted(todo, key=lambda plan: plan.image_id)


def picture(plan: Plan) -> tuple[np.ndarray, list[str], list[np.ndarray]]:
    """Draw one image: grey uint8 (H, W), the kind of each cell, and its truth, a bool (H, W) mask of one piece."""
    rng = np.random.default_rng([*plan.key, 1])
    cells, owner = _place(plan, rng)
    truth = [_truth(cell, owner, i) for i, cell in enumerate(cells)]
    return _render(cells, plan.size, rng), [cell.kind for cell in cells], truth


def _place(plan: Plan, rng: Generator) -> tuple[list[Cell], np.ndarray]:
    """Cells in drawing order, the last on top, and `owner` int64 (H, W): the index of the visible cell, -1 for none."""
    owner = np.full(plan.size, -1, dtype=np.int64)
    cells: list[Cell] = []
    warp = WARP * np.stack([_clouds(plan.size, 11, rng), _clouds(plan.size, 11, rng)])
    sociable = rng.uniform(0.25, 0.6)  # share of the cells that seek a neighbour
    for _ in range(plan.count * TRIES_PER_CELL):
        if len(cells) == plan.count:
            break
        kind = KINDS[0] if rng.random() < plan.round_share else KINDS[1]
        beside = cells[rng.integers(len(cells))] if cells and rng.random() < sociable else None
        center = _somewhere(plan.size, beside, rng)
        if all(0 <= c < n for c, n in zip(center, plan.size, strict=True)):
            cell = _new_cell(kind, center, plan.scale, warp, rng)
            if _fits(cell, cells, owner):
                owner[cell.rows, cell.columns][cell.footprint] = len(cells)
                cells.append(cell)
    return cells, owner


def _somewhere(size: tuple[int, int], beside: Cell | None, rng: Generator) -> tuple[float, float]:
    """A random centre, in pixels: anywhere in the image, or about a cell's length from `beside`, even outside it."""
    if beside is None:
        return float(rng.uniform(0, size[0] - 1)), float(rng.uniform(0, size[1] - 1))
    angle, distance = rng.uniform(0, 2 * np.pi), beside.reach * rng.uniform(0.8, 2.1)
    return float(beside.center[0] + distance * np.sin(angle)), float(beside.center[1] + distance * np.cos(angle))


def _fits(cell: Cell, cells: Sequence[Cell], owner: np.ndarray) -> bool:
    """Whether the new cell hides little, and leaves every older one largely visible and of one piece."""
    below = owner[cell.rows, cell.columns][cell.footprint]
    if below.size < LEAST_AREA or (below >= 0).mean() > MOST_COVERING:
        return False
    after = owner.copy()
    after[cell.rows, cell.columns][cell.footprint] = len(cells)
    for i in np.unique(below[below >= 0]):
        visible = after[cells[i].rows, cells[i].columns] == i
        pieces = label(visible, connectivity=1).max()  # type: ignore[no-untyped-call]
        if pieces != 1 or visible.sum() < LEAST_VISIBLE * cells[i].footprint.sum():
            return False
    return True


def _truth(cell: Cell, owner: np.ndarray, i: int) -> np.ndarray:
    """The visible part of cell `i` and the one pixel beyond it that lies under its neighbours: bool (H, W)."""
    visible = owner[cell.rows, cell.columns] == i
    mask = np.zeros(owner.shape, dtype=bool)
    mask[cell.rows, cell.columns] = dilation(visible) & cell.footprint
    return mask


def _new_cell(kind: str, center: tuple[float, float], scale: float, warp: np.ndarray, rng: Generator) -> Cell:
    """A cell of random shape and look around `center` (pixels, inside the image), `scale` times the usual size."""
    discs = _blob(scale, rng) if kind == "round" else _limbs(scale, rng)
    reach = float((np.hypot(discs[:, 0], discs[:, 1]) + discs[:, 2]).max())
    spans = ((c - reach - HALO, c + reach + HALO, n) for c, n in zip(center, warp.shape[1:], strict=True))
    rows, columns = (slice(max(0, int(low)), min(n, int(high) + 2)) for low, high, n in spans)
    y, x = np.mgrid[rows, columns] + warp[:, rows, columns]
    return Cell(kind, rows, columns, center, reach, _depth(y - center[0], x - center[1], discs), _greys(kind, rng))


def _depth(y: np.ndarray, x: np.ndarray, discs: np.ndarray) -> np.ndarray:
    """How deep points lie in a union of discs: float64 (h, w), pixels from its outline, negative outside.

    `y`, `x` float64 (h, w): points; `discs` float64 (n, 3): row, column, radius. All in pixels from the cell's centre.
    """
    depth = np.full(y.shape, -np.inf)
    for dy, dx, radius in discs:
        np.maximum(depth, radius - np.sqrt((y - dy) ** 2 + (x - dx) ** 2), out=depth)
    return depth


def _blob(scale: float, rng: Generator) -> np.ndarray:
    """A round or slightly long, lumpy cell, as `discs` of `_depth`."""
    radius, angle = scale * rng.uniform(5.5, 9.0), rng.uniform(0, np.pi)
    along = np.linspace(-1, 1, 7) * radius * rng.uniform(0.05, 0.65)
    radii = radius * (1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, 7) + rng.uniform(-0.12, 0.06, 7)) * 0.95
    across = rng.normal(0, 0.05 * radius, 7)
    return _turned(along, across, radii, angle)


def _limbs(scale: float, rng: Generator) -> np.ndarray:
    """A tapered, bent, sometimes branching cell, as `discs` of `_depth`."""
    half, width = scale * rng.uniform(10, 20), scale * rng.uniform(4.4, 6.4)
    t = np.linspace(-1, 1, 25)
    bend, peak = rng.uniform(-0.3, 0.3) * half, rng.uniform(-0.25, 0.25)
    radii = 0.9 + (width - 0.9) * np.clip(1 - np.abs((t - peak) / (1 + np.abs(peak))), 0, 1) ** rng.uniform(0.7, 1.1)
    parts = [_turned(t * half, bend * (t**2 - 0.3), radii, 0.0)]
    if rng.random() < 0.35:
        s = np.linspace(0, 1, 12)
        length, angle = half * rng.uniform(0.6, 0.8), rng.choice([-1, 1]) * rng.uniform(0.9, 2.2)
        branch = _turned(s * length, 0 * s, 1.0 + 0.6 * width * (1 - s), angle)
        branch[:, :2] += parts[0][12, :2]
        parts.append(branch)
    across, along, radii = np.concatenate(parts).T
    return _turned(along, across, radii, rng.uniform(0, 2 * np.pi))


def _turned(along: np.ndarray, across: np.ndarray, radii: np.ndarray, angle: float) -> np.ndarray:
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([along * sin + across * cos, along * cos - across * sin, radii], axis=1)


def _greys(kind: str, rng: Generator) -> dict[str, float]:
    """A kind's grey levels, each varied, at the cell's own contrast. A fifth are faint: a detector shall doubt them."""
    contrast = rng.uniform(0.38, 0.55) if rng.random() < 0.2 else rng.uniform(0.6, 1.15)
    return {part: grey * contrast * rng.uniform(0.7, 1.3) for part, grey in GREYS[kind].items()}


def _render(cells: Sequence[Cell], size: tuple[int, int], rng: Generator) -> np.ndarray:
    """Grey uint8 (H, W): uneven light, a texture of several scales, debris, the cells in order, blur, sensor noise."""
    light = rng.uniform(112, 142) + 11 * _clouds(size, 110, rng) + 3 * _clouds(size, 35, rng)
    relief = 2.6 * _clouds(size, 9, rng) + 2.2 * _clouds(size, 3, rng)
    _add_debris(relief, rng)
    shine, grain = 1 + 0.3 * _clouds(size, 6, rng), _clouds(size, 2.2, rng)
    for cell in cells:
        _add_cell(relief, cell, shine, grain)
    soft = gaussian(relief, 0.55)  # type: ignore[no-untyped-call]
    image = light + soft * rng.uniform(0.85, 1.1) + rng.normal(0, rng.uniform(2, 4), size)
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.uint8)


def _add_cell(relief: np.ndarray, cell: Cell, shine: np.ndarray, grain: np.ndarray) -> None:
    """Draw one cell over what `relief` (float (H, W), grey levels about the background) shows already, in place."""
    grey, at, (rim_depth, rim_width) = cell.greys, (cell.rows, cell.columns), EDGES[cell.kind]
    depth, inner = cell.depth, np.clip(cell.depth, 0, None)
    cover = np.clip(depth + 0.5, 0, 1)
    rim = grey["rim"] * shine[at] * np.exp(-(((depth - rim_depth) / rim_width) ** 2))
    body = grey["body"] * (1 - np.exp(-inner / 1.6)) + grey["grain"] * grain[at] * cover
    nucleus = grey["nucleus"] * np.exp(-(((inner - 0.85 * inner.max()) / 1.1) ** 2)) * cover * shine[at]
    halo = grey["halo"] * np.exp(np.minimum(depth, 0) / 2.2) * (1 - cover)
    relief[at] = relief[at] * (1 - 0.9 * cover) + rim + body + nucleus + halo


def _add_debris(relief: np.ndarray, rng: Generator) -> None:
    """Specks and out-of-focus smudges that are no cells, in place."""
    for spread, grey, n in ((1.1, 45.0, rng.poisson(8)), (7.0, 9.0, rng.poisson(3))):
        for _ in range(n):
            s, grey_here = spread * rng.uniform(0.7, 1.3), grey * rng.choice([-0.6, 1.0]) * rng.uniform(0.4, 1)
            down, along = (np.exp(-((np.arange(k) - rng.uniform(0, k)) ** 2) / (2 * s * s)) for k in relief.shape)
            relief += grey_here * np.outer(down, along)


def _clouds(size: tuple[int, int], scale: float, rng: Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation about 1 whose grains are `scale` pixels wide: float (H, W)."""
    coarse = Image.fromarray(rng.normal(size=[int(n / scale) + 3 for n in size]).astype(np.float32))
    box = (1, 1, 1 + size[1] / scale, 1 + size[0] / scale)
    return 1.4 * np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box), dtype=np.float64)
