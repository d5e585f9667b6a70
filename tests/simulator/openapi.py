"""Checks JSON against an OpenAPI document; covers the part of the schema language that a trading API uses."""

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

    def response_schema(self, method: str, path: str, status: int) -> dict[str, Any]:
        """Return the schema of a response."""
        responses = self.document["paths"][path][method.lower()]["responses"]
        schema: dict[str, Any] = responses[str(status)]["content"]["application/json"]["schema"]
        return schema

    def violations(self, schema: dict[str, Any], value: object, at: str = "$") -> list[str]:
        """Return every difference between the value and the schema."""
        if "$ref" in schema:
            target: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            return self.violations(
                {**target, **{k: v for k, v in schema.items() if k == "nullable"}}, value, at
            )
        if value is None:
            return [] if schema.get("nullable") else [f"{at}: null"]
        violations = self._choice_violations(schema, value, at)
        kind = schema.get("type")
        if kind is not None:
            has_type = isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
            if not has_type:
                return [f"{at}: {value!r} is no {kind}"]
        if "enum" in schema and value not in schema["enum"]:
            violations.append(f"{at}: {value!r} is none of {schema['enum']}")
        if schema.get("format") in FORMATS and isinstance(value, str):
            try:
                FORMATS[schema["format"]](truncate_nanoseconds(value))
            except ValueError:
                violations.append(f"{at}: {value!r} is no {schema['format']}")
        return violations + self._member_violations(schema, value, at)

    def _choice_violations(self, schema: dict[str, Any], value: object, at: str) -> list[str]:
        violations = [fault for part in schema.get("allOf", ()) for fault in self.violations(part, value, at)]
        for name in ("anyOf", "oneOf"):
            tried = [self.violations(part, value, at) for part in schema.get(name, ())]
            if tried and all(tried):
                violations += min(tried, key=len)
        return violations

    def _member_violations(self, schema: dict[str, Any], value: object, at: str) -> list[str]:
        if isinstance(value, list):
            items = schema.get("items", {})
            return [f for n, item in enumerate(value) for f in self.violations(items, item, f"{at}[{n}]")]
        if not isinstance(value, dict):
            return []
        violations = [f"{at}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, part in schema.get("properties", {}).items():
            if name in value:
                violations += self.violations(part, value[name], f"{at}.{name}")
        return violations


def truncate_nanoseconds(text: str) -> str:
    """Truncate an RFC 3339 time with nanoseconds to the microseconds Python can parse."""
    if "." not in text:
        return text
    head, _, tail = text.partition(".")
    zone = tail.lstrip("0123456789")
    return f"{head}.{tail[: len(tail) - len(zone)][:6].ljust(6, '0')}{zone}"
