"""Files: written whole or not at all, and read only where they still are what was written.

A file is written under another name, brought to the disk and renamed: whatever ends the process
leaves the one before or the new one. Digests (SHA-256) tell a damaged file from a whole one: a
record carries that of its content, a sealed folder those of all its files.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wound_jax.errors import UserError

SEAL = "digests.json"
_PART = ".part"
# What a spreadsheet takes for the beginning of a formula, in full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Of a SHA-256 as text.
_DIGITS = 64


class DamagedFile(UserError):
    """A file is not what was written: changed, cut short, or gone."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write to, `PATH.part`, that becomes `path` when all went well.

    Where something went wrong nothing stays, and what was at `path` before is still there.

    Raises:
        UserError: something that is no regular file is at `path`, or the disk refuses the file.
    """
    # What a link points to is replaced, not the link.
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a folder or a device, no regular file; name another file.")
    part = path.with_name(path.name + _PART)
    try:
        yield part
        _to_disk(part)
        part.replace(path)
        _to_disk(path.parent)
    except BaseException as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise UserError(f"{path} could not be written: {reason(e)}.") from e
        raise


@contextmanager
def sealing(folder: Path, of: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill, `FOLDER.part`, that becomes `folder` with the digests of its files.

    Args:
        folder: is not there yet.
        of: what its files belong to; `require_sealed` compares it.

    Raises:
        UserError: the disk refuses a file.
    """
    part = folder.with_name(folder.name + _PART)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        write_record(part / SEAL, {"of": dict(of), "files": _digests(part)})
        for path in _files(part):
            _to_disk(path)
        part.replace(folder)
        _to_disk(folder.parent)
    except BaseException as e:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(e, OSError):
            raise UserError(f"{folder} could not be written: {reason(e)}.") from e
        raise


def require_sealed(folder: Path) -> dict[str, Any]:
    """What the files of a sealed folder belong to, when each has been found as it was written.

    Raises:
        DamagedFile: one is not.
    """
    seal = read_record(folder / SEAL)
    there, written = _digests(folder), seal["files"]
    for name in sorted({*there, *written}):
        if name not in there:
            raise DamagedFile(f"{folder / name} is missing.")
        if name not in written:
            raise DamagedFile(f"{folder / name} does not belong there.")
        if there[name] != written[name]:
            raise DamagedFile(f"{folder / name} is damaged: it is not what was written (SHA-256).")
    return seal["of"]


def require_place(path: str | Path) -> None:
    """Refuses, before the work, a file or a folder that could not be written after it.

    Raises:
        UserError: a device is in its place, or its folder is none, or may not be written.
    """
    path = Path(path).absolute()
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a device or a pipe, no regular file; name another file.")
    folder = next(at for at in (path, *path.parents) if at.exists())
    folder = folder.parent if folder == path and path.is_file() else folder
    if not folder.is_dir():
        raise UserError(f"{path} cannot be made: {folder} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {folder} is read-only for you; name another.")


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, where they are not there.

    Raises:
        UserError: the disk refuses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"the folder {folder} could not be made: {reason(e)}.") from e


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file (UTF-8)."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to a compressed npz file, which ends with the digest of what lies before."""
    import numpy as np

    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    # The digest is the comment of the zip file; its last two bytes are the length of that.
    content = written.getvalue()[:-2] + _DIGITS.to_bytes(2, "little")
    with replacing(path) as part:
        part.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays that `write_arrays` wrote.

    Raises:
        DamagedFile: the file is missing, or not as it was written.
    """
    import numpy as np

    written = _bytes(path)
    content, digest = written[:-_DIGITS], written[-_DIGITS:]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DamagedFile(f"{path} is damaged: it is not what was written (SHA-256).")
    with np.load(io.BytesIO(written), allow_pickle=False) as arrays:
        return dict(arrays)


def inert(value: Any) -> Any:
    """A value of a CSV file; a text that a spreadsheet would compute gets a quote before it.

    Such a text begins with one of `= + - @`, a tab or a line end (owasp.org, CSV Injection); a
    number stays one, and so does a text that is read as one.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with the digest of its content."""
    sealed = {**content, "digest": _digest_of(content)}
    write_text(path, json.dumps(sealed, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a file that `write_record` wrote.

    Raises:
        DamagedFile: it is missing, or not as it was written.
    """
    content = read_json(path)
    digest = content.pop("digest", None)
    if digest != _digest_of(content):
        raise DamagedFile(f"{path} is damaged or was edited: its digest does not fit it.")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DamagedFile: the file is missing, or holds none.
    """
    try:
        content = json.loads(_bytes(path))
    except ValueError as e:
        raise DamagedFile(f"{path} is damaged: it is not valid JSON ({e}).") from e
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: it holds no JSON object.")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise DamagedFile(f"{path} is missing.") from e
    except OSError as e:
        raise DamagedFile(f"{path} cannot be read: {reason(e)}.") from e


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    return error.strerror or str(error)


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(content, sort_keys=True))


def _digests(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, by its name there."""
    files = [path for path in _files(folder) if path != folder / SEAL]
    # hashlib works beside other threads.
    with ThreadPoolExecutor() as threads:
        return dict(
            zip(
                (path.relative_to(folder).as_posix() for path in files),
                threads.map(file_digest, files),
                strict=True,
            )
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _to_disk(path: Path) -> None:
    """Waits until the disk has a file, or what a folder lists."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
