"""The index of known files: headers, hashes and captions from earlier runs, in one SQLite file."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from filelock import FileLock

RACY_NS = 2_000_000_000
"""A file that was changed this shortly before reading may change again within one clock tick."""

_LAYOUT = 1  # raise it when tables change, or when the same file would give other values
_TABLES = (
    "pictures (path BLOB PRIMARY KEY, bytes, mtime_ns, ctime_ns, content, width, height, alpha,"
    " animated)",
    "captions (path BLOB PRIMARY KEY, bytes, mtime_ns, ctime_ns, text)",
    "facts (kind, content, value, PRIMARY KEY (kind, content))",
)
_QUERY_KEYS = 900  # older builds of SQLite take 999 values at once

Item = TypeVar("Item")


class FileKey(NamedTuple):
    """Path, size and times of a file; any write to the file gives another key."""

    path: str  # absolute, as the system has it
    num_bytes: int
    mtime_ns: int
    ctime_ns: int

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(os.sep)[2]


class PictureFacts(NamedTuple):
    """Header and content hash of an intact picture file."""

    content: str  # hex SHA-256 of the bytes
    width: int  # upright, as the height
    height: int
    has_alpha: bool
    is_animated: bool


class FileIndex:
    """Facts of files by path and change time, and facts that follow from a file's bytes by hash.

    Faulty files are not kept, since the fault may be in the reader: they are read again at each
    start. Rows of deleted files stay (some 250 bytes each). Several processes of one machine may
    use one file at once. A run works without the index where it cannot be used; ``notes`` says why.

    Args:
        path: The database, made with its folder if missing; ``None``: in memory.
        wait_s: Seconds to wait for another process that writes.

    Attributes:
        notes: One line for each time that the file was recreated or could not be used.
    """

    def __init__(self, path: Path | None, wait_s: float = 30.0) -> None:
        self.notes: list[str] = []
        self._path = path
        self._wait_s = wait_s
        self._connection = self._opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the index cannot be used any more."""
        self._connection.close()

    def pictures(self, files: Sequence[FileKey]) -> dict[str, PictureFacts]:
        """Path -> facts, of the known and unchanged files."""
        return {
            path: PictureFacts(content, width, height, bool(alpha), bool(animated))
            for path, (content, width, height, alpha, animated) in self._known("pictures", files)
        }

    def captions(self, files: Sequence[FileKey]) -> dict[str, str]:
        """Path -> text, of the known and unchanged files."""
        return {path: text for path, (text,) in self._known("captions", files)}

    def store_pictures(self, facts: Mapping[FileKey, PictureFacts], read_ns: int) -> None:
        """Keep facts of picture files.

        Args:
            facts: By file.
            read_ns: When reading began, on the clock of ``time.time_ns``. Files changed less than
                ``RACY_NS`` before that are not kept.
        """
        self._store_files("pictures", facts, read_ns)

    def store_captions(self, texts: Mapping[FileKey, str], read_ns: int) -> None:
        """Keep texts of caption files; ``read_ns`` as in :meth:`store_pictures`."""
        self._store_files("captions", {file: (text,) for file, text in texts.items()}, read_ns)

    def facts(self, kind: str, contents: Sequence[str]) -> dict[str, str]:
        """Content hash -> value, of those that are known.

        Args:
            kind: Kind of value, such as ``phash``.
            contents: Hashes of the bytes that the values follow from.
        """
        found: dict[str, str] = {}
        for part in _parts(contents):
            sql = f"SELECT content, value FROM facts WHERE kind = ? AND content IN ({_marks(part)})"
            found.update(self._read(sql, [kind, *part]))
        return found

    def store_facts(self, kind: str, mapping: Mapping[str, str]) -> None:
        """Keep values that follow from bytes alone, by the hash of the bytes."""
        rows = [(kind, content, value) for content, value in mapping.items()]
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)

    def _known(self, table: str, files: Sequence[FileKey]) -> Iterator[tuple[str, Sequence[Any]]]:
        for part in _parts(files):
            # bytes: a name on Linux need not be text
            wanted = {os.fsencode(file.path): file for file in part}
            sql = f"SELECT * FROM {table} WHERE path IN ({_marks(part)})"
            for path, num_bytes, mtime_ns, ctime_ns, *values in self._read(sql, list(wanted)):
                file = wanted[path]
                if (num_bytes, mtime_ns, ctime_ns) == file[1:]:
                    yield file.path, values

    def _store_files(
        self, table: str, values: Mapping[FileKey, Sequence[object]], read_ns: int
    ) -> None:
        rows = [
            (os.fsencode(file.path), *file[1:], *own)
            for file, own in values.items()
            if file.mtime_ns <= read_ns - RACY_NS
        ]
        if rows:
            self._write(f"INSERT OR REPLACE INTO {table} VALUES ({_marks(rows[0])})", rows)

    def _read(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._mend(error)
            return []

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            with self._connection:
                self._connection.executemany(sql, rows)
        except sqlite3.DatabaseError as error:
            self._mend(error)
            self._write(sql, rows)

    def _mend(self, error: sqlite3.DatabaseError) -> None:
        """Continue after an error: once with a new file if it is damaged, else in memory."""
        if self._path is None or isinstance(error, sqlite3.ProgrammingError):
            raise error
        self._connection.close()
        if _is_damage(error) and not self.notes:
            self._connection = self._opened(error)
        else:
            self._connection = self._done_without(error)

    def _done_without(self, error: Exception) -> sqlite3.Connection:
        self.notes.append(f"{self._path}: the index of files is not used in this run ({error})")
        self._path = None
        return _connected(":memory:")

    def _opened(self, damage: sqlite3.DatabaseError | None = None) -> sqlite3.Connection:
        if self._path is None:
            return _connected(":memory:")
        try:
            lock = Path(f"{self._path}.lock")
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()  # an error if that is not possible; filelock may wait instead
            with FileLock(lock, timeout=self._wait_s):
                return self._opened_alone(self._path, damage)
        except (sqlite3.DatabaseError, OSError) as error:
            return self._done_without(error)

    def _opened_alone(self, path: Path, damage: sqlite3.DatabaseError | None) -> sqlite3.Connection:
        if damage is None:
            try:
                return _connected(path, self._wait_s)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                damage = error
        self.notes.append(f"{path}: the index of files was damaged ({damage}) and is created again")
        for ending in ("", "-wal", "-shm", "-journal"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
        return _connected(path, self._wait_s)


def _connected(path: Path | str, wait_s: float = 0.0) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=wait_s)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # stays as it was where WAL cannot be
        connection.execute("PRAGMA synchronous = NORMAL")
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout != _LAYOUT:
            with connection:
                for table in _TABLES:
                    connection.execute(f"DROP TABLE IF EXISTS {table.split()[0]}")
                    connection.execute(f"CREATE TABLE {table} WITHOUT ROWID")
                connection.execute(f"PRAGMA user_version = {_LAYOUT}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds in detail
    return primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _QUERY_KEYS):
        yield items[start : start + _QUERY_KEYS]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
