"""A folder of schemas: which file is for which event type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ingest.schemas.violations import NotASchema, PayloadSchema
from keylane.errors import ConfigurationError

_JSON: Final = ".json"
_AVRO: Final = ".avsc"
_PROTOBUF: Final = ".desc"
_SIDECAR: Final = ".message"
_SCHEMAS: Final = frozenset({_JSON, _AVRO, _PROTOBUF})
#: What may lie beside them. All else is refused: a schema with a misspelt suffix would be missed.
_BESIDE: Final = frozenset({_SIDECAR, ".md", ".txt", ".proto", ".avdl"})


def read_folder(folder: Path) -> dict[str, PayloadSchema]:
    """All schemas of a folder by the names of their files.

    Raises `ConfigurationError` with everything that is wrong in it.
    """
    files: dict[str, bytes] = {}
    problems: list[str] = []
    for path in _paths(folder):
        try:
            _check_name(path)
            files[path.name] = path.read_bytes()
        except NotASchema as error:
            problems.append(f"{path.name}: {error}")
        except OSError as error:
            problems.append(f"{path.name}: can't be read ({error.strerror})")
    problems += _twice(files)
    schemas = dict(_load(files, problems))
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise ConfigurationError(f"The schemas in {folder} can't be used:\n  {listed}")
    return schemas


def type_of(name: str) -> str:
    """The event type that a file is for; raises `NotASchema`."""
    stem = name.rpartition(".")[0]
    try:
        found = unquote(stem, errors="strict")
    except UnicodeDecodeError as error:
        raise NotASchema("its name is no type: what is behind % is not UTF-8") from error
    if not found:
        raise NotASchema("its name is no type")
    return found


def load_file(path: Path) -> PayloadSchema:
    """One file alone; raises `NotASchema`, and `OSError` if it can't be read."""
    if path.suffix == _JSON:
        from ingest.schemas.jsonschemas import load_one

        return load_one(path)
    if path.suffix not in _SCHEMAS:
        raise NotASchema(f"its name has to end in {', '.join(sorted(_SCHEMAS))}")
    files = {path.name: path.read_bytes()}
    sidecar = path.with_suffix(_SIDECAR)
    if sidecar.is_file():
        files[sidecar.name] = sidecar.read_bytes()
    return (_avro if path.suffix == _AVRO else _protobuf)(path.name, files)


def _paths(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(
            f"The folder of schemas {folder} can't be read ({error.strerror})."
        ) from error
    # Mounted folders hold links to hidden ones.
    return [path for path in found if not path.name.startswith(".") and not path.is_dir()]


def _check_name(path: Path) -> None:
    if path.suffix in _BESIDE:
        return
    if path.suffix not in _SCHEMAS:
        raise NotASchema(f"is no schema by its name: they end in {', '.join(sorted(_SCHEMAS))}")
    type_of(path.name)


def _twice(files: Mapping[str, bytes]) -> Iterator[str]:
    first: dict[tuple[str, str], str] = {}
    for name in files:
        key = (type_of(name), Path(name).suffix)
        if (other := first.setdefault(key, name)) != name:
            yield f"{name}: is for the same type as {other}"


def _load(files: Mapping[str, bytes], problems: list[str]) -> Iterator[tuple[str, PayloadSchema]]:
    in_json = {name: content for name, content in files.items() if name.endswith(_JSON)}
    if in_json:
        from ingest.schemas.jsonschemas import load_all

        found, wrong = load_all(in_json)
        problems += wrong
        yield from found.items()
    for name in files:
        make = _MAKERS.get(Path(name).suffix)
        if make:
            try:
                yield name, make(name, files)
            except NotASchema as error:
                problems.append(f"{name}: {error}")


def _avro(name: str, files: Mapping[str, bytes]) -> PayloadSchema:
    from ingest.schemas.avro import AvroSchema, Definition

    return AvroSchema(name, Definition(files[name]))


def _protobuf(name: str, files: Mapping[str, bytes]) -> PayloadSchema:
    from ingest.schemas.protobuf import load

    sidecar = files.get(name.removesuffix(_PROTOBUF) + _SIDECAR)
    message = sidecar.decode(errors="replace").strip() if sidecar is not None else None
    return load(name, files[name], type_of(name), message)


_MAKERS: Final[Mapping[str, Callable[[str, Mapping[str, bytes]], PayloadSchema]]] = {
    _AVRO: _avro,
    _PROTOBUF: _protobuf,
}
