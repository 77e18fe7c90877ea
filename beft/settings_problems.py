"""What is wrong with settings, or with another checked mapping: a sentence for each thing that pydantic found."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from beft.names import unknown_name


def problems(cls: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Say each problem that pydantic found, with the nearest valid name for an unknown one."""
    for detail in _without_alternatives(error.errors()):
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            *parents, last = detail["loc"]
            yield f"{where}: {unknown_name(str(last), _fields(cls, parents), 'setting')}"
        elif detail["type"] == "literal_error" and isinstance(detail["input"], str):
            known = [name.strip("' ") for name in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            number = " A number is possible, too." if detail["ctx"].get("or_number") else ""
            yield f"{where}: {unknown_name(detail['input'], known, 'value')}{number}"
        elif detail["type"] == "missing":
            yield f"{where}: it is missing"
        elif detail["type"] in ("list_type", "tuple_type"):
            yield f"{where}: it must be a list, such as [{detail['input']}] (got {detail['input']!r})"
        elif detail["type"] in ("dict_type", "model_type", "model_attributes_type"):
            yield f"{where}: it must be a mapping of names to values (got {detail['input']!r})"
        elif detail["type"] == "value_error":
            message = str(detail["ctx"]["error"])
            yield f"{where}: {message}" if where else message
        else:
            yield f"{where}: {detail['msg']} (got {detail['input']!r})"


def _without_alternatives(details: Sequence[Any]) -> list[Any]:
    """One problem for a number that a word can stand in the place of: pydantic names one for each of the two."""
    words = {
        detail["loc"][:-1]: detail
        for detail in details
        if detail["type"] == "literal_error" and str(detail["loc"][-1]).startswith("literal[")
    }
    found = []
    for detail in details:
        word = words.get(detail["loc"][:-1])
        if word is None:
            found.append(detail)
        elif detail is word and isinstance(detail["input"], str):
            found.append({**detail, "loc": detail["loc"][:-1], "ctx": {**detail["ctx"], "or_number": True}})
        elif detail is not word and not isinstance(detail["input"], str):
            message = f"{detail['msg']}, or {word['ctx']['expected']}"
            found.append({**detail, "loc": detail["loc"][:-1], "msg": message})
    return found


def _fields(cls: Any, path: list[Any]) -> list[str]:
    """The names that a section at ``path`` knows; a dict's values are sections of its value type.

    Where sections of several kinds may stand, the path names the kind.
    """
    for part in path:
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            cls = cls.model_fields[part].annotation if part in cls.model_fields else None
        elif get_args(cls):
            kinds = [
                one
                for one in get_args(cls)
                if isinstance(one, type) and issubclass(one, BaseModel) and "kind" in one.model_fields
            ]
            named = [one for one in kinds if part in get_args(one.model_fields["kind"].annotation)]
            cls = named[0] if named else get_args(cls)[-1]
    return list(cls.model_fields) if isinstance(cls, type) and issubclass(cls, BaseModel) else []
