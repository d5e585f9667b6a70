"""Pytest plugin: replaces one function of Catalyst by one that does nothing, before any test imports it.

The environment names the function ("catalyst.domain.price:round_stop", "module:Class.method"), what it returns (a
Python literal), and the file for the result. `tests.census_sample` starts pytest with this plugin.
"""

import ast
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

TARGET = "CATALYST_TEST_DISABLED"
RESULT = "CATALYST_TEST_DISABLED_RESULT"
REPORT = "CATALYST_TEST_DISABLED_REPORT"


class DisabledCode:
    """Function that is replaced, how often it was called, and how each test ended."""

    def __init__(self, target: str, result: object) -> None:
        self.calls = 0
        self.failures: list[dict[str, str]] = []
        module_name, _, path = target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *classes, name = path.split(".")
        for each in classes:
            owner = getattr(owner, each)
        original = inspect.getattr_static(owner, name)
        replacement = self._replacement_of(getattr(owner, name), result)
        setattr(owner, name, staticmethod(replacement) if isinstance(original, staticmethod) else replacement)
        for module in list(sys.modules.values()):  # modules that imported the function by name
            if module.__name__.startswith("catalyst") and getattr(module, name, None) is original:
                setattr(module, name, replacement)

    def _replacement_of(self, original: Callable[..., object], result: object) -> Callable[..., object]:
        def count_call(*_: object, **__: object) -> object:
            self.calls += 1
            return result

        async def count_awaited_call(*_: object, **__: object) -> object:
            return count_call()

        return count_awaited_call if inspect.iscoroutinefunction(original) else count_call

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.excinfo is not None and report.failed:
            kind = call.excinfo.type
            failed = issubclass(kind, AssertionError | pytest.fail.Exception)
            self.failures.append(
                {"test": item.nodeid, "phase": call.when, "error": "assertion" if failed else kind.__name__}
            )
        return report

    def pytest_sessionfinish(self) -> None:
        text = json.dumps({"calls": self.calls, "failures": self.failures})
        Path(os.environ[REPORT]).write_text(text)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Replace the function before the first conftest imports Catalyst."""
    disabled = DisabledCode(os.environ[TARGET], ast.literal_eval(os.environ[RESULT]))
    early_config.pluginmanager.register(disabled)
