"""What can befall a training or a prediction from outside: no memory, a process that is killed, a GPU that fails."""

from __future__ import annotations

from pipeline.errors import InputError

_IN_WORKER = "Caught InputError in DataLoader worker"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full: of the GPU, of the CPU's allocator, of Python."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def told(error: Exception) -> Exception:
    """An InputError that says what has befallen a training; any other error as it is."""
    text, on = str(error), "The same command goes on from where it was saved last"
    first = (text.strip().splitlines() or [repr(error)])[0]
    if isinstance(error, InputError):  # one of a data-loading process brings its traceback along
        return InputError(text.rpartition("InputError: ")[2].strip()) if text.startswith(_IN_WORKER) else error
    if is_out_of_memory(error):
        less = "trainer.batch_size=1 (with trainer.accumulate=N), a smaller augment.crop or fewer model.proposals"
        return InputError(f"out of memory: {first}\n{on}; in a run of its own, run=NAME, {less} need less of it")
    dead = _dead_worker(error)
    if dead:
        ways = "trainer.workers=0 does without such processes, and changes no result"
        return InputError(f"a data-loading process has ended, perhaps for want of memory: {dead}\n{on}; {ways}")
    if "CUDA error" in text and "device-side assert" not in text:
        return InputError(f"the GPU has failed: {first}\n{on}")
    return error


def _dead_worker(error: BaseException | None) -> str:
    """What torch says of a data-loading process that died: anywhere, for it says so by a signal, and in any words."""
    while error is not None:
        said = str(error).strip()
        if "DataLoader worker" in said and ("killed by signal" in said or "exited unexpectedly" in said):
            return said.splitlines()[0]
        error = error.__context__
    return ""
