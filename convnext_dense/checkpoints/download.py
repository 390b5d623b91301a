"""Atomic downloads that resume where they stopped.

Bytes gather in ``NAME.TAG.partial`` beside the target; TAG is a hash of address,
ETag and size, so that a file that changed on the server starts from zero. The
target appears by atomic rename, after size, kind and checksum were checked, with
``NAME.json``, which records where it came from. Processes that want the same file
wait for each other (:mod:`convnext_dense.support.locks`); a name that another address
has taken gets a hash as prefix.
"""

import contextlib
import glob
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlparse

from convnext_dense.checkpoints.read import looks_like_markup
from convnext_dense.errors import CheckpointError, reason
from convnext_dense.support.files import write_json
from convnext_dense.support.locks import locked

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 1.0, 2.0)  # waits between attempts
TIMEOUT_SECONDS = 30.0  # without any byte
ASK_SECONDS = 5.0  # for a request whose answer is optional
_CHUNK = 1 << 20
_AGAIN = (429, 500, 502, 503, 504)
_INTERRUPTED = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class Remote(NamedTuple):
    """What the server reports about a file: size in bytes if known, ETag or date if any."""

    size: int | None
    version: str
    ranges: bool


def download(url: str, path: Path, sha256: str | None = None, progress: bool = True) -> Path:
    """Download ``url`` to ``path``, or beside it when the name is taken; returns where the file is.

    ``sha256`` is the checksum or its beginning.

    Raises:
        CheckpointError: unreachable, incomplete, a web page, or a wrong checksum.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as alone:
            return _landed(path, url) or _persistent(url, path, sha256, progress, alone)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot download {shown(url)} ({reason(error)})") from error


def remote_size(url: str) -> int | None:
    """Size that the server states for ``url``, in bytes; None where it is unknown."""
    try:
        with _open(url, "HEAD", ASK_SECONDS) as response:
            return _remote(response).size
    except (OSError, ValueError, http.client.HTTPException):
        return None


def record_of(path: Path) -> Path:
    """The file that records where the download ``path`` came from."""
    return path.with_name(f"{path.name}.json")


def record(path: Path, url: str, size: int) -> None:
    """Record that ``path`` is the file of ``url``."""
    write_json(record_of(path), {"url": shown(url), "id": identity(url), "size": size})


def beside(path: Path, url: str) -> Path:
    """Another name for ``url``, where ``path`` is another address's file."""
    return path.with_name(f"{identity(url)[:8]}-{path.name}")


def identity(url: str) -> str:
    """A hash that identifies an address; addresses may hold secrets."""
    return hashlib.sha256(url.encode()).hexdigest()


def shown(url: str) -> str:
    """The address without password and query, which may be secrets."""
    parts = urlparse(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_sha256(path: Path, sha256: str, name: str) -> None:
    """Compare a file's checksum with ``sha256``, a whole checksum or its beginning.

    Raises:
        CheckpointError: they differ, or ``sha256`` is not a checksum.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise CheckpointError(f"sha256 of {name}: {sha256!r} is not 8 to 64 hexadecimal digits")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if not digest.hexdigest().startswith(sha256.lower()):
        raise CheckpointError(
            f"{name} has sha256 {digest.hexdigest()}, not {sha256}: damaged or another file"
        )


def _landed(path: Path, url: str) -> Path | None:
    """The file of ``url``, if another process was faster."""
    places = (path, beside(path, url))
    return next((place for place in places if place.is_file() and recorded(place) == identity(url)), None)


def _persistent(url: str, path: Path, sha256: str | None, progress: bool, alone: bool) -> Path:
    """Several attempts, with waits between them; the last error is raised."""
    waits = iter(RETRY_SECONDS)
    while True:
        try:
            return _attempt(url, path, sha256, progress, alone)
        except _INTERRUPTED as error:
            wait = next(waits, None)
            if wait is None or (isinstance(error, urllib.error.HTTPError) and error.code not in _AGAIN):
                raise
            logger.info("%s: %s; resuming in %s s", shown(url), reason(error), wait)
            time.sleep(wait)


def _attempt(url: str, path: Path, sha256: str | None, progress: bool, alone: bool) -> Path:
    """One connection, or two where a partial file exists to resume."""
    with contextlib.ExitStack() as stack:
        response = stack.enter_context(_open(url))
        remote = _check_answer(url, response)
        partial = _partial(path, url, remote, alone)
        file = stack.enter_context(_appended(partial))
        done = file.seek(0, os.SEEK_END)
        if done and done != remote.size:
            response.close()
            response, done = stack.enter_context(_resumed(url, remote, done))
        if done != remote.size:
            file.truncate(done)
            file.seek(done)
            _copy(response, file, done, remote.size, _progress(path.name, done, remote.size, progress), url)
        file.flush()
        os.fsync(file.fileno())
    if sha256:
        try:
            check_sha256(partial, sha256, shown(url))
        except CheckpointError:
            partial.unlink()  # resuming it could never succeed
            raise
    return _land(partial, path, url, alone)


def _partial(path: Path, url: str, remote: Remote, alone: bool) -> Path:
    """The partial file of this version; without a lock, one that no other process writes."""
    tag = identity(url)[:8] + identity(f"{remote.version} {remote.size}")[:8]
    own = "" if alone else f".{os.getpid()}"
    return path.with_name(f"{path.name}.{tag}{own}.partial")


@contextlib.contextmanager
def _appended(partial: Path) -> Iterator[BinaryIO]:
    """The partial file, open at its end; it is removed if nothing arrives."""
    try:
        with open(partial, "a+b") as file:
            yield file
    finally:
        if partial.is_file() and not partial.stat().st_size:
            partial.unlink(missing_ok=True)


def _land(partial: Path, path: Path, url: str, alone: bool) -> Path:
    """Rename the complete file, write its record, and remove partial files of earlier versions."""
    if path.is_file() and recorded(path) != identity(url):
        path = beside(path, url)
    record(path, url, partial.stat().st_size)
    os.replace(partial, path)
    if alone:  # without a lock, another process may be writing one of them
        for stale in path.parent.glob(f"{glob.escape(_stem(partial.name))}*.partial"):
            stale.unlink(missing_ok=True)
    return path


def _stem(partial: str) -> str:
    """``w.pth.URLHASH`` from ``w.pth.URLHASHVERSION.partial``: shared by all versions of an address."""
    return re.sub(r"[0-9a-f]{8}(\.\d+)?\.partial$", "", partial)


def _open(
    url: str,
    method: str = "GET",
    timeout: float = TIMEOUT_SECONDS,
    headers: Mapping[str, str] | None = None,
) -> http.client.HTTPResponse:
    all_headers = {"User-Agent": "convnext_dense", "Accept-Encoding": "identity", **(headers or {})}
    request = urllib.request.Request(url, headers=all_headers, method=method)
    return urllib.request.urlopen(request, timeout=timeout)


def _remote(response: http.client.HTTPResponse) -> Remote:
    length = response.headers.get("Content-Length", "")
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    ranges = response.headers.get("Accept-Ranges", "").lower() != "none"
    return Remote(int(length) if length.isdigit() else None, version, ranges)


def _check_answer(url: str, response: http.client.HTTPResponse) -> Remote:
    remote = _remote(response)
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise CheckpointError(f"cannot download {shown(url)}: the answer is a web page, not a file")
    if remote.size == 0:
        raise CheckpointError(f"cannot download {shown(url)}: the file there is empty (0 bytes)")
    return remote


@contextlib.contextmanager
def _resumed(url: str, remote: Remote, done: int) -> Iterator[tuple[http.client.HTTPResponse, int]]:
    """A response from byte ``done`` on, or from 0 where the server cannot resume or the file changed."""
    headers = {"Range": f"bytes={done}-"}
    if remote.version and not remote.version.startswith("W/"):
        headers["If-Range"] = remote.version
    can = remote.ranges and remote.size is not None and done < remote.size
    with _open(url, headers=headers if can else None) as response:
        if response.status == 206:
            expected = f"bytes {done}-{remote.size - 1}/{remote.size}" if remote.size else "the whole file"
            if (
                response.headers.get("Content-Range") != expected
                or _remote(response).version != remote.version
            ):
                raise http.client.HTTPException(f"asked for {expected}, got another part or another file")
            logger.info("%s: resuming at byte %d of %d", shown(url), done, remote.size)
            yield response, done
            return
        if _check_answer(url, response)[:2] != remote[:2]:
            raise ConnectionError("the file changed on the server")
        yield response, 0


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    done: int,
    size: int | None,
    report: Callable[[int], None],
    url: str,
) -> None:
    """Read the rest of the body; whatever arrives is kept, so that another attempt can resume."""
    try:
        while chunk := response.read1(_CHUNK):
            if done == 0 and looks_like_markup(chunk[:256]):
                raise CheckpointError(f"cannot download {shown(url)}: the answer is a web page, not a file")
            file.write(chunk)
            done += len(chunk)
            report(len(chunk))
    finally:
        report(-1)
        file.flush()
    if done == 0 or (size is not None and done != size):
        raise ConnectionError(f"incomplete: {done} of {size or 'unknown'} bytes")


def recorded(path: Path) -> str | None:
    """The :func:`identity` in a download's record, if there is one."""
    try:
        return json.loads(record_of(path).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _progress(name: str, done: int, size: int | None, wanted: bool) -> Callable[[int], None]:
    """A function that takes the bytes received, and -1 at the end: tqdm's bar, or a log line at intervals."""
    if not wanted:
        return lambda count: None
    try:
        from tqdm import tqdm
    except (ImportError, OSError, RuntimeError):
        return _log_progress(name, done, size)
    bar = tqdm(total=size, initial=done, unit="B", unit_scale=True, unit_divisor=1024, desc=name)
    return lambda count: bar.close() if count < 0 else bar.update(count)


def _log_progress(name: str, done: int, size: int | None, every: float = 10.0) -> Callable[[int], None]:
    last = time.monotonic()

    def report(count: int) -> None:
        nonlocal done, last
        done += max(count, 0)
        if time.monotonic() - last >= every:
            last = time.monotonic()
            logger.info("%s: %.0f of %s MiB", name, done / 2**20, f"{size / 2**20:.0f}" if size else "?")

    return report
