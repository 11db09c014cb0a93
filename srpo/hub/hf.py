"""`hf://owner/name[@revision][/file]`: repositories of the Hugging Face Hub, pinned to a commit.

The token is the one that huggingface_hub finds (HF_TOKEN, or a saved login); it goes to the hub alone, never into a
message.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from srpo.errors import ConfigError, UnreachableError
from srpo.hub.listing import INDEX, Listing, OfflineError, RemoteFile, needed, safe_path

SCHEME = "hf://"
PATTERN = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@/]+))?(/(?P<file>.+))?")
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class HfOrigin:
    """A repository of models at one revision, or one file of it."""

    def __init__(self, source: str) -> None:
        match = PATTERN.fullmatch(source.rstrip("/"))
        if match is None:
            raise ConfigError(f"{source!r} is no Hugging Face source; write hf://owner/name[@revision][/file]")
        self.source = source
        self.repo, self.revision, self.file = match["repo"], match["revision"] or "main", match["file"]
        self.name = SCHEME + self.repo
        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")

    def listing(self) -> Listing:
        """The needed files of the commit that the revision names now; refuses a repository that may not be read."""
        info = self._info
        announced = {entry.rfilename: entry for entry in info.siblings or []}
        wanted = {self.file} if self.file else set(announced)
        if absent := wanted - set(announced):
            raise ConfigError(f"{self.source}: {self.name} at {self.revision} has no file {absent.pop()}")
        if not self.file:
            wanted = needed(announced, lambda: b"".join(self.read(RemoteFile(path=INDEX, size=0), 0)))
        files = (
            RemoteFile(
                path=safe_path(path, self.source),
                size=entry.size or 0,
                version=entry.blob_id or "",
                sha256=entry.lfs.sha256 if entry.lfs else "",
            )
            for path, entry in sorted(announced.items())
            if path in wanted
        )
        return Listing(
            source=self.source,
            origin=self.name,
            single=self.file is not None,
            revision=info.sha or "",
            licence=_licence(info),
            files=tuple(files),
        )

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The content from byte `start` on."""
        url = hf_hub_url(self.repo, file.path, revision=self._info.sha, endpoint=self.endpoint)
        headers = build_hf_headers() | {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
        if not start:
            del headers["Range"]
        try:
            with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
                hf_raise_for_status(answer)
                skip = start if answer.status_code == 200 else 0  # a server without ranges sends all of it again
                for chunk in answer.iter_bytes():
                    yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except (HfHubHTTPError, httpx2.TransportError) as error:
            raise self._explain(error) from None

    def at_hand(self, file: RemoteFile) -> Path | None:
        """The file in the Hugging Face cache of this machine."""
        found = try_to_load_from_cache(self.repo, file.path, revision=self._info.sha)
        return Path(found).resolve() if isinstance(found, str) else None

    @cached_property
    def _info(self) -> ModelInfo:
        """What the hub says of the revision; asked once, so that all files are of the same commit."""
        api = HfApi(endpoint=self.endpoint)
        try:
            info = api.model_info(self.repo, revision=self.revision, files_metadata=True)
            if info.gated:
                api.auth_check(self.repo)
        except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.TransportError) as error:
            raise self._explain(error) from None
        return info

    def _explain(self, error: Exception) -> Exception:
        """One sentence without addresses or tokens: a ConfigError, or where another try may help UnreachableError."""
        page = f"{self.endpoint}/{self.repo}"
        if isinstance(error, GatedRepoError):
            return ConfigError(
                f"{self.source} is gated: accept its licence at {page}, then set HF_TOKEN or run `hf auth login`"
            )
        if isinstance(error, RevisionNotFoundError):
            return ConfigError(f"{self.source}: {self.name} has no revision {self.revision!r}; see {page}/commits/main")
        if isinstance(error, EntryNotFoundError):
            return ConfigError(f"{self.source}: {self.name} lacks a file that it lists; choose another revision")
        if isinstance(error, RepositoryNotFoundError):
            return ConfigError(
                f"{self.source}: no repository that this token may read; check the name at {page}, or log in"
            )
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in TRANSIENT:
            return ConfigError(f"{self.source}: the hub refuses it with status {error.response.status_code}")
        if isinstance(error, OfflineModeIsEnabled):
            return OfflineError(f"{self.source} cannot be reached because HF_HUB_OFFLINE is set; unset it")
        return UnreachableError(f"{self.source} cannot be reached now ({type(error).__name__}); try again later")


def _licence(info: ModelInfo) -> str:
    """The name that the card gives, where it is more than `other`."""
    card = info.card_data.to_dict() if info.card_data else {}
    return str(card.get("license_name") or card.get("license") or "")
