"""The sample of the promises is about their tests, and its runner tells a test that tests from one that does not."""

import re
from dataclasses import replace

import pytest

from tests.census_sample import SAMPLES, Sample, survival_reason
from tests.promises import TESTS, functions_of_tests, named_tests, promised_tests

PAGES = [TESTS.parent / "docs" / name for name in ("faults.md", "reliability.md")]
FAST = [
    sample
    for sample in SAMPLES
    if (sample.promise, sample.test.split("/")[0]) in {("C09", "broker"), ("B12", "simulator")}
]


def promises_of_pages() -> dict[str, set[str]]:
    """Return the tests in each promise's row of the pages."""
    rows = [row for page in PAGES for row in re.findall(r"^\| ([FIR]\d+) \|(.*)$", page.read_text(), re.M)]
    return {promise: named_tests(row) for promise, row in rows}


def test_sample_names_tests_of_its_promises() -> None:
    """Each sample's test exists in its file and shows its promise; behaviours, faults, rules and invariants all have
    samples."""
    existing = {(str(path.relative_to(TESTS)), node.name) for path, node in functions_of_tests()}
    shown = promises_of_pages() | promised_tests("B") | promised_tests("C")
    for sample in SAMPLES:
        file, _, name = sample.test.partition("::")
        assert (file, name) in existing, sample
        assert name in shown[sample.promise], sample
    assert {sample.promise[0] for sample in SAMPLES} == set("BCFIR")


@pytest.mark.parametrize("sample", FAST, ids=lambda sample: sample.promise)
def test_sampled_test_fails_without_its_code(sample: Sample) -> None:
    """An assertion fails when the code of the promise does nothing; `python -m tests.census_sample` runs them all."""
    assert survival_reason(sample) is None


def test_runner_reports_a_test_that_does_not_reach_the_code() -> None:
    """A test that passes because it never calls the disabled code is no proof."""
    sample = replace(FAST[-1], code="catalyst.domain.price:round_stop")
    assert survival_reason(sample) == "the test does not call this code"
