"""What a part of a JSON Schema asks of arrays and objects that others don't."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import Any, Final, TypeAlias

from ingest.schemas.compatibility import Break, broken
from ingest.schemas.parts import MAX_CASES, Case, Part, about_member, others, required
from ingest.schemas.scalars import of_counts
from ingest.schemas.violations import Path

#: Says what stands in the way from parts to a part.
Check: TypeAlias = Callable[[Sequence[Part], Part, Path], list[Break]]

_ANY: Final = "*"
_STRING: Final = Part({"type": "string"}, None)


def of_arrays(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    longest = min(map(_longest, case), default=math.inf)
    yield from of_counts(case, new, path, "minItems", "maxItems", (0, longest))
    may_repeat = longest > 1 and not any(part.schema.get("uniqueItems") for part in case)
    if new.schema.get("uniqueItems") and may_repeat:
        yield broken(path, "uniqueItems added")
    places = max(len(part.schema.get("prefixItems", ())) for part in (*case, new))
    for place in range(places):
        if place < longest:
            items = [_item(part, place) for part in case]
            yield from check(items, _item(new, place), (*path, place))
    if places < longest:
        yield from check([_item(p, places) for p in case], _item(new, places), (*path, _ANY))
    yield from _of_contained(case, new, path, check)


def of_objects(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    had = required(case)
    for name in new.schema.get("required", ()):
        if name not in had:
            yield broken((*path, name), "required property added")
    yield from of_counts(case, new, path, "minProperties", "maxProperties", (len(had), math.inf))
    yield from _of_named(case, new, path, check)
    yield from _of_patterns(case, new, path, check)
    yield from _of_others(case, new, path, check)
    yield from _of_names(case, new, path, check)
    yield from _of_dependencies(case, new, path)


def _longest(part: Part) -> float:
    """How many items there may be, by bounds and by places where nothing fits."""
    prefix = part.schema.get("prefixItems", ())
    bounds = [part.schema.get("maxItems", math.inf)]
    bounds += [place for place, schema in enumerate(prefix) if schema is False]
    if part.schema.get("items") is False:
        bounds.append(len(prefix))
    return float(min(bounds))


def _item(part: Part, place: int) -> Part:
    prefix = part.schema.get("prefixItems", ())
    return part.inner(prefix[place] if place < len(prefix) else part.schema.get("items", True))


def _of_contained(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    if "contains" not in new.schema:
        return
    asked = new.inner(new.schema["contains"])
    count = new.schema.get("minContains", 1)
    is_bounded = "maxContains" in new.schema
    for part in case:
        if "contains" in part.schema and part.schema.get("minContains", 1) >= count:
            had = part.inner(part.schema["contains"])
            same_kind = not check([had], asked, path)
            if same_kind and not is_bounded:
                return
            if same_kind and not check([asked], had, path) and _most(part) <= _most(new):
                return
    if count or is_bounded:
        is_new = not any("contains" in part.schema for part in case)
        yield broken(path, "contains added" if is_new else "contains changed", is_certain=is_new)


def _most(part: Part) -> float:
    return float(part.schema.get("maxContains", math.inf))


def _of_named(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    """Members that one of the versions names."""
    before = {name for part in case for name in part.schema.get("properties", {})}
    now = new.schema.get("properties", {})
    for name in [*now, *sorted(before - now.keys())]:
        had = [about for part in case for about in about_member(part, name)]
        for asked in about_member(new, name):
            found = check(had, asked, (*path, name))
            if asked.schema is False and name not in now and found:
                yield broken((*path, name), "property removed, and others are not allowed")
            elif name in before:
                yield from found
            else:
                # The old version let anybody put anything there.
                yield from (
                    one._replace(why=f"property added where any was allowed: {one.why}")
                    for one in found
                )


def _of_patterns(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    for pattern, asked in new.members("patternProperties").items():
        ways = [_ways(part, leads_to=pattern) for part in case]
        yield from _over(ways, asked, (*path, pattern), check)


def _of_others(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    if "additionalProperties" not in new.schema:
        return
    asked = others(new)
    known = new.schema.get("patternProperties", {})
    ways = [_ways(part, without=known) for part in case]
    found = list(_over(ways, asked, (*path, _ANY), check))
    if found and asked.schema is False:
        yield broken((*path, _ANY), "properties that are not named are no longer allowed")
    else:
        yield from found


def _ways(part: Part, *, leads_to: str = "", without: Any = ()) -> list[Part]:
    """What a part may say about a name that it does not have in `properties`."""
    patterns = part.members("patternProperties")
    if leads_to in patterns:
        return [patterns[leads_to]]
    return [others(part), *(about for name, about in patterns.items() if name not in without)]


def _over(ways: Sequence[list[Part]], asked: Part, path: Path, check: Check) -> Iterator[Break]:
    for had in islice(product(*ways), MAX_CASES):
        yield from check(had, asked, path)
    if math.prod(map(len, ways)) > MAX_CASES:
        yield broken(path, "has too many patterns to be compared", is_certain=False)


def _of_names(case: Case, new: Part, path: Path, check: Check) -> Iterator[Break]:
    if "propertyNames" not in new.schema:
        return
    asked = new.inner(new.schema["propertyNames"])
    had = [part.inner(part.schema["propertyNames"]) for part in case if _limits_names(part)]
    closed = next((part for part in case if _is_closed(part)), None)
    if closed:
        for name in closed.schema.get("properties", {}):
            if all(limit.accepts(name) for limit in had) and not asked.accepts(name):
                yield broken((*path, name), "this name is no longer allowed")
        return
    if check([_STRING, *had], asked, path):
        why = "propertyNames changed" if had else "propertyNames added"
        yield broken((*path, _ANY), why, is_certain=not had)


def _is_closed(part: Part) -> bool:
    return others(part).schema is False and not part.schema.get("patternProperties")


def _limits_names(part: Part) -> bool:
    return "propertyNames" in part.schema


def _of_dependencies(case: Case, new: Part, path: Path) -> Iterator[Break]:
    for name, needed in new.schema.get("dependentRequired", {}).items():
        if any(about.schema is False for part in case for about in about_member(part, name)):
            continue
        had = set(required(case))
        for part in case:
            had.update(part.schema.get("dependentRequired", {}).get(name, ()))
        for other in needed:
            if other not in had and other != name:
                yield broken((*path, other), f"required property added where {name} is")
