"""Builds the modules of dogwatch.daemon.compiled with mypyc into src/dogwatch/_compiled/, or says why it cannot.

Without a compiler this is no error: everything runs from its sources. Exit codes: 0, 1 if it failed, 3 with --strict
where nothing can be built.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from dogwatch.daemon import compiled  # noqa: E402 - from this checkout, installed or not

BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup

out, work, *sources = sys.argv[1:]
modules = mypycify(["--config-file", "mypy.ini", *sources], opt_level="2", debug_level="0", target_dir=work)
steps = ["-q", "build_ext", "--build-lib", out, "--build-temp", work, "-j4"]
setup(name="compiled", packages=[], ext_modules=modules, script_args=steps)
"""
# As in pyproject.toml, which setuptools would take for its own where it lies in the same folder.
CONFIG = """
[mypy]
strict = True
follow_imports = silent
ignore_missing_imports = True
"""


def lacking() -> str:
    """Return what this machine has not got, or ""."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        return "there is no C compiler"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers are not installed"
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    return ""


def build(folder: Path) -> None:
    """Raises: CalledProcessError; folder is as it was then."""
    with tempfile.TemporaryDirectory(prefix="dogwatch-compile-") as name:
        work = Path(name)
        shutil.copytree(ROOT / "src", work / "src", ignore=shutil.ignore_patterns("__pycache__", "_compiled", "static"))
        (work / "mypy.ini").write_text(CONFIG)
        prints = {module: compiled.fingerprint(compiled.source_of(module)) for module in compiled.MODULES}
        sources = [str(compiled.source_of(module).relative_to(ROOT)) for module in compiled.MODULES]
        subprocess.run(
            [sys.executable, "-c", BUILD, "out", "build", *sources],
            check=True, cwd=work, env={"PATH": "/usr/bin:/bin:/usr/local/bin", "MYPYPATH": "src", "CFLAGS": "-g0"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        built = work / "built"
        built.mkdir()
        files = {}
        for path in (work / "out").rglob(f"*{compiled.suffix()}"):
            module = ".".join(path.relative_to(work / "out").parts).removesuffix(compiled.suffix())
            files[module] = f"{module}.so"
            shutil.copy(path, built / files[module])
        manifest = compiled.Manifest(suffix=compiled.suffix(), files=files, sources=prints)
        (built / compiled.MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(built, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-needed", action="store_true", help="do nothing where what is there still fits")
    parser.add_argument("--strict", action="store_true", help="fail where nothing can be built")
    options = parser.parse_args()
    if options.if_needed and not isinstance(compiled.usable(), str):
        return 0
    if why := lacking():
        print(f"nothing is compiled: {why}; everything runs from its sources", file=sys.stderr)
        return 3 if options.strict else 0
    started_s = time.monotonic()
    try:
        build(compiled.FOLDER)
    except subprocess.CalledProcessError as error:
        print(error.stdout.decode(errors="replace")[-3000:], file=sys.stderr)
        return 1
    print(f"compiled {len(compiled.MODULES)} modules in {time.monotonic() - started_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
