"""What a folder of the durable copy holds."""

from typing import Literal, Self

from srpo.artifacts import FileEntry
from srpo.strict import Strict

NAME = "manifest.json"


class FolderManifest(Strict):
    """All files of one folder; where it is, they are."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    files: tuple[FileEntry, ...] = ()

    def __contains__(self, entry: FileEntry) -> bool:
        return entry in self.files

    def with_files(self, entries: tuple[FileEntry, ...]) -> Self:
        """These files added; those of the same name give way."""
        files = {entry.path: entry for entry in (*self.files, *entries)}
        return self.model_copy(update={"files": tuple(files[path] for path in sorted(files))})
