"""As much of OpenAPI's schema language as a trading API uses: does this JSON say what the document promises?"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
FORMATS = {"uuid": UUID, "date-time": datetime.fromisoformat, "date": date.fromisoformat}


class Document:
    """An OpenAPI document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def answer(self, method: str, path: str, status: int) -> dict[str, Any]:
        """The schema of an answer."""
        answers = self.document["paths"][path][method.lower()]["responses"]
        schema: dict[str, Any] = answers[str(status)]["content"]["application/json"]["schema"]
        return schema

    def faults(self, schema: dict[str, Any], value: object, at: str = "$") -> list[str]:
        """Every way in which the value is not what the schema says."""
        if "$ref" in schema:
            found: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return self.faults({**found, **{k: v for k, v in schema.items() if k == "nullable"}}, value, at)
        if value is None:
            return [] if schema.get("nullable") else [f"{at}: null"]
        faults = self._choices(schema, value, at)
        kind = schema.get("type")
        if kind is not None:
            right = isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
            if not right:
                return [f"{at}: {value!r} is no {kind}"]
        if "enum" in schema and value not in schema["enum"]:
            faults.append(f"{at}: {value!r} is none of {schema['enum']}")
        if schema.get("format") in FORMATS and isinstance(value, str):
            try:
                FORMATS[schema["format"]](cut(value))
            except ValueError:
                faults.append(f"{at}: {value!r} is no {schema['format']}")
        return faults + self._inside(schema, value, at)

    def _choices(self, schema: dict[str, Any], value: object, at: str) -> list[str]:
        faults = [fault for part in schema.get("allOf", ()) for fault in self.faults(part, value, at)]
        for name in ("anyOf", "oneOf"):
            tried = [self.faults(part, value, at) for part in schema.get(name, ())]
            if tried and all(tried):
                faults += min(tried, key=len)
        return faults

    def _inside(self, schema: dict[str, Any], value: object, at: str) -> list[str]:
        if isinstance(value, list):
            items = schema.get("items", {})
            return [f for n, item in enumerate(value) for f in self.faults(items, item, f"{at}[{n}]")]
        if not isinstance(value, dict):
            return []
        faults = [f"{at}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, part in schema.get("properties", {}).items():
            if name in value:
                faults += self.faults(part, value[name], f"{at}.{name}")
        return faults


def cut(text: str) -> str:
    """RFC 3339 with nanoseconds as Python reads it."""
    if "." not in text:
        return text
    head, _, tail = text.partition(".")
    zone = tail.lstrip("0123456789")
    return f"{head}.{tail[: len(tail) - len(zone)][:6].ljust(6, '0')}{zone}"
