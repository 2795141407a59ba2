"""What a chat or a mail says about an event: Jinja2, in a sandbox and within bounds.

A template is its author's, who is trusted; the event in it is anybody's. So what the event holds
is only ever text: nothing of it is taken as a template, or as markup where there is some. And no
event makes a template run for long: its loop turns and calls are counted, the numbers that it
calls with or multiplies by are small, and its output ends at the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson
from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from dispatch.delivery import Delivery
from keylane.destinationsettings import MessageSettings
from keylane.errors import ConfigurationError, ContractError

DEFAULT_TEXT: Final = (
    "{% if event.payload is mapping and event.payload.message is defined %}"
    "{{ event.payload.message }}"
    "{% else %}{{ event.user }}: {{ event.payload }}{% endif %}"
)
DEFAULT_SUBJECT: Final = "{{ event.type }}: {{ event.user }}"
#: Stands at the end of a text that is not whole.
CUT_MARK: Final = " … (cut)"

#: Loop turns and calls of one rendering: some 20 ms, in which nothing else is delivered.
MAX_STEPS: Final = 20_000
#: Largest whole number that a call may be given, and length that a product may have.
MAX_NUMBER: Final = 100_000
#: They make much of little, or are no use in a message.
_LEFT_OUT: Final = ("center", "format", "indent", "urlize", "wordwrap", "xmlattr")
_FORMATTING: Final = ("format", "format_map")
_MAX_ERROR_CHARACTERS: Final = 300
_STEPS: Final = "_steps"


class _TooMuch(Exception):  # noqa: N818  named by the fact
    """A rendering has used up what one may."""


class _Steps:
    """What is left of one rendering."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch(f"the template takes more than {MAX_STEPS} steps")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "%"))

    @override
    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            counted = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
            loop.iter = counted
        return tree

    @override
    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        context[_STEPS].take()
        for argument in (*args, *kwargs.values()):
            _require_small(argument)
        return super().call(context, obj, *args, **kwargs)

    @override
    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Numbers may be computed; a text is repeated within reason, and never formatted by `%`."""
        if operator == "%" and isinstance(left, str):
            raise _TooMuch("the template formats with %; write {{ a }}, or ~ between texts")
        _require_small(left)
        _require_small(right)
        if operator == "**" and (left > MAX_NUMBER**0.5 or right > 16):  # noqa: PLR2004  some sense
            raise _TooMuch("the template raises to too high a power")
        if operator == "*" and _length(left) * _length(right) > MAX_NUMBER:
            raise _TooMuch(f"the template repeats a text to over {MAX_NUMBER} characters")
        return super().call_binop(context, operator, left, right)

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        # A payload's own key comes before a method of Python's: {{ event.payload.items }}.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, str) and attribute in _FORMATTING:
            raise _TooMuch(
                f"the template calls .{attribute}; write {{{{ a }}}}, or ~ between texts"
            )
        return super().getattr(obj, attribute)


def _require_small(value: object) -> None:
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise _TooMuch(f"the template computes with a number over {MAX_NUMBER}")


def _length(value: object) -> int:
    """How much a factor of a product makes of the other one."""
    if isinstance(value, (str, list, tuple)):
        return max(1, len(value))
    return 1 if isinstance(value, float) else max(1, abs(int(value)))  # type: ignore[call-overload]


@pass_context
def _counted(context: Context, items: Iterable[object]) -> Iterator[object]:
    steps: _Steps = context[_STEPS]
    for item in items:
        steps.take()
        yield item


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _shown(value: Any) -> Any:
    """JSON for what is not text: a reader wants `true` and `{"a":1}`, not Python's way."""
    if value is None or isinstance(value, (bool, dict, list)):
        return _json(value)
    return value


def _environment(*, is_markup: bool) -> _Environment:
    environment = _Environment(
        autoescape=is_markup,
        undefined=StrictUndefined,
        finalize=_shown,
        keep_trailing_newline=False,
    )
    environment.filters |= {"_counted": _counted, "tojson": _json}
    for name in _LEFT_OUT:
        del environment.filters[name]
    del environment.globals["lipsum"]
    return environment


class Template:
    """Compiled once. Raises `ConfigurationError` for a text that is no template.

    With `is_markup` the `&`, `<` and `>` of values become entities, those of the template itself
    stay. `what` names the setting in errors.
    """

    def __init__(self, source: str, *, what: str, is_markup: bool = False) -> None:
        self._environment = _environment(is_markup=is_markup)
        self._is_markup = is_markup
        self._what = what
        try:
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigurationError(
                f"{what} is no template: line {error.lineno}: {error.message}"
            ) from error

    def render(self, delivery: Delivery, limit: int) -> str:
        """The text, with a mark at its end if it would have more than `limit` characters.

        Raises `ContractError` for an event that lacks what the template names.
        """
        pieces: list[str] = []
        left = limit
        try:
            for piece in self._template.generate(self._context(delivery)):
                pieces.append(self._plain(piece))
                left -= len(pieces[-1])
                if left < 0:
                    break
        except ContractError:
            raise
        # A filter may raise anything at a value that it was not made for.
        except Exception as error:
            said = f"{self._what}: {error}"[:_MAX_ERROR_CHARACTERS]
            raise ContractError(said) from error
        return cut("".join(pieces), limit)

    def _plain(self, piece: str) -> str:
        """Undo what the escaping did for HTML alone: chats know three entities."""
        if self._is_markup:
            # `str` first: markup escapes what it is given to put in.
            return str(piece).replace("&#34;", '"').replace("&#39;", "'")
        return piece

    def _context(self, delivery: Delivery) -> dict[str, object]:
        event = delivery.event
        text, payload = self._read(event.payload)
        facts = {
            "id": event.id,
            "user": event.user,
            "type": event.type,
            "source": event.source,
            "time": event.time,
            "payload": payload,
            "text": text,
        }
        return {"event": facts, "attempt": delivery.attempt, _STEPS: _Steps()}

    def _read(self, payload: bytes) -> tuple[str | Undefined, Any]:
        """The payload as text, and what it says as JSON; text that is no JSON is itself."""
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            # A template that does without is served all the same.
            missing = self._environment.undefined("the payload is not UTF-8 text")
            return missing, missing
        try:
            return text, orjson.loads(payload)
        except orjson.JSONDecodeError:
            return text, text


def cut(text: str, limit: int) -> str:
    """The text, or as much of it as leaves room for the mark; never half an entity."""
    if len(text) <= limit:
        return text
    kept = text[: limit - len(CUT_MARK)]
    start = kept.rfind("&", len(kept) - len("&amp"))
    if start >= 0 and ";" not in kept[start:]:
        kept = kept[:start]
    return kept + CUT_MARK


class Message:
    """The text and the subject that a destination's settings ask for."""

    def __init__(self, settings: MessageSettings, name: str, *, is_markup: bool = False) -> None:
        #: Whether the text is Keylane's own, so that nothing in it was meant as markup.
        self.is_default = settings.template is None and settings.template_file is None
        self._text = _template(settings, name, is_markup=is_markup)
        self._subject = Template(
            settings.subject or DEFAULT_SUBJECT, what=f"{name}: message.subject"
        )

    def text(self, delivery: Delivery, limit: int) -> str:
        """At most `limit` characters. Raises `ContractError`, also when there are none."""
        text = self._text.render(delivery, limit)
        if not text.strip():
            raise ContractError("the message would be empty")
        return text

    def subject(self, delivery: Delivery, limit: int) -> str:
        """One line, whatever the event holds; at most `limit` characters."""
        text = self._subject.render(delivery, limit)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _template(settings: MessageSettings, name: str, *, is_markup: bool) -> Template:
    path = settings.template_file
    if path is None:
        source = settings.template or DEFAULT_TEXT
        return Template(source, what=f"{name}: message.template", is_markup=is_markup)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: message.template_file {path}: {error}") from error
    return Template(source, what=f"{name}: message.template_file {path}", is_markup=is_markup)
