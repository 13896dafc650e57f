"""Kaggle through its official client: a contest's files in, a submission and its score out.

The client, kagglehub, is imported only here and only when it is asked for something; it finds the account's token by
itself. What it prints is not shown, since it may hold the token; what goes wrong is said in words of one's own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

INSTALL = "pip install 'maskline[kaggle]'"
TOKEN = (
    "make one at https://www.kaggle.com/settings and put it into the variable KAGGLE_API_TOKEN or the file "
    "~/.kaggle/access_token (or kaggle.json)"
)


def download(contest: str, folder: Path) -> dict[str, str]:
    """Fetch a contest's files into `folder` and unpack them, and the archives among them.

    contest: the last part of its address. Returns the SHA-256 of each table (CSV, JSON) by its path in the folder. A
    download that was broken off goes on where it stopped; nothing is put into `folder` before all is there. InputError
    where the client or a token is missing, the rules are not accepted, the network fails or the disk is full.
    """
    begun = folder.with_name(f".{folder.name}.download")  # beside it: moved on one disk, never copied
    with _words_of_ours(contest, begun), _cache(begun):
        import kagglehub

        found = Path(kagglehub.competition_download(contest))
        for archive in sorted(found.rglob("*.zip")):
            unpack(archive, archive.parent)
            archive.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(found.iterdir()):
            if not (folder / path.name).exists():  # what lies there is somebody's
                os.replace(path, folder / path.name)
    shutil.rmtree(begun)
    tables = [path for path in sorted(folder.glob("*")) if path.suffix in (".csv", ".json")]
    return {path.name: _hash(path) for path in tables}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive: DSB2018 has one in it for each of its folders, without a folder at its root.

    An archive of several things gets a folder of its name. Links in it are unpacked as files that name their target.
    Raises InputError, and unpacks nothing, for a member that would lie outside of `folder`, and for more than fits on
    the disk; and for an archive that is damaged.
    """
    try:
        _unpack(archive, folder)
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile archive makes the reader raise
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        said = f"is no archive that can be unpacked ({error})"
        raise InputError(f"{archive} {said}; delete it and download it again") from None


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        whole, free = sum(entry.file_size for entry in content.infolist()), shutil.disk_usage(folder).free
        if whole > free:
            raise InputError(f"{archive} unpacks to {whole} bytes, and the disk has room for {free}; not unpacked")
        inside = folder if {name.partition("/")[0] for name in names} == {archive.stem} else folder / archive.stem
        for name in names:
            if not (inside / name).resolve().is_relative_to(inside.resolve()):
                raise InputError(f"{archive}: its member {name!r} lies outside of the archive's folder; not unpacked")
        content.extractall(inside)


def submit(contest: str, file: Path, message: str) -> int:
    """Send a submission file to a contest and return its number there. Raises InputError as `download` does."""
    with _words_of_ours(contest, file):
        import requests
        from kagglehub.config import get_kaggle_credentials
        from kagglehub.exceptions import UnauthenticatedError
        from kagglesdk.competitions.types import competition_api_service as types

        if not get_kaggle_credentials():
            raise UnauthenticatedError
        with _client() as client:
            service = client.competitions.competition_api_client
            start = types.ApiStartSubmissionUploadRequest()
            start.competition_name, start.file_name = contest, file.name
            start.content_length = file.stat().st_size
            start.last_modified_epoch_seconds = int(file.stat().st_mtime)
            place = service.start_submission_upload(start)
            with open(file, "rb") as content:
                requests.put(place.create_url, data=content, timeout=600).raise_for_status()
            request = types.ApiCreateSubmissionRequest()
            request.competition_name, request.blob_file_tokens = contest, place.token
            request.submission_description = message
            return int(service.create_submission(request).ref)


def score(
    contest: str, number: int, patience: float = 600, pause: Callable[[float], None] = time.sleep
) -> dict[str, float | None] | None:
    """The public and the private score of a submission, None each where Kaggle does not tell; None while it is pending.

    Asks every ten seconds, `patience` seconds long. Raises InputError where Kaggle could not score it.
    """
    with _words_of_ours(contest, None):
        from kagglesdk.competitions.types import competition_api_service as types

        with _client() as client:
            for _ in range(max(1, round(patience / 10))):
                request = types.ApiListSubmissionsRequest()
                request.competition_name, request.page = contest, 1
                found = client.competitions.competition_api_client.list_submissions(request).submissions
                own = next((one for one in found if one.ref == number), None)
                if own is not None and own.status.name == "COMPLETE":
                    return {"public": _number(own.public_score), "private": _number(own.private_score)}
                if own is not None and own.status.name == "ERROR":
                    raise InputError(f"Kaggle could not score submission {number}: {own.error_description}")
                pause(10)
    return None


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _client() -> Any:
    """The client that kagglehub itself uses, which knows the token; silent."""
    from kagglehub.config import get_kaggle_credentials
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import get_env

    own = get_kaggle_credentials()
    return KaggleClient(env=get_env(), username=own.username, password=own.key, api_token=own.api_key)


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Let the client keep what it has of a download in `folder`; it reads where from its environment alone."""
    name = "KAGGLEHUB_CACHE"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _words_of_ours(contest: str, path: Path | None) -> Iterator[None]:
    """Say what went wrong between here and Kaggle, and what to do; without what the client says, prints or logs."""
    page = f"https://www.kaggle.com/competitions/{contest}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except ImportError as error:
        raise InputError(f"Kaggle's client is not installed ({error.name}); {INSTALL}") from None
    except OSError as error:  # what the network's library raises are such, too
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise InputError(_said(error, status, page, path)) from None
    except Exception as error:
        if type(error).__name__ == "UnauthenticatedError" or "redentials" in str(error):
            raise InputError(f"there is no token of a Kaggle account; {TOKEN}") from None
        if type(error).__name__ == "DataCorruptionError":
            raise InputError(f"{page}: the download was damaged on its way; run the command again") from None
        raise


def _said(error: OSError, status: int | None, page: str, path: Path | None) -> str:
    if error.errno == errno.ENOSPC:
        return f"{path}: the disk is full; make room and run the command again, it goes on where it stopped"
    if status == 401:
        return f"Kaggle refuses the token of the account; {TOKEN}"
    if status == 403:
        return f"{page}: Kaggle does not let this account in; accept the contest's rules at {page}/rules"
    if status == 404:
        return f"{page}: Kaggle knows no such contest"
    if status is not None:
        return f"{page}: Kaggle answers with status {status}; if it refuses files, the contest wants a notebook"
    if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
        return f"{page}: no connection to Kaggle; run the command again when there is, it goes on where it stopped"
    return f"{error.filename or path}: {error.strerror}"


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
