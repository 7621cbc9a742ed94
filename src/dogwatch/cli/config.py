"""`dogwatch config check | show | schema` and `dogwatch init`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.errors import ConfigError, Conflict, DogwatchError, Problem, UsageError

if TYPE_CHECKING:
    from dogwatch.config.build import Catalog
    from dogwatch.config.load import Loaded, Loader
    from dogwatch.config.overrides import Override
    from dogwatch.config.section import Section
    from dogwatch.config.show import Row

Sections = Callable[[], "Sequence[Section[Any]]"]

# Where a configuration is looked for when neither --config nor DOGWATCH_CONFIG says.
DEFAULT_PATHS = ("dogwatch.yaml", "dogwatch.yml", "/etc/dogwatch/dogwatch.yaml", "/etc/dogwatch")

_config_option = click.option(
    "-c",
    "--config",
    "paths",
    multiple=True,
    metavar="PATH",
    help="File or folder; may be repeated. Default: $DOGWATCH_CONFIG, ./dogwatch.yaml, /etc/dogwatch.",
)
_set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting: --set server.listen=:8080."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def find_paths(given: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the configuration's files and folders: as given, else by the environment, else where it usually is.

    Raises: UsageError if there is none.
    """
    if given:
        return list(given)
    named = [path for path in environ.get("DOGWATCH_CONFIG", "").split(os.pathsep) if path]
    if named:
        return named
    for path in DEFAULT_PATHS:
        if Path(path).exists():
            return [path]
    raise UsageError("there is no configuration", hint="`dogwatch init` writes one; -c names one elsewhere")


def parse_settings(settings: Sequence[str]) -> list[Override]:
    """Return the overrides of `--set server.listen=…`. Raises: UsageError."""
    from dogwatch.config.overrides import Override

    overrides = []
    for setting in settings:
        key, separator, value = setting.partition("=")
        path = tuple(key.split("."))
        if not separator or not all(path):
            raise UsageError(f"'{setting}' is not KEY=VALUE", hint="write --set server.listen=:8080")
        overrides.append(Override(path, value, f"--set {key}"))
    return overrides


def commands(sections: Sections) -> dict[str, click.Command]:
    """Return the commands by name. sections: called when a command runs, so that help stays fast."""

    def loader(paths: Sequence[str], settings: Sequence[str]) -> Loader:
        from dogwatch.config.load import Loader

        environ = dict(os.environ)
        return Loader(find_paths(paths, environ), sections(), environ=environ, overrides=parse_settings(settings))

    @click.group()
    def config() -> None:
        """Check the configuration, show it, print its schema.

        \b
        Examples:
          dogwatch config check
          dogwatch config show --origin
        """

    @config.command()
    @_config_option
    @_set_option
    @_json_option
    def check(paths: Sequence[str], settings: Sequence[str], as_json: bool) -> int:
        """Check the configuration and tell every mistake at once. Exits with 2 if there is one.

        \b
        Example:
          dogwatch config check -c /etc/dogwatch
        """
        return _check(loader(paths, settings), as_json=as_json)

    @config.command()
    @click.argument("prefix", required=False, default="")
    @_config_option
    @_set_option
    @click.option("--origin", is_flag=True, help="Tell where each value came from.")
    @_json_option
    def show(prefix: str, paths: Sequence[str], settings: Sequence[str], origin: bool, as_json: bool) -> int:
        """Show every setting in force, defaults included; secrets are masked. PREFIX: only what is below it.

        \b
        Examples:
          dogwatch config show --origin
          dogwatch config show server
        """
        return _show(loader(paths, settings).load(), prefix, origin=origin, as_json=as_json)

    @config.command()
    def schema() -> int:
        """Print the JSON Schema of the configuration, for editors.

        \b
        Example:
          dogwatch config schema > dogwatch.schema.json
        """
        import json

        from dogwatch.config.build import Catalog
        from dogwatch.config.schema import schema as schema_of

        click.echo(json.dumps(schema_of(Catalog(sections())), indent=2, ensure_ascii=False))
        return 0

    @click.command()
    @click.option("--path", default="dogwatch.yaml", show_default=True, metavar="FILE", help="Where to write it.")
    @click.option("--force", is_flag=True, help="Replace a file that is there.")
    def init(path: str, force: bool) -> int:
        """Write a starter configuration with comments.

        \b
        Example:
          dogwatch init && dogwatch up
        """
        from dogwatch.config.build import Catalog

        return _init(Path(path), Catalog(sections()), force=force)

    return {"config": config, "init": init}


def _check(loader: Loader, *, as_json: bool) -> int:
    from dogwatch.cli.output import print_json

    parsed = loader.parse()
    try:
        loaded = loader.validate(parsed)
    except ConfigError as error:
        if as_json:
            problems = [
                {"message": one.message, "path": one.path, "file": one.file, "line": one.line, "hint": one.hint}
                for one in error.problems
            ]
            print_json({"ok": False, "files": parsed.files, "problems": problems})
        else:
            excerpts = Excerpts(loader.catalog)
            for problem in error.problems:
                click.echo(f"{problem}\n{excerpts.of(problem)}", err=True, nl=False)
            count = len(error.problems)
            click.echo(f"{count} problem{'s' if count > 1 else ''}", err=True)
        return error.exit_code
    counts = _counts(loaded)
    if as_json:
        print_json({"ok": True, "files": parsed.files, "digest": parsed.digest, "sections": counts})
    else:
        files = f"{len(parsed.files)} file{'s' if len(parsed.files) != 1 else ''}"
        click.echo(", ".join([f"ok: {files}", *(f"{name}: {count}" for name, count in counts.items())]))
    return 0


def _counts(loaded: Loaded) -> dict[str, int]:
    """Return how many entries each section holds, of those that hold entries."""
    values = {key: loaded.get(section) for key, section in loaded.catalog.sections.items()}
    return {key: len(value) for key, value in values.items() if isinstance(value, list | tuple | dict)}


def _show(loaded: Loaded, prefix: str, *, origin: bool, as_json: bool) -> int:
    from dogwatch.cli.output import print_json
    from dogwatch.config.show import masked, rows

    shown = masked(rows(loaded), _secret_paths(loaded))
    found = [row for row in shown if not prefix or re.match(re.escape(prefix) + r"($|[.\[])", row.path)]
    if not found:
        known = ", ".join(loaded.catalog.sections)
        raise UsageError(f"nothing is set below '{prefix}'", hint=f"sections: {known}")
    if as_json:
        print_json(found)
        return 0
    for row in found:
        click.echo(_row_text(row, origin=origin))
    return 0


def _secret_paths(loaded: Loaded) -> frozenset[str]:
    """Return where schedules hold what only their jobs say is secret."""
    sections = loaded.catalog.sections
    if "schedules" not in sections or "jobs" not in sections:
        return frozenset()
    from dogwatch.engine.schedules.section import secret_parameters

    jobs = {job.name: job for job in loaded.get(sections["jobs"])}
    return secret_parameters(loaded.get(sections["schedules"]), jobs)


def _row_text(row: Row, *, origin: bool) -> str:
    import json

    value = row.value if isinstance(row.value, str) and row.value.isprintable() and row.value.strip() else None
    text = f"{row.path} = {json.dumps(row.value, ensure_ascii=False) if value is None else value}"
    if not origin:
        return text
    line = f"{text:<48}  # {row.origin}"
    # What does not fit beside stands below, so that 80 columns are enough for both.
    return line if len(line) <= 80 else f"{text}\n    # {row.origin}"


def _init(path: Path, catalog: Catalog, *, force: bool) -> int:
    from dogwatch.config.files import Reading, SourceFile
    from dogwatch.config.load import Loader
    from dogwatch.config.starter import starter

    text = starter(catalog)
    loader = Loader([], catalog, environ={})
    loader.validate(loader.parse_reading(Reading(files=(SourceFile(str(path), text.encode()),))))
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} is already there", hint="--force replaces it, --path writes another") from None
    except OSError as error:
        raise DogwatchError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}; now: dogwatch config check -c {path} && dogwatch up -c {path}")
    return 0


class Excerpts:
    """Shows the line of a problem with a caret under its key, never a value that may be secret."""

    def __init__(self, catalog: Catalog) -> None:
        names = "|".join(re.escape(name) for name in sorted(secret_keys(catalog))) or r"(?!)"
        self._secret = re.compile(rf"\b(?:{names})\b")
        self._lines: dict[str, list[str]] = {}

    def of(self, problem: Problem) -> str:
        """Return two indented lines, or "" where there is nothing to show."""
        line = self._line(problem)
        if not line.strip():
            return ""
        number = f"{problem.line:>6} | "
        key = re.search(r"(?:^|[.\]])([A-Za-z0-9_-]+)(?:\[\d+\])*$", problem.path)
        found = re.search(rf"(?<![\w-]){re.escape(key[1])}(?![\w-])", line) if key else None
        if found is None:
            return "" if self._secret.search(line) else f"{number}{_cut(line)}\n"
        if self._secret.search(line[: found.start()]) or found.end() > 100:
            return ""
        rest = line[found.end() :].strip()
        shown = line[: found.end()] + (": …" if rest.startswith(":") and rest != ":" else rest[:1])
        caret = " " * found.start() + "^" * (found.end() - found.start())
        return f"{number}{shown}\n{'':>6} | {caret}\n"

    def _line(self, problem: Problem) -> str:
        if not problem.line:
            return ""
        if problem.file not in self._lines:
            try:
                text = Path(problem.file).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                text = ""
            self._lines[problem.file] = text.splitlines()
        lines = self._lines[problem.file]
        line = lines[problem.line - 1] if problem.line <= len(lines) else ""
        return "".join(char if char.isprintable() else " " for char in line)


def _cut(line: str) -> str:
    return line if len(line) <= 70 else line[:69] + "…"


def secret_keys(catalog: Catalog) -> set[str]:
    """Return the names of all fields that hold secrets."""
    from dogwatch.config.schema import structs

    return {field.key for struct in structs(catalog) for field in struct.fields if field.shape.secret}
