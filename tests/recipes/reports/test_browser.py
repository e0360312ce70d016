"""The reports in a browser: they render in both color schemes, and ask the network for nothing."""

import json
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import pytest

from recipes.reports import evaluation, run
from tests.helpers.report_pages import ruler, unit, write_scores, write_stage

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PAGES = ("report.html", "evaluation.html")
# paper of the style sheet, and the browser's numbers of the schemes
PAPERS = {"light": (1, (0xFF, 0xFF, 0xFF)), "dark": (0, (0x14, 0x18, 0x1D))}
SCRIPT = "<img src=http://example.com/x.png><script>1</script>"

if BROWSER is None:
    pytest.skip("no browser: install chromium to see the report rendered", allow_module_level=True)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for stage in ("phase1", "phase2"):
        write_stage(folder, stage, 100, "failed", error=SCRIPT)
        write_scores(folder, stage, "base", [unit("mmlu", 60.0)], failures={"bbh": SCRIPT})
    write_scores(folder, "lce_32k", "long-context", ruler(85.0, (4096, 32768)))
    evaluation.write_report(folder)
    run.write_report(folder)
    return folder


def browse(page: Path, *options: str) -> str:
    """Return what a headless browser without a network prints on opening ``page``."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        # the browser's own calls home
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={page.parent / 'browser'}",
        "--window-size=1200,1600",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def requested(page: Path) -> tuple[str, list[str]]:
    """Return a page's DOM and the addresses that it, not the browser, asks the network for."""
    net_log = page.parent / "net.json"
    dom = browse(page, "--dump-dom", f"--log-net-log={net_log}")
    log = json.loads(net_log.read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]

    addresses = []
    for event in log["events"]:
        if event["type"] != start or "url" not in event["params"]:
            continue
        if event["params"]["network_isolation_key"].startswith("file:"):
            addresses.append(event["params"]["url"])
    return dom, addresses


def pixels(png: Path) -> Counter[tuple[int, int, int]]:
    """Return how often each color occurs in a PNG of 8 bits a channel, without transparency."""
    content = png.read_bytes()
    position = 8
    packed = b""
    width = 0
    while position < len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        data = content[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            width, _, depth, color_type = struct.unpack(">IIBB", data[:10])
            assert (depth, color_type) == (8, 2)
        if kind == b"IDAT":
            packed += data
        position += length + 12

    colors: Counter[tuple[int, int, int]] = Counter()
    for row in unfiltered(zlib.decompress(packed), 3 * width):
        colors.update(zip(row[::3], row[1::3], row[2::3], strict=True))
    return colors


def unfiltered(content: bytes, width: int) -> list[bytearray]:
    """Return the rows of a PNG's pixels; each is stored as a filter and differences."""
    rows = [bytearray(width)]
    for start in range(0, len(content), width + 1):
        kind = content[start]
        row = bytearray(content[start + 1 : start + 1 + width])
        above = rows[-1]
        for index in range(width) if kind else ():
            left = row[index - 3] if index >= 3 else 0
            corner = above[index - 3] if index >= 3 else 0
            row[index] = (row[index] + predicted(kind, left, above[index], corner)) % 256
        rows.append(row)
    return rows[1:]


def predicted(kind: int, left: int, above: int, corner: int) -> int:
    """Return what a PNG's filter predicts of a byte from its neighbors."""
    if kind < 4:
        return (0, left, above, (left + above) // 2)[kind]
    estimate = left + above - corner
    return min((left, above, corner), key=lambda value: abs(estimate - value))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_the_network_for_nothing(run_folder: Path, name: str) -> None:
    dom, addresses = requested(run_folder / name)
    assert addresses == []
    assert "&lt;img src=http://example.com/x.png&gt;" in dom
    assert "<script" not in dom


def test_the_pages_render(run_folder: Path) -> None:
    dom, _ = requested(run_folder / "report.html")
    assert "phase1: general pre-training" in dom
    assert "phase2: math and code pre-training" in dom
    # two of the run and two of each stage that trains
    assert dom.count("<svg ") == 6

    dom, _ = requested(run_folder / "evaluation.html")
    assert "long-context: RULER" in dom
    assert dom.count("<svg ") == 1


def test_a_request_would_have_been_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.com/x.png">')
    assert requested(page)[1] == ["http://example.com/x.png"]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", PAPERS)
def test_a_page_has_its_colors_in_both_schemes(run_folder: Path, name: str, scheme: str) -> None:
    number, paper = PAPERS[scheme]
    screenshot = run_folder / "page.png"
    browse(
        run_folder / name,
        f"--screenshot={screenshot}",
        "--window-size=800,600",
        f"--blink-settings=preferredColorScheme={number}",
    )
    colors = pixels(screenshot)
    assert colors.most_common(1)[0][0] == paper
    assert len(colors) > 50, "text and curves are drawn"
