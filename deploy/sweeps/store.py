"""Where the files of trials go: a folder that all nodes see, or a URL that fsspec knows (s3://, gs://, ...)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from envs.episodes import write_atomically


class Store:
    """A place for files, named by paths relative to it. Raises ValueError, in one line, for one that cannot be reached."""

    def __init__(self, where: str) -> None:
        from fsspec.core import split_protocol, url_to_fs

        protocol, path = split_protocol(where)
        self.where = where if protocol not in (None, "file", "local") else str(Path(path).absolute())
        self.folder = Path(self.where) if self.where.startswith("/") else None
        """The folder, where it is one."""
        try:
            self._files, root = url_to_fs(self.where)
        except (ValueError, ImportError) as error:
            raise ValueError(f"storage {where}: {' '.join(str(error).split())}") from None
        self._root = str(root).rstrip("/")

    def at(self, name: str) -> str:
        """Return the whole name of something, for people."""
        return f"{self.where.rstrip('/')}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def has(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return bool(self._files.exists(self._path(name)))

    def write(self, name: str, tree: Any) -> None:
        """Write JSON: whole, or not there."""
        data = json.dumps(tree, allow_nan=False).encode()
        if self.folder is not None:
            write_atomically(self.folder / name, data)
        else:
            self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> Any:
        """Return what a JSON file holds; None where it is not there."""
        try:
            return json.loads(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def upload(self, folder: Path, name: str) -> None:
        """Put all files of a folder there."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self._files.put_file(str(path), self._path(f"{name}/{path.relative_to(folder).as_posix()}"))

    def download(self, name: str, folder: Path) -> None:
        """Fetch all files of a folder; nothing where it is not there."""
        start = self._files._strip_protocol(self._path(name))
        for path in self._files.find(start):
            target = folder / str(path)[len(start) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(path, str(target))
