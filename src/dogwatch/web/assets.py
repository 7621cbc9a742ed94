"""The static files: read once, addressed by their content, so that browsers may keep them for good."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

import msgspec

from dogwatch.rules.reasons import REASONS
from dogwatch.web.bundle import bundle, said
from dogwatch.words import LANGUAGES, words

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "md": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "webmanifest": "application/manifest+json",
}


class Asset(msgspec.Struct, frozen=True):
    """One static file. packed: gzip of it, or None where that is not smaller."""

    content: bytes
    packed: bytes | None
    media_type: str


class Assets:
    """All static files. version: a hash over all of them, part of every address."""

    def __init__(self, files: dict[str, bytes]) -> None:
        digest = hashlib.sha256()
        self._files: dict[str, Asset] = {}
        for name, content in sorted(files.items()):
            digest.update(name.encode() + b"\0" + content + b"\0")
            packed = gzip.compress(content, 9, mtime=0)
            media_type = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
            self._files[name] = Asset(content, packed if len(packed) < len(content) else None, media_type)
        self.version = digest.hexdigest()[:12]

    @property
    def sheet(self) -> str:
        """Return the style sheet. Pages carry it in themselves, and are painted without waiting for another answer."""
        return self._files["console.css"].content.decode()

    @property
    def sheet_digest(self) -> str:
        """Return what a content security policy calls the style sheet by."""
        return "sha256-" + base64.b64encode(hashlib.sha256(self.sheet.encode()).digest()).decode()

    def find(self, name: str) -> Asset | None:
        """Return a file by its name below static/; only what was there at the start is ever served."""
        return self._files.get(name)

    def url(self, name: str) -> str:
        """Return the address of a file, for templates.

        Raises: KeyError for a file that does not exist.
        """
        if name not in self._files:
            raise KeyError(name)
        return f"/static/{self.version}/{name}"

    @property
    def size_bytes(self) -> int:
        return sum(len(asset.content) for asset in self._files.values())


def load_assets() -> Assets:
    """Read the package's static files."""
    files: dict[str, bytes] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            else:
                files[prefix + entry.name] = entry.read_bytes()

    collect(resources.files("dogwatch.web") / "static", "")
    return Assets({**files, **joined(files)})


def joined(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what pages need: one style sheet, and one script for each language."""
    modules = {name: content.decode() for name, content in files.items() if name.endswith(".js") and "/" not in name}
    library, own = files["vendor/htmx.min.js"], bundle(modules, "app.js").encode()
    texts = sorted(said(modules))
    found = {"console.css": files["vendor/uPlot.min.css"] + b"\n" + files["style.css"]}
    for language in LANGUAGES:
        catalogue = words(language).catalogue
        known = {text: catalogue[text] for text in texts if text in catalogue}
        known |= {f"reason:{word}": str(words(language).said(text)) for word, text in REASONS.items()}
        spoken = b"globalThis.DOGWATCH_WORDS = %s;\n" % msgspec.json.encode(known)
        found[f"console.{language}.js"] = b"\n".join((library, spoken + own))
    return found
