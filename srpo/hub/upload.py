"""Writing to the Hugging Face Hub: a new repository, private until its owner publishes it.

The token is the one that huggingface_hub finds (HF_TOKEN, or a saved login), and has to have the right to write.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from srpo.errors import ConfigError, UnreachableError
from srpo.hub.hf import TRANSIENT
from srpo.hub.listing import CARD

REFUSED = {401, 403}
MADE_BY_THE_HUB = {".gitattributes"}


class HubRepository:
    """`hf://owner/name`, to be written."""

    def __init__(self, to: str) -> None:
        match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)", to.rstrip("/"))
        if match is None:
            raise ConfigError(f"--to {to}: name a repository, hf://OWNER/NAME")
        self.to, self.name = to, match[1]
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/"))

    def create(self) -> None:
        """Make it, unless it is there and empty; ConfigError if it may not be written, or holds something."""
        with self._explained():
            self.api.create_repo(self.name, private=True, exist_ok=True)
            there = self.api.model_info(self.name, revision="main").siblings or []
        if files := sorted({file.rfilename for file in there} - MADE_BY_THE_HUB):
            raise ConfigError(f"--to {self.to} holds {files[0]} already; give a new name")

    def upload(self, folder: Path) -> None:
        """All files of a folder, the card last: where it is, all is."""
        with self._explained():
            self.api.upload_folder(repo_id=self.name, folder_path=folder, ignore_patterns=[CARD])
            self.api.upload_file(repo_id=self.name, path_or_fileobj=folder / CARD, path_in_repo=CARD)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Refusals as ConfigError, what may pass as UnreachableError; no addresses, no tokens."""
        try:
            yield
        except LocalTokenNotFoundError:
            raise self._refused("no token") from None
        except OfflineModeIsEnabled:
            raise ConfigError(f"--to {self.to}: HF_HUB_OFFLINE is set; unset it") from None
        except httpx2.TransportError as error:
            raise UnreachableError(
                f"--to {self.to} cannot be reached now ({type(error).__name__}); try again"
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in TRANSIENT:
                raise UnreachableError(f"--to {self.to} cannot be written now (status {status}); try again") from None
            if status in REFUSED:
                raise self._refused(f"status {status}") from None
            raise ConfigError(f"--to {self.to}: the hub refuses it with status {status}; check the name") from None

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"--to {self.to}: you may not write there ({reason}); set HF_TOKEN to a token with the right to write, or "
            "run `hf auth login`"
        )
