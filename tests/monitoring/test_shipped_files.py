"""The files of monitoring/: every query names a metric that is served, and promtool accepts rules and metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from catalyst.daemon.monitoring.metrics import render_metrics
from catalyst.installation import shipped_folder
from tests.monitoring.sample_reading import HEALTHY

ROOT: Final = Path(__file__).parents[2]
FILES: Final = shipped_folder("monitoring")
# `make promtool` unpacks Debian's package there; a promtool of the machine is as good.
PROMTOOL: Final = shutil.which("promtool", path=str(ROOT / ".promtool/usr/bin")) or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: `make promtool` unpacks Debian's")

UNITS: Final = {"none", "s", "bytes", "currencyUSD", "percentunit"}


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression: `catalyst_…`, `process_…` and `up`."""
    without_texts = re.sub(r'"[^"]*"|\{[^}]*\}', " ", expression)
    names = set(re.findall(r"\b(?:catalyst|process)_\w+|\bup\b", without_texts))
    assert names, expression
    return names


def served_samples() -> set[str]:
    """Return the names under which samples of every family are stored, `up` of each scrape included."""
    names = {"up"}
    for name, kind in re.findall(
        r"^# TYPE (\S+) (\S+)$", render_metrics(HEALTHY, 0.0).decode(), re.MULTILINE
    ):
        names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FILES / "grafana-dashboard.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alert-rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_query_names_a_served_metric() -> None:
    """Dashboard and rules ask for nothing that /metrics does not serve; a misspelt name is found."""
    served = served_samples()
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for rule in rules()]
    assert len(queries) > 30
    assert {name for query in queries for name in metrics_of(query)} - served == set()
    assert metrics_of('rate(catalyst_orders_second_bucket{le="1"}[5m])') - served


def test_every_own_metric_is_on_the_dashboard_or_in_a_rule_or_named_in_the_page() -> None:
    """docs/monitoring.md explains each family of ours."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    families = re.findall(r"^# TYPE (catalyst_\S+) ", render_metrics(HEALTHY, 0.0).decode(), re.MULTILINE)
    assert [name for name in families if f"`{name}`" not in page] == []
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page] == []


def test_dashboard_has_panels_with_titles_units_and_their_own_place() -> None:
    """Each panel has a title, a description, a known unit and queries of the chosen source; none covers another."""
    board = dashboard()
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job"]
    assert board["timezone"] == "America/New_York"
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["type"] in ("stat", "timeseries")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert [target["refId"] for target in panel["targets"]] == list("ABCD")[: len(panel["targets"])]
        for target in panel["targets"]:
            assert 'job="$job"' in target["expr"]
            assert (
                target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            )
            assert target["legendFormat"] or panel["type"] == "stat"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells
        cells |= own
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) >= 15


def test_every_rule_says_what_to_do() -> None:
    """Each rule has a severity, a summary and an action; the file of its tests names each."""
    tested = (FILES / "alert-rules-test.yml").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "action"}
        assert f'alertname="{rule["alert"]}"' in tested


@needs_promtool
@pytest.mark.parametrize(
    "command", [("check", "rules", "alert-rules.yml"), ("test", "rules", "alert-rules-test.yml")]
)
def test_promtool_accepts_the_rules_and_their_tests(command: tuple[str, ...]) -> None:
    """The rules are valid; each fires when its fault lasts, and none does on a healthy day."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *command], cwd=FILES, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SUCCESS" in done.stdout


@needs_promtool
def test_promtool_finds_nothing_in_the_metrics() -> None:
    """Names, units and help texts follow Prometheus's conventions; a gauge called a total is found."""
    assert PROMTOOL is not None
    body = render_metrics(HEALTHY, 0.0)
    check = [PROMTOOL, "check", "metrics"]
    clean = subprocess.run(check, input=body, capture_output=True, check=False)
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, b"", b"")
    wrong = body.replace(b"catalyst_ready", b"catalyst_ready_total")
    assert subprocess.run(check, input=wrong, capture_output=True, check=False).returncode != 0
