"""The run's report in a browser: it renders by itself, and the browser asks the network for nothing."""

import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from recipes.registry.resolve import resolve_pretraining
from recipes.reports.run import write_report
from recipes.runs.stage_folder import write_recipe

pytestmark = pytest.mark.slow

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

if BROWSER is None:
    pytest.skip("no browser: install chromium to see the report rendered", allow_module_level=True)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    for name in ("phase1", "phase2"):
        recipe = resolve_pretraining(name, "tiny")
        folder = tmp_path / "run" / name
        (folder / "metrics").mkdir(parents=True)
        write_recipe(folder, recipe)
        rows = [
            {
                "step": step,
                "tokens": step * 8192,
                "loss": 8 - step / 50,
                "lr": recipe.schedule.lr((step - 1) * 8192),
            }
            for step in range(1, 101)
        ]
        (folder / "metrics/steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        manifest = {
            "stage": name,
            "status": "failed",
            "error": "<img src=http://example.com/x.png><script>1</script>",
        }
        (folder / "manifest.json").write_text(
            json.dumps(manifest | {"tokens": recipe.tokens.value})
        )
    write_report(tmp_path / "run")
    return tmp_path / "run"


def browse(page: Path, *options: str) -> str:
    """Return what a headless browser without a network prints on opening ``page``."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    # the browser's own calls home
    command += [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    command += [f"--user-data-dir={page.parent / 'browser'}", "--window-size=1200,1600", *options]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def requested(page: Path) -> tuple[str, list[str]]:
    """Return a page's DOM and the addresses that it, and not the browser on its own, asked the network for."""
    net_log = page.parent / "net.json"
    dom = browse(page, "--dump-dom", f"--log-net-log={net_log}")
    log = json.loads(net_log.read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [
        event["params"]
        for event in log["events"]
        if event["type"] == start and "url" in event["params"]
    ]
    return dom, [
        request["url"]
        for request in requests
        if request["network_isolation_key"].startswith("file:")
    ]


def colours(png: Path) -> int:
    """Return how many different pixels a PNG of 8 bits a channel has, as its filtered rows hold them."""
    content, position, packed = png.read_bytes(), 8, b""
    while position < len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        packed += content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += length + 12
    return len(set(zip(*[iter(zlib.decompress(packed))] * 3, strict=False)))


def test_the_report_renders_and_asks_the_network_for_nothing(run_folder: Path) -> None:
    dom, addresses = requested(run_folder / "report.html")
    assert addresses == []
    assert "phase1: general pre-training" in dom
    assert "phase2: math and code pre-training" in dom
    assert dom.count('<svg viewBox="0 0 480') == 6
    assert "&lt;img src=http://example.com/x.png&gt;" in dom
    assert "<script" not in dom


def test_a_request_would_have_been_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.com/x.png">')
    assert requested(page)[1] == ["http://example.com/x.png"]


def test_the_picture_is_not_blank(run_folder: Path) -> None:
    screenshot, blank = run_folder / "report.png", run_folder / "blank.png"
    browse(run_folder / "report.html", f"--screenshot={screenshot}")
    (run_folder / "blank.html").write_text("<!DOCTYPE html>")
    browse(run_folder / "blank.html", f"--screenshot={blank}")
    assert colours(screenshot) > 10 * colours(blank)
