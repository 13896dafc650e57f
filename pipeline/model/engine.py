"""Lightning's engine as this pipeline drives it: its callbacks, its log, its manners."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pipeline.errors import Ended
from pipeline.instances import Detections
from pipeline.model.averaging import Averaging, last_epochs, moving
from pipeline.model.callbacks import Checkpoint, EarlyStopping, History, Pictures, Progress
from pipeline.model.faults import told
from pipeline.model.training import Trainer, precision
from pipeline.model.weights import save_whole

log = logging.getLogger(__name__)


def build_trainer(
    spec: Trainer,
    folder: Path,
    info: Mapping[str, Any],
    quiet: bool,
    validates: bool = True,
    logger: Callable[..., Logger] | None = None,
    draw: Callable[[Path, Sequence[Detections]], None] | None = None,
) -> lightning.Trainer:
    """The engine for a run in `folder`, which gets last.ckpt, best.pt, history.csv and a TensorBoard log.

    validates: false for a training on all images. logger: makes another log of the run. draw: writes a picture of some
    detections, for a folder of `pictures`.
    """
    averaging = _averaging(spec)
    figure = spec.select if validates and spec.select != "last" else None
    callbacks: list[Callback] = [History(folder / "history.csv"), Checkpoint(folder, info, figure, averaging)]
    if averaging is not None:
        callbacks.insert(0, averaging)
    if spec.patience is not None and validates:
        monitor = f"validation_{figure or 'score'}"
        stop = EarlyStopping(monitor, mode="max", patience=spec.patience, check_on_train_epoch_end=False)
        callbacks.insert(0, stop)
    if spec.pictures and draw is not None and validates:
        callbacks.append(Pictures(folder / "pictures", draw))
    return lightning.Trainer(
        accelerator=spec.accelerator,
        devices=spec.devices,
        num_nodes=spec.nodes,
        strategy=spec.strategy,
        precision=precision(spec.precision, spec.accelerator),  # type: ignore[arg-type]
        max_steps=spec.steps,
        max_epochs=-1,
        limit_train_batches=spec.epoch_steps * spec.accumulate,
        gradient_clip_val=spec.gradient_clip,
        accumulate_grad_batches=spec.accumulate,
        callbacks=[*callbacks, Progress(quiet)],
        logger=TensorBoardLogger(str(folder), name="", version="tensorboard") if logger is None else logger(),
        default_root_dir=str(folder),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        plugins=[WholeFiles()],
    )


class WholeFiles(TorchCheckpointIO):
    """Checkpoints written beside their final place; Lightning's own go through a file in the system's folder for
    temporary ones, where a process that is killed leaves it for ever.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_whole(Path(path), checkpoint)


def _averaging(spec: Trainer) -> Averaging | None:
    """What averages the weights of a training, if anything does."""
    if spec.ema is not None:
        return Averaging(moving(spec.ema))
    if spec.average_last is not None:
        return Averaging(last_epochs(spec.average_last, spec.steps, spec.epoch_steps))
    return None


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Lightning's tips and its advice on loaders are not for users of this pipeline; its warnings of trouble are.

    What befalls a training from outside gets a message of its own; so does an end (SIGTERM) before its first step, of
    which Lightning's own status is that of success.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Figures of a validation are the same in every process already, so nothing is to be averaged.
            tips = ("does not have many workers", "LeafSpec", "treespec", "lr_scheduler.step", "sync_dist=True")
            tips += ("checkpoint that ended before the epoch ended",)  # the order of samples takes care of that
            for message in (f".*{tip}.*" for tip in tips):
                warnings.filterwarnings("ignore", message=message)
            yield
    except SIGTERMException:
        raise Ended(signal.SIGTERM) from None
    except Exception as error:
        said = told(error)
        if said is error:
            raise
        raise said from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
