"""Where settings come from: merging the sources, and laying each error at the right door."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from keylane.errors import ConfigurationError
from keylane.masking import MASK, mask_url

ENV_PREFIX: Final = "KEYLANE_"
ENV_DELIMITER: Final = "__"
DEFAULT_FILE: Final = "keylane.toml"
#: Stands in a path for a name that the user chooses.
ANY_NAME: Final = "NAME"
#: Variables of the test suite; they are no settings.
_TEST_PREFIX: Final = "KEYLANE_TEST_"

Tree = Mapping[str, Any]
Read = TypeVar("Read", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree, as the command line and the documentation need it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def variable(self) -> str:
        return variable_of(self.path)

    @property
    def option(self) -> str:
        """`--max-age` for `dispatch.max_age_s`: an option names no unit and no section."""
        name = "log-format" if self.path == ("log", "format") else self.path[-1]
        return "--" + name.removesuffix("_s").replace("_", "-")

    @property
    def default(self) -> str:
        """The default as it would be written; empty when there is none."""
        value = self.field.default
        if value is None or value is PydanticUndefined:
            return ""
        return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)

    @property
    def is_secret(self) -> bool:
        kind = self.field.annotation
        return SecretStr in (kind, *get_args(kind))


def variable_of(path: tuple[str, ...]) -> str:
    """`KEYLANE_DISPATCH__MAX_ATTEMPTS` for (`dispatch`, `max_attempts`)."""
    return ENV_PREFIX + ENV_DELIMITER.join(path).upper()


def leaves(model: type[BaseModel]) -> dict[tuple[str, ...], Setting]:
    """Every setting of a tree by its path."""
    return {path: Setting(path, field) for path, field in _leaves(model, ())}


def _leaves(
    model: type[BaseModel], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        named = (ANY_NAME,) if get_args(field.annotation) and section else ()
        if section:
            yield from _leaves(section, (*above, name, *named))
        else:
            yield (*above, name), field


def _section(kind: Any) -> type[BaseModel] | None:
    """The model that stands there, by itself or as the values of a dict."""
    inner = [*get_args(kind), kind]
    return next((k for k in inner if isinstance(k, type) and issubclass(k, BaseModel)), None)


def read(model: type[Read], config: Path | None, overrides: Tree) -> Read:
    """Merge the sources into the model; raises `ConfigurationError` with all that is wrong."""
    environment, problems = _environment(model)
    given = _Given(
        _pruned(overrides), environment, _file(config), str(config or DEFAULT_FILE), leaves(model)
    )
    try:
        settings = model.model_validate(given.merged())
    except ValidationError as error:
        problems += [given.explain(detail) for detail in error.errors()]
    else:
        if not problems:
            return settings
    if len(problems) == 1:
        raise ConfigurationError(f"{problems[0]}. Nothing was started.")
    raise ConfigurationError(
        f"{len(problems)} settings are wrong; nothing was started.\n  " + "\n  ".join(problems)
    )


def _pruned(tree: Tree) -> dict[str, Any]:
    pruned = {k: _pruned(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    return {k: v for k, v in pruned.items() if v is not None and v != {}}


def _merged(below: Tree, above: Tree) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[key] = _merged(under, value)
        else:
            merged[key] = value
    return merged


def _file(config: Path | None) -> dict[str, Any]:
    path = config or Path(DEFAULT_FILE)
    if config is None and not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"The configuration file {path} can't be read ({error.strerror}). Nothing was started."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}. Nothing was started.") from error


def _environment(model: type[BaseSettings]) -> tuple[dict[str, Any], list[str]]:
    """What the environment sets, and a complaint about each variable that sets nothing."""
    ours = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    unknown = [
        f"{name} is no setting{_nearest_variable(name, leaves(model))}"
        for name in ours
        if not name.upper().startswith(_TEST_PREFIX) and _head(name) not in model.model_fields
    ]
    try:
        return EnvSettingsSource(model)(), unknown
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = variable_of((found[1],) if found else ())
        return {}, [*unknown, f"{name}=...: a whole section has to be a JSON object"]


def _head(variable: str) -> str:
    return variable.upper().removeprefix(ENV_PREFIX).split(ENV_DELIMITER)[0].lower()


def _nearest_variable(name: str, known: Mapping[tuple[str, ...], Setting]) -> str:
    return _did_you_mean(name.upper(), [setting.variable for setting in known.values()])


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"


@dataclass(frozen=True, slots=True)
class _Given:
    """What each source gave."""

    overrides: Tree
    environment: Tree
    file: Tree
    file_name: str
    known: Mapping[tuple[str, ...], Setting]

    def merged(self) -> dict[str, Any]:
        return _merged(_merged(self.file, self.environment), self.overrides)

    def explain(self, detail: ErrorDetails) -> str:
        # An unfit key of a dict has "[key]" behind it.
        path = tuple(str(part) for part in detail["loc"] if part != "[key]")
        if detail["type"] == "extra_forbidden":
            return f"{self._place(path)} is no setting{self._nearest(path)}"
        if detail["type"] == "missing":
            return f"{self._place(path[:-1])} lacks '{path[-1]}'"
        said = re.sub("^(Value error, |Input |String )", "", detail["msg"])
        return f"{self._place(path)}={self._shown(path, detail['input'])}: {said}"

    def _place(self, path: tuple[str, ...]) -> str:
        """The option, the variable or the key of the file that gave what stands there."""
        if _holds(self.overrides, path) and path in self.known:
            return self.known[path].option
        if _holds(self.environment, path):
            return variable_of(path)
        if _holds(self.file, path):
            return f"{self.file_name}: {'.'.join(path)}"
        return f"{variable_of(path)} (default)"

    def _nearest(self, path: tuple[str, ...]) -> str:
        if _holds(self.environment, path):
            return _nearest_variable(variable_of(path), self.known)
        depth = len(path) - 1
        siblings = {
            known[depth]
            for known in self.known
            if len(known) > depth and _stand_together(known[:depth], path[:depth])
        }
        return _did_you_mean(path[-1], sorted(siblings))

    def _shown(self, path: tuple[str, ...], value: object) -> str:
        setting = self.known.get(path)
        if setting is None or setting.is_secret:
            return MASK
        return mask_url(value) if isinstance(value, str) else str(value)


def _stand_together(known: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return all(k in (p, ANY_NAME) for k, p in zip(known, path, strict=True))


def _holds(tree: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True
