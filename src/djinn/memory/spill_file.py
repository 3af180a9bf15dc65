"""The file of a spilled session: of the form of a saved one, written from host memory and read into it as it lies.

It is safetensors: eight bytes of length, a header in JSON, then the tensors. Its last tensors are a JSON document, with
the digest (sha256) of every other tensor, and the document's own digest. The header is padded, and so is each tensor
by one named ``padding``, so that all begin at a multiple of 4096 bytes. So whole pages are written and read past the
page cache (O_DIRECT), straight between the disk and the caller's memory. Where the system refuses that it is plain I/O.

Several threads work on the tensors, and take digests beside it: each tensor is one thread's. Nothing is synced, for no
file outlives its process. Knows no sessions.
"""

import errno
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_PAGE = 4096  # bytes; no block of a disk is larger
_REQUEST_BYTES = 16 << 20
_THREADS = 8  # at most: a digest takes 0.6 s a GB on one core, more than a fast disk
_BYTES_OF_A_THREAD = 1 << 20  # less is not worth one
DOCUMENT, ITS_DIGEST = "document", "document.sha256"
_NO_DIGEST = "0" * 64

T = TypeVar("T")


class Altered(OSError):
    """The tensor ``name`` in a file has another digest than it should."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(f"{path} is altered: {name} is not what was written")
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Part:
    """A tensor of a file: ``offset`` (in the file) and ``nbytes``, and its ``digest``."""

    name: str
    offset: int
    nbytes: int
    digest: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SpillFile:
    """A file that was written: its ``parts`` in order, and its size."""

    path: Path
    parts: tuple[Part, ...]
    nbytes: int

    def read(self, targets: Sequence[memoryview]) -> None:
        """Read each part into its target of just its size.

        Raises ``OSError`` if the system refuses, or if the file is cut short or altered.
        """
        self._read(list(zip(self.parts, targets, strict=True)))

    def read_one(self, place: int, target: memoryview) -> None:
        """Read the part at ``place`` only."""
        self._read([(self.parts[place], target)])

    def _read(self, wanted: Sequence[tuple[Part, memoryview]]) -> None:
        file = _Open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place would be waited for
        try:
            _side_by_side(lambda one: self._read_part(file, *one), wanted, sum(part.nbytes for part, _ in wanted))
        finally:
            file.close()

    def _read_part(self, file: "_Open", part: Part, target: memoryview) -> None:
        digest = hashlib.sha256()
        for start, end in _requests(part.nbytes):
            file.read(target[start:end], part.offset + start)
            digest.update(target[start:end])
        if digest.hexdigest() != part.digest:
            raise Altered(self.path, part.name)


class Draft:
    """A file before it is written: ``tensors`` are names and bytes, ``document`` is what it says beside them."""

    def __init__(self, tensors: Sequence[tuple[str, memoryview]], document: Mapping[str, object]) -> None:
        self._tensors = tensors
        self._document = document
        self._paddings = [-len(data) % _PAGE for _, data in tensors]
        digests = dict.fromkeys((name for name, _ in tensors), _NO_DIGEST)
        words = self._words(digests)  # as long as they will be
        sizes = [*self._all_sizes(), (DOCUMENT, len(words)), (ITS_DIGEST, 32)]
        header, self._offsets, end = {}, {}, 0
        for name, nbytes in sizes:
            header[name] = {"dtype": "U8", "shape": [nbytes], "data_offsets": [end, end + nbytes]}
            self._offsets[name] = end
            end += nbytes
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % _PAGE)
        self._header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self._header) + end

    def _all_sizes(self) -> Iterable[tuple[str, int]]:
        for number, ((name, data), padding) in enumerate(zip(self._tensors, self._paddings, strict=True)):
            yield name, len(data)
            if padding:
                yield _padding(number), padding

    def _words(self, digests: dict[str, str]) -> bytes:
        paddings = {
            _padding(number): hashlib.sha256(bytes(nbytes)).hexdigest()
            for number, nbytes in enumerate(self._paddings)
            if nbytes
        }
        return json.dumps({**self._document, "sha256": {**digests, **paddings}}, sort_keys=True).encode()

    def write(self, path: Path) -> SpillFile:
        """Write the file to ``path``, where there is none. Raises ``OSError``, and leaves none."""
        file = _Open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        digests: dict[str, str] = {}
        try:
            work = zip(self._tensors, self._paddings, strict=True)
            _side_by_side(lambda one: digests.update([self._write_tensor(file, *one[0], one[1])]), work, self.nbytes)
            words = self._words({name: digests[name] for name, _ in self._tensors})
            file.write(memoryview(words + hashlib.sha256(words).digest()), self._place(DOCUMENT))
            file.write(memoryview(self._header), 0)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            file.close()
        parts = tuple(
            Part(name=name, offset=self._place(name), nbytes=len(data), digest=digests[name])
            for name, data in self._tensors
        )
        return SpillFile(path=path, parts=parts, nbytes=self.nbytes)

    def _place(self, name: str) -> int:
        return len(self._header) + self._offsets[name]

    def _write_tensor(self, file: "_Open", name: str, data: memoryview, padding: int) -> tuple[str, str]:
        offset, digest = self._place(name), hashlib.sha256()
        for start, end in _requests(len(data)):
            digest.update(data[start:end])
            if end - start < _PAGE:  # the last bytes, and what follows them
                file.write(memoryview(bytes(data[start:end]) + bytes(padding)), offset + start)
            else:
                file.write(data[start:end], offset + start)
        return name, digest.hexdigest()


def _padding(number: int) -> str:
    return f"padding/{number}"


def is_padding(name: str) -> bool:
    """Whether the tensor of this name only fills a page."""
    return name.startswith("padding/")


def _requests(nbytes: int) -> Iterable[tuple[int, int]]:
    """Yield the ranges to transfer one by one: whole pages, then the rest."""
    whole = nbytes - nbytes % _PAGE
    for start in range(0, whole, _REQUEST_BYTES):
        yield start, min(start + _REQUEST_BYTES, whole)
    if whole < nbytes:
        yield whole, nbytes


class _Open:
    """An open file, read and written past the page cache as long as the system takes that."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._plain = os.open(path, flags, 0o600)
        self._past_cache: int | None = None
        with suppress(OSError):
            self._past_cache = os.open(path, flags & ~(os.O_CREAT | os.O_EXCL) | os.O_DIRECT)
        self._refused = self._past_cache is None

    def close(self) -> None:
        for handle in (self._plain, self._past_cache):
            if handle is not None:
                os.close(handle)

    def read(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with what stands at ``offset``."""
        self._all(lambda handle, part, at: os.preadv(handle, [part], at), target, offset)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` to ``offset``."""
        self._all(os.pwrite, data, offset)

    def _all(self, transfer: Callable[[int, memoryview, int], int], data: memoryview, offset: int) -> None:
        while len(data):
            done = self._some(transfer, data, offset)
            if not done:
                raise OSError(errno.EIO, "the file is cut short", str(self._path))
            data, offset = data[done:], offset + done

    def _some(self, transfer: Callable[[int, memoryview, int], int], data: memoryview, offset: int) -> int:
        if self._past_cache is not None and not (self._refused or len(data) % _PAGE or offset % _PAGE):
            try:
                return transfer(self._past_cache, data, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._refused = True  # its blocks are larger, or the memory begins at another multiple
        return transfer(self._plain, data, offset)


def _side_by_side(work: Callable[[T], object], items: Iterable[T], nbytes: int) -> None:
    """Call ``work`` for each of ``items``, on several threads if it is about many bytes.

    Raises the first error, when all have stopped.
    """
    left, errors = deque(items), list[BaseException]()

    def go_on() -> None:
        with suppress(IndexError):
            while not errors:
                item = left.popleft()
                try:
                    work(item)
                except BaseException as error:  # noqa: BLE001 - it is raised below
                    errors.append(error)

    count = min(_THREADS, len(left), nbytes // _BYTES_OF_A_THREAD) - 1
    helpers = [threading.Thread(target=go_on, name="djinn-disk-io", daemon=True) for _ in range(count)]
    started = []
    with suppress(RuntimeError):  # a thread that the system refuses leaves its share to this one
        for helper in helpers:
            helper.start()
            started.append(helper)
    go_on()
    for helper in started:
        helper.join()
    if errors:
        raise errors[0]
