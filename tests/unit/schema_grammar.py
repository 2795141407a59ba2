"""Random JSON Schemas of a small grammar, documents for them, and steps that only loosen."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from ingest.schemas.jsonschemas import JsonSchema, load_all
from ingest.schemas.jsontext import written

NAMES = ("a", "b", "c")
SMALL = st.integers(0, 3)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.sampled_from([0.5, 1.5, 2.0, -0.5]),
    st.sampled_from(["", "x", "xx", "yy", "xyxy"]),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)


def _of(kind: str | list[str], **optional: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"type": st.just(kind)}, optional=optional)


_BOUND = st.integers(-2, 5) | st.sampled_from([0.5, 2.5])
_NUMBERS = {
    "minimum": _BOUND,
    "maximum": _BOUND,
    "exclusiveMinimum": _BOUND,
    "exclusiveMaximum": _BOUND,
    "multipleOf": st.sampled_from([0.5, 1, 2, 3, 6]),
}
_LEAVES = st.one_of(
    _of("integer", **_NUMBERS),
    _of("number", **_NUMBERS),
    _of("string", minLength=SMALL, maxLength=SMALL, pattern=st.sampled_from(["^x", "y$"])),
    _of("boolean"),
    _of("null"),
    _of(["string", "null"], maxLength=SMALL),
    st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=3, unique_by=repr)}),
    st.just({}),
    st.just(True),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        _of(
            "array",
            items=inner,
            prefixItems=st.lists(inner, min_size=1, max_size=2),
            minItems=SMALL,
            maxItems=SMALL,
            uniqueItems=st.booleans(),
            contains=inner,
        ),
        _of(
            "object",
            properties=st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
            required=st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(st.sampled_from(["a|b", "c"]), inner, max_size=1),
            minProperties=SMALL,
            maxProperties=SMALL,
            dependentRequired=st.just({"a": ["b"]}),
            propertyNames=st.sampled_from([{"enum": ["a", "b"]}, {"maxLength": 1}]),
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    )


SCHEMAS = st.recursive(_LEAVES, _nested, max_leaves=5)


def made(schema: Any, name: str = "t.json") -> JsonSchema:
    schemas, problems = load_all({name: written(schema).encode()})
    assert not problems, problems
    return schemas[name]


@st.composite
def fitting(draw: st.DrawFn, schema: Any) -> Any:
    """A document that may well fit: what the schema asks for is tried, not promised."""
    if not isinstance(schema, dict):
        return draw(DOCUMENTS)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return draw(fitting(draw(st.sampled_from(schema[keyword]))))
    kind = schema.get("type")
    return draw(_BY_KIND[kind](schema) if isinstance(kind, str) else DOCUMENTS)


@st.composite
def _object(draw: st.DrawFn, schema: Any) -> Any:
    named = schema.get("properties", {})
    chosen = set(schema.get("required", ())) | draw(st.sets(st.sampled_from(NAMES), max_size=2))
    rest = schema.get("additionalProperties", True)
    return {name: draw(fitting(named.get(name, rest))) for name in sorted(chosen)}


@st.composite
def _array(draw: st.DrawFn, schema: Any) -> Any:
    least = schema.get("minItems", 0)
    count = draw(st.integers(least, max(least, schema.get("maxItems", least + 2))))
    prefix = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    return [draw(fitting(prefix[i] if i < len(prefix) else rest)) for i in range(count)]


_BY_KIND: dict[str, Any] = {
    "object": _object,
    "array": _array,
    "integer": lambda _: st.integers(-3, 7),
    "number": lambda _: st.integers(-3, 7) | st.sampled_from([0.5, 2.5]),
    "string": lambda _: st.sampled_from(["", "x", "xy", "y", "xyxy"]),
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
}


@st.composite
def loosened(draw: st.DrawFn, schema: Any) -> Any:
    """A schema that accepts all that this one does."""
    if not isinstance(schema, dict) or "not" in schema or "oneOf" in schema:
        return schema
    looser = copy.deepcopy(schema)
    for keyword, inner in looser.items():
        if keyword in {"anyOf", "allOf", "prefixItems"}:
            looser[keyword] = [draw(loosened(one)) for one in inner]
        elif keyword in {"items", "additionalProperties", "contains"}:
            looser[keyword] = draw(loosened(inner))
        elif keyword == "properties":
            looser[keyword] = {name: draw(loosened(one)) for name, one in inner.items()}
    for keyword, step in draw(st.lists(st.sampled_from(_STEPS), max_size=3)):
        if keyword in looser:
            step(looser, keyword)
    return looser


def _dropped(schema: Any, keyword: str) -> None:
    del schema[keyword]


def _raised(schema: Any, keyword: str) -> None:
    schema[keyword] += 1


def _lowered(schema: Any, keyword: str) -> None:
    schema[keyword] = max(0, schema[keyword] - 1)


def _below(schema: Any, keyword: str) -> None:
    schema[keyword] -= 1


def _with_null(schema: Any, _keyword: str) -> None:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    schema["type"] = sorted({*names, "null"})


def _with_one_more(schema: Any, keyword: str) -> None:
    schema[keyword].append({"type": "boolean"} if keyword == "anyOf" else "one more")


def _with_one_less(schema: Any, keyword: str) -> None:
    if keyword == "required" or len(schema[keyword]) > 1:
        del schema[keyword][0:1]


def _open(schema: Any, keyword: str) -> None:
    if schema[keyword] is False:
        schema[keyword] = True


_STEPS = [
    *(
        (name, _dropped)
        for name in ("minimum", "maxLength", "pattern", "uniqueItems", "multipleOf")
    ),
    *((name, _dropped) for name in ("propertyNames", "dependentRequired", "contains")),
    *((name, _raised) for name in ("maximum", "exclusiveMaximum", "maxItems", "maxProperties")),
    *((name, _lowered) for name in ("minLength", "minItems", "minProperties")),
    ("exclusiveMinimum", _below),
    ("type", _with_null),
    ("enum", _with_one_more),
    ("anyOf", _with_one_more),
    ("required", _with_one_less),
    ("allOf", _with_one_less),
    ("additionalProperties", _open),
]


def _tight(base: dict[str, Any], more: dict[str, Any], document: Any) -> tuple[Any, Any, Any]:
    return base, {**base, **more}, document


_TIGHT_LEAVES = st.integers(-5, 5).flatmap(
    lambda n: st.sampled_from(
        [
            _tight({"type": "integer", "minimum": n}, {"minimum": n + 1}, n),
            _tight({"type": "number", "maximum": n}, {"exclusiveMaximum": n}, n),
            _tight({"type": "integer"}, {"multipleOf": 2}, 2 * n + 1),
            _tight({"type": ["integer", "null"]}, {"type": "null"}, n),
            _tight({"type": "number"}, {"type": "integer"}, n + 0.5),
            _tight({"enum": [n, "x", None]}, {"enum": ["x", None]}, n),
            _tight({"type": "string", "maxLength": 5}, {"maxLength": 4}, "xxxxx"),
            _tight({"type": "string"}, {"minLength": 1}, ""),
            _tight({"type": "string"}, {"pattern": "^y"}, "x"),
            _tight({"type": "array"}, {"maxItems": 1}, [n, n + 1]),
            _tight({"type": "array"}, {"uniqueItems": True}, [n, n]),
            _tight({"type": "object"}, {"required": ["a"]}, {}),
            _tight({"type": "object"}, {"additionalProperties": False}, {"a": n}),
            _tight({"type": "object"}, {"minProperties": 1}, {}),
        ]
    )
)
_AROUND: list[tuple[Any, Any]] = [
    (lambda s: {"type": "object", "properties": {"a": s}}, lambda d: {"a": d}),
    (lambda s: {"properties": {"a": s}, "additionalProperties": False}, lambda d: {"a": d}),
    (lambda s: {"type": "object", "additionalProperties": s}, lambda d: {"b": d}),
    (lambda s: {"type": "object", "patternProperties": {"^p": s}}, lambda d: {"p": d}),
    (lambda s: {"type": "array", "items": s}, lambda d: [d]),
    (lambda s: {"type": "array", "prefixItems": [s], "items": False}, lambda d: [d]),
    (lambda s: {"anyOf": [s, {"const": True}]}, lambda d: d),
    (lambda s: {"oneOf": [s, {"const": True}]}, lambda d: d),
    (lambda s: {"allOf": [s, {}]}, lambda d: d),
]


@st.composite
def _wrapped(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    loose, tight, document = draw(_TIGHT_LEAVES)
    for schema_around, document_around in draw(st.lists(st.sampled_from(_AROUND), max_size=3)):
        loose, tight = schema_around(loose), schema_around(tight)
        document = document_around(document)
    return loose, tight, document


#: A schema, one that accepts less, and a document that tells them apart.
TIGHTENED = _wrapped()
