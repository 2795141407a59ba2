"""Where settings come from: merging the sources, and laying each error at the right door."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError
from typing_extensions import override

from keylane.errors import ConfigurationError
from keylane.masking import MASK, mask_url
from keylane.section import ABOVE

ENV_PREFIX: Final = "KEYLANE_"
ENV_DELIMITER: Final = "__"
DEFAULT_FILE: Final = "keylane.toml"
#: Stands in a path for a name that the user chooses.
ANY_NAME: Final = "NAME"
#: Variables of the test suite; they are no settings.
_TEST_PREFIX: Final = "KEYLANE_TEST_"

_STRUCTURES: Final = (dict, list, tuple)

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
        if value is None or value is PydanticUndefined or value == ():
            return ""
        return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)

    @property
    def is_secret(self) -> bool:
        """Whether it is a secret, or holds some."""
        return SecretStr in _kinds(self.field.annotation)

    @property
    def is_structured(self) -> bool:
        """Whether a variable gives it as JSON."""
        return any(get_origin(k) in _STRUCTURES for k in _kinds(self.field.annotation))


def variable_of(path: tuple[str, ...]) -> str:
    """`KEYLANE_DISPATCH__MAX_ATTEMPTS` for (`dispatch`, `max_attempts`)."""
    return re.sub(r"[^A-Z0-9]", "_", ENV_PREFIX + ENV_DELIMITER.join(path).upper())


def leaves(model: type[BaseModel]) -> dict[tuple[str, ...], Setting]:
    """Every setting of a tree by its path."""
    return {path: Setting(path, field) for path, field in _leaves(model, ())}


def _leaves(
    model: type[BaseModel], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        named = (ANY_NAME,) if get_origin(field.annotation) is dict and section else ()
        if section:
            yield from _leaves(section, (*above, name, *named))
        else:
            yield (*above, name), field


def _section(kind: Any) -> type[BaseModel] | None:
    """The model that stands there, by itself or as the values of a dict."""
    found = (k for k in _kinds(kind) if isinstance(k, type) and issubclass(k, BaseModel))
    return next(found, None)


def _kinds(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of: of unions, of containers, of what is annotated."""
    yield kind
    for inner in get_args(kind):
        yield from _kinds(inner)


def setting_at(known: Mapping[tuple[str, ...], Setting], path: tuple[str, ...]) -> Setting | None:
    """The setting that has this path, or of which this is a part; names are those given."""
    for wanted, setting in known.items():
        if len(wanted) <= len(path) and _stand_together(wanted, path[: len(wanted)]):
            return setting
    return None


def raw_tree(model: type[BaseSettings], config: Path | None, overrides: Tree) -> dict[str, Any]:
    """What the sources say, merged and as it was written: references are not looked up."""
    environment, _ = _environment(model, _file(config))
    return _merged(_merged(_file(config), environment), _pruned(overrides))


class WrongSettings(ConfigurationError):  # noqa: N818  named by the fact
    """Settings that can't be used; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        one = f"{problems[0]}. Nothing was started."
        all_of_them = "\n  ".join(problems)
        many = f"{len(problems)} settings are wrong; nothing was started.\n  {all_of_them}"
        super().__init__(one if len(problems) == 1 else many)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


def read(model: type[Read], config: Path | None, overrides: Tree) -> Read:
    """Merge the sources into the model; raises `ConfigurationError` with all that is wrong."""
    file = _file(config)
    environment, problems = _environment(model, file)
    given = _Given(
        _pruned(overrides), environment, file, str(config or DEFAULT_FILE), leaves(model)
    )
    try:
        settings = model.model_validate(given.merged())
    except ValidationError as error:
        problems += [given.explain(detail) for detail in error.errors()]
    else:
        if not problems:
            return settings
    raise WrongSettings(problems)


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


def _environment(model: type[BaseSettings], file: Tree) -> tuple[dict[str, Any], list[str]]:
    """What the environment sets, and a complaint about each variable that sets nothing."""
    ours = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    known = leaves(model)
    unknown = [
        f"{name} is no setting{_nearest_variable(name, known)}"
        for name in ours
        if not name.upper().startswith(_TEST_PREFIX) and _head(name) not in model.model_fields
    ]
    try:
        tree = EnvSettingsSource(model)()
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = variable_of((found[1],) if found else ())
        return {}, [*unknown, f"{name}=...: a whole section has to be a JSON object"]
    _take_as_written(tree, ours, known)
    return _named_as_in(file, tree, known, ()), unknown


def _take_as_written(
    tree: dict[str, Any], variables: list[str], known: Mapping[tuple[str, ...], Setting]
) -> None:
    """Undo that below a name everything was read as JSON: a secret may look like a number.

    Not every release of pydantic-settings that we take does so.
    """
    for variable in variables:
        path = _path(variable)
        setting = setting_at(known, path)
        if setting and not setting.is_structured and _holds(tree, path):
            branch = tree
            for part in path[:-1]:
                branch = branch[part]
            branch[path[-1]] = os.environ[variable]


def _named_as_in(
    file: Any, tree: Any, known: Mapping[tuple[str, ...], Setting], above: tuple[str, ...]
) -> Any:
    """The environment's tree with names as the file spells them: variables have no `-` and no `a`.

    Where the file has two that a variable can't tell apart, names stay as they are.
    """
    if not isinstance(tree, Mapping) or not isinstance(file, Mapping):
        return tree
    is_named = any(p[: len(above) + 1] == (*above, ANY_NAME) for p in known)
    renamed = {}
    for name, inner in tree.items():
        alike = [other for other in file if _in_a_variable(other) == _in_a_variable(name)]
        spelt = alike[0] if is_named and name not in file and len(alike) == 1 else name
        below = (*above, ANY_NAME if is_named else name)
        renamed[spelt] = _named_as_in(file.get(spelt), inner, known, below)
    return renamed


def _in_a_variable(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _path(variable: str) -> tuple[str, ...]:
    return tuple(variable.upper().removeprefix(ENV_PREFIX).lower().split(ENV_DELIMITER))


def _head(variable: str) -> str:
    return _path(variable)[0]


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
        said = re.sub("^(Value error, |Input |String )", "", detail["msg"])
        if detail["type"] == "extra_forbidden":
            return f"{self._place(path)} is no setting{self._nearest(path)}"
        if detail["type"] == "missing":
            return f"{self._section(path[:-1])} lacks '{path[-1]}'"
        if detail["type"] == ABOVE:
            return f"{self._section(path[:-1])} {said}"
        if "[key]" in detail["loc"]:
            return f"{self._section(path)}: {said}"
        if isinstance(detail["input"], BaseModel | Mapping):
            return f"{self._section(path)} {said}"
        return f"{self._place(path)}={self._shown(path, detail['input'])}: {said}"

    def _section(self, path: tuple[str, ...]) -> str:
        """Where a section stands; several sources may have added to it."""
        in_file = f"{self.file_name}: {'.'.join(path)}"
        return in_file if _holds(self.file, path) else self._place(path)

    def _place(self, path: tuple[str, ...]) -> str:
        """The option, the variable or the key of the file that gave what stands there."""
        setting = setting_at(self.known, path)
        # What a variable gives as JSON has no variables of its own for its parts.
        whole = path[: len(setting.path)] if setting else path
        if setting and _holds(self.overrides, whole):
            return setting.option
        for part in (path, whole):
            if _holds(self.environment, part):
                return variable_of(whole)
            if _holds(self.file, part):
                return f"{self.file_name}: {'.'.join(path)}"
        return f"{variable_of(whole)} (default)"

    def _nearest(self, path: tuple[str, ...]) -> str:
        depth = len(path) - 1
        siblings = {
            known[depth]
            for known in self.known
            if len(known) > depth and _stand_together(known[:depth], path[:depth])
        }
        if _holds(self.environment, path):
            siblings = {variable_of((*path[:depth], name)) for name in siblings}
            return _did_you_mean(variable_of(path), sorted(siblings))
        return _did_you_mean(path[-1], sorted(siblings))

    def _shown(self, path: tuple[str, ...], value: object) -> str:
        setting = setting_at(self.known, path)
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
