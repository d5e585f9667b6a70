"""Our OpenAPI document agrees with the broker's, where that is present."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.test_openapi_documents import BROKER, SOURCES, broker_document
from tests.own_document import OPERATIONS, ROWS, field_names, is_data_operation, own_document

# Fields that the broker sends and its document of June 2026 omits.
UNDOCUMENTED = (
    *(".cancel_requested_at", ".subtag", ".source"),
    *(".legs items.expires_at", "DELETE /v2/orders 207 items.body"),
    *("GET /v2/account 200.position_market_value", "items.description"),
    *(f"DELETE /v2/positions 207 items.body.{name}" for name in field_names(ROWS["refusal"])),
)


class Comparison:
    """Two documents of one API, and their differences."""

    def __init__(self, *, data: bool) -> None:
        self.ours: Any = own_document(data=data, with_legacy_fields=True)
        self.theirs: Any = broker_document(data=data)

    def differences(self, label: str) -> Iterator[str]:
        """Yield what our operation says and the broker's does not."""
        method, path = label.split(" ")
        ours, theirs = (document["paths"][path][method.lower()] for document in (self.ours, self.theirs))
        named = [
            {(each["in"], each["name"]) for each in self.parameters(document, path, operation)}
            for document, operation in ((self.ours, ours), (self.theirs, theirs))
        ]
        yield from (f"{label} has no parameter {each}" for each in named[0] - named[1])
        if "requestBody" in ours:
            yield from self.compare(
                f"{label} body", *map(json_schema, (ours["requestBody"], theirs["requestBody"]))
            )
        for status, response in ours["responses"].items():
            if status not in theirs["responses"]:
                yield f"{label} has no answer {status}"
            elif "content" in response:
                pair = (response, resolve(self.theirs, theirs["responses"][status]))
                yield from self.compare(f"{label} {status}", *map(json_schema, pair))

    def parameters(self, document: Any, path: str, operation: Any) -> list[Any]:
        listed = [*document["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        return [resolve(document, each) for each in listed]

    def compare(self, at: str, ours: Any, theirs: Any) -> Iterator[str]:
        """Yield each field of ours that is not theirs or has another type, and each that they require alone."""
        mine, others = list(alternatives(self.ours, ours)), list(alternatives(self.theirs, theirs))
        types = {each["type"] for each in mine} - {each.get("type", "object") for each in others}
        if types and any(others):
            yield f"{at} is {types}"
        for kind in ("items", "additionalProperties"):
            inner, outer = (
                next((each[kind] for each in side if isinstance(each.get(kind), dict)), None)
                for side in (mine, others)
            )
            if inner is not None and outer:
                yield from self.compare(f"{at} {kind}", inner, outer)
        values = {value for each in mine for value in each.get("enum", ()) if value}
        known = {value for each in others for value in each.get("enum", ())}
        if known and values - known:
            yield f"{at} has the values {sorted(values - known)}"
        yield from self.compare_fields(at, mine, others)

    def compare_fields(self, at: str, mine: list[Any], others: list[Any]) -> Iterator[str]:
        fields = [
            {name: field for each in side for name, field in each.get("properties", {}).items()}
            for side in (mine, others)
        ]
        if not fields[0] or not fields[1]:
            return
        for name in fields[0]:
            if name not in fields[1]:
                if not f"{at}.{name}".endswith(UNDOCUMENTED):
                    yield f"{at} has no {name}"
            else:
                yield from self.compare(f"{at}.{name}", fields[0][name], fields[1][name])
        required = set.intersection(*(set(each.get("required", ())) for each in others))
        yield from (f"{at} requires {name}" for name in required - fields[0].keys())


def resolve(document: Any, part: Any) -> Any:
    """Return the part that a reference names."""
    while "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def alternatives(document: Any, schema: Any) -> Iterator[Any]:
    """Yield the schema, or each of its alternatives and parts."""
    schema = resolve(document, schema)
    parts = [part for kind in ("oneOf", "anyOf", "allOf") for part in schema.get(kind, ())]
    for part in parts:
        yield from alternatives(document, part)
    if not parts:
        yield schema


def json_schema(part: Any) -> Any:
    return part["content"]["application/json"]["schema"]


@pytest.mark.skipif(BROKER not in SOURCES, reason="the broker's documents are not here")
def test_own_document_agrees_with_the_document_of_the_broker() -> None:
    """Each parameter, field, type and value of ours is the broker's, and no field that it requires is absent."""
    comparisons = {data: Comparison(data=data) for data in (False, True)}
    assert [
        difference
        for label in OPERATIONS
        for difference in comparisons[is_data_operation(label)].differences(label)
    ] == []
