"""Dataclasses from decoded JSON: how answers and observations are read. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Document = TypeVar("Document")


def from_document(kind: type[Document], document: Any) -> Document:
    """Build a dataclass from decoded JSON; fields that the class does not have are ignored.

    Raises:
        KeyError, TypeError, AttributeError: the document does not have the class's form.
    """
    built = _builder(cast(Any, kind))(document)  # mypy takes a class for unhashable where its objects are
    assert isinstance(built, kind)
    return built


@cache
def _builder(kind: Any) -> Callable[[Any], Any]:
    """Return what builds ``kind`` (a dataclass, tuple, dict or plain type) from decoded JSON.

    Made once per type: reading the annotations takes ten times as long as building a verdict from them.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        parts = {f.name: _builder(hints[f.name]) for f in fields(kind)}
        return lambda value: kind(**{name: build(value[name]) for name, build in parts.items() if name in value})
    if origin is tuple:
        item = _builder(arguments[0])
        return lambda value: tuple(map(item, value))
    if origin is dict:
        item = _builder(arguments[1])
        return lambda value: {str(key): item(part) for key, part in value.items()}
    if origin in (Union, UnionType):
        inner = _builder(next(a for a in arguments if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    return float if kind is float else lambda value: value
