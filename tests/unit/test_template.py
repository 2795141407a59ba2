"""What a template makes of an event, and what it can't be made to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dispatch.destinations.template import CUT_MARK, Message, Template
from keylane.destinationsettings import MessageSettings
from keylane.errors import ConfigurationError, ContractError
from tests.messages import make_delivery


def rendered(
    source: str, payload: bytes = b"{}", *, limit: int = 1_000, is_markup: bool = False, **of: str
) -> str:
    template = Template(source, what="text", is_markup=is_markup)
    return template.render(make_delivery(payload, 3, **of), limit)


def said(payload: bytes, **settings: str) -> str:
    return Message(MessageSettings(**settings), "chat").text(make_delivery(payload), 1_000)


def test_a_template_has_everything_of_an_event() -> None:
    source = "{{ event.id }} {{ event.user }} {{ event.type }} {{ event.source }} {{ event.time }}"
    assert rendered(source) == "event-1 Ada keylane.event keylane 2023-11-14T22:13:20.000Z"
    source = "{{ event.payload.order.total }} {{ attempt }} {{ event.text }}"
    payload = b'{"order": {"total": 9.50}}'
    assert rendered(source, payload) == '9.5 3 {"order": {"total": 9.50}}'


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"message": "hello"}', "hello"),
        (b'{"a": [1, true, null]}', 'Ada: {"a":[1,true,null]}'),
        (b'"just text"', "Ada: just text"),
        (b"no JSON", "Ada: no JSON"),
        (b"true", "Ada: true"),
    ],
)
def test_the_default_is_the_message_of_the_payload_else_all_of_it(
    payload: bytes, text: str
) -> None:
    assert said(payload) == text


def test_a_key_comes_before_a_method_of_the_same_name() -> None:
    assert rendered("{{ event.payload.items }}", b'{"items": 3}') == "3"


def test_what_an_event_lacks_is_said() -> None:
    with pytest.raises(ContractError, match=r"text: .*no attribute 'name'"):
        rendered("{{ event.payload.name }}")


def test_bytes_that_are_no_text_fail_only_a_template_that_shows_them() -> None:
    assert rendered("{{ event.user }}", b"\xff") == "Ada"
    for source in ("{{ event.text }}", "{{ event.payload }}", "{{ event.payload.name }}"):
        with pytest.raises(ContractError, match="not UTF-8"):
            rendered(source, b"\xff")


def test_what_an_event_holds_is_no_template() -> None:
    assert rendered("{{ event.text }}", b"{{ 7 * 7 }}") == "{{ 7 * 7 }}"


@pytest.mark.parametrize("source", ["{{ event.user", "{% if %}", "{{ 1 | nothing_like_it }}"])
def test_a_text_that_is_no_template_is_refused_with_its_line(source: str) -> None:
    with pytest.raises(ConfigurationError, match=r"text is no template: line 2"):
        Template("first\n" + source, what="text")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ event.__init__.__globals__ }}",
        "{{ event.update({'user': 'Bob'}) }}",
        "{{ self.__init__ }}",
    ],
)
def test_a_template_reaches_nothing_but_the_event(source: str) -> None:
    with pytest.raises(ContractError):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for _ in range(99999) %}{% for _ in range(99999) %}{% endfor %}{% endfor %}",
        "{% for _ in range(1000000) %}{% endfor %}",
        "{% for a in event.payload recursive %}{{ loop(event.payload) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 99999 * 99999 }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ [1] * 99999 * 99999 }}",
        "{{ 99 ** 99 ** 99 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ '{:>999999999}'.format('x') }}",
    ],
)
def test_a_template_that_runs_away_ends_soon(source: str) -> None:
    began = time.process_time()
    with pytest.raises(ContractError):
        rendered(source, b"[1, 2, 3]")
    assert time.process_time() - began < 2


def test_output_ends_at_the_limit_with_a_mark() -> None:
    text = rendered("{% for n in range(15000) %}line {{ n }}\n{% endfor %}", limit=100)
    assert len(text) == 100
    assert text.endswith(CUT_MARK)
    assert rendered("{{ event.text }}", b"x" * 100, limit=100) == "x" * 100


def test_values_are_escaped_where_there_is_markup_and_the_template_is_not() -> None:
    source = (
        '<https://example.com|{{ event.text }}> "&" {% set a %}{{ event.user }}{% endset %}{{ a }}'
    )
    text = rendered(source, b"<!channel> & 'x' \"y\"", is_markup=True, user="a<b")
    assert text == ('<https://example.com|&lt;!channel&gt; &amp; \'x\' "y"> "&" a&lt;b')


@pytest.mark.parametrize("limit", range(30, 40))
def test_no_entity_is_cut_in_half(limit: int) -> None:
    text = rendered("{{ event.text }}", b"<" * 50, limit=limit, is_markup=True)
    assert len(text) <= limit
    assert text.removesuffix(CUT_MARK).replace("&lt;", "") == ""


def test_a_text_of_nothing_is_no_message() -> None:
    with pytest.raises(ContractError, match="empty"):
        said(b"{}", template=" {{ '' }}\n")


def test_a_subject_is_one_line_whatever_the_event_holds() -> None:
    message = Message(MessageSettings(subject="re: {{ event.text }}"), "mail")
    delivery = make_delivery("a\r\nBcc: x@example.com\x00\u2028é".encode())
    assert message.subject(delivery, 100) == "re: a Bcc: x@example.com é"


def test_a_template_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text.j2"
    with pytest.raises(ConfigurationError, match=r"chat: message.template_file .*text\.j2"):
        said(b"{}", template_file=str(path))
    path.write_text("hi {{ event.user }}")
    assert said(b"{}", template_file=str(path)) == "hi Ada"
