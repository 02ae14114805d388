"""The page in a real Chromium, with the real detector and a real worker of explanations."""

import contextlib
import http.client
import json
import re
import tempfile
import time

import pytest

from veridict.deploy.command import main
from veridict.deploy.ui.database import open_database
from veridict.deploy.ui.records import latest_decisions
from veridict.deploy.ui.store import ReviewStore

pytestmark = [pytest.mark.slow, pytest.mark.live]
LONG = 60_000  # milliseconds; the machine may be busy
#: Counts, in ``window.runs``, how often Streamlit's script starts or ends.
COUNT_RUNS = """() => {
    window.runs = 0;
    new MutationObserver(() => { window.runs += 1; }).observe(
        document.querySelector('[data-testid="stApp"]'), {attributeFilter: ["data-test-script-state"]});
}"""


@pytest.fixture(scope="module")
def state():
    """A folder with a short path: the embedded Redis has its socket in it."""
    with tempfile.TemporaryDirectory(prefix="vui") as folder:
        yield folder


@pytest.fixture(scope="module")
def waiting(encode, cat, coffee):
    """Images for the queue: more than reviewers in this file, since each of them holds one at the end of its test."""
    crops = {f"{name}-{at}": pixels[at:, at:] for name, pixels in (("cat", cat), ("coffee", coffee)) for at in range(4)}
    return {f"{name}.jpg": encode(pixels) for name, pixels in crops.items()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, waiting, detector):
    """Return the file as ``veridict detect --json`` writes it; each answer says low confidence."""
    folder = tmp_path_factory.mktemp("sources")
    lines = []
    for name, data in waiting.items():
        (folder / name).write_bytes(data)
        document = json.loads(detector.detect(data).to_json())
        lines.append(json.dumps({"path": name, **document, "confidence": "low"}) + "\n")
    file = folder / "answers.jsonl"
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="module")
def service(state, sources, triton, start_ui):
    """A running page; its tests leave decisions in its database."""
    arguments = ["--state", state, "--url", triton.url, "--queue", str(sources)]
    with start_ui(*arguments) as page:
        yield page


@pytest.fixture
def open_page(service, browser):
    """Return a function that opens the page as one reviewer, in a session of its own."""
    with contextlib.ExitStack() as stack:

        def open_page(reviewer, path="", **options):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            page = context.new_page()
            page.set_default_timeout(LONG)
            page.goto(f"{service.url}/{path}?reviewer={reviewer}")
            return page

        yield open_page


def idle(page):
    """Wait until the script of the page has run to its end: until then keys press the buttons of the run before."""
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    page.wait_for_timeout(100)


def heading(page):
    idle(page)
    return page.locator("h1").inner_text()


def upload(page, data, name="upload.jpg"):
    chooser = page.locator("input[type=file]").first
    chooser.set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})


def new_map(page, seen):
    """Wait for a map that is not among ``seen``, and add it."""
    ends = time.monotonic() + LONG / 1000
    before = len(seen)
    while len(seen) == before:
        assert time.monotonic() < ends, "the map did not change"
        page.wait_for_timeout(50)
        seen.add(page.locator("img.layer").evaluate("img => fetch(img.src).then(r => r.text())"))


def test_it_says_what_it_uses_and_what_it_started(service, triton):
    said = "\n".join(service.lines)
    assert f"uses the detector at {triton.url}" in said
    assert "started an explanation worker" in said


@pytest.mark.parametrize(("name", "status"), [("127.0.0.1", 101), ("evil.example", 403)])
def test_a_name_that_is_not_of_this_machine_is_refused(service, name, status):
    """A web site may let its own name resolve to 127.0.0.1 (DNS rebinding)."""
    port = int(service.url.rpartition(":")[2])
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers = {
        "Host": f"{name}:{port}",
        "Origin": f"http://{name}:{port}",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/_stcore/stream", headers={**upgrade, **headers})
        assert connection.getresponse().status == status


def test_two_reviewers_get_different_items_and_a_reload_keeps_them(open_page):
    pages = [open_page("eve"), open_page("frank")]
    shown = [heading(page) for page in pages]
    assert shown[0] != shown[1]
    for page, name in zip(pages, shown, strict=True):
        page.reload()
        page.get_by_role("button", name="Confirm").wait_for()
        assert heading(page) == name
        page.keyboard.press("n")  # gives the item back
        page.wait_for_function("name => document.querySelector('h1')?.innerText !== name", arg=name)


def test_an_upload_is_judged_explained_and_shown_with_its_faces(open_page, encode, astronaut):
    page = open_page("grace", "judge")
    upload(page, b"no image", "broken.jpg")
    page.get_by_text("[image.").wait_for()
    assert re.match(r"\[image\.\w+\] the .+", page.get_by_role("alert").inner_text())
    upload(page, encode(astronaut))
    page.get_by_role("heading", name="upload.jpg").wait_for()
    page.get_by_role("img", name=re.compile(r"Face 1: fake probability \d\.\d\d")).wait_for()
    assert page.get_by_text(re.compile(r"is below the threshold|reaches the threshold")).count() == 1
    picture = page.locator("img.picture")
    page.get_by_role("button", name=re.compile("Native pixels")).click()
    assert picture.bounding_box()["width"] == astronaut.shape[1]
    page.get_by_role("button", name=re.compile("Compute heatmaps")).click()
    page.get_by_text(re.compile(r"\d of \d heatmaps finished")).wait_for()
    page.locator('img[alt^="Grad-CAM heatmap"]').wait_for()
    page.reload()  # an upload is kept in the session, which a reload ends; its item stays
    page.goto(page.url.replace("/judge", "/"))
    page.get_by_role("heading", name="upload.jpg").wait_for()
    page.locator('img[alt^="Grad-CAM heatmap"]').wait_for()


def test_sliders_change_the_map(open_page, encode, cat):
    page = open_page("heidi", "judge")
    upload(page, encode(cat[8:, 8:]))
    page.get_by_role("heading", name="upload.jpg").wait_for()
    seen = set()
    for view, names in {"Error level": ("Quality", "Gain", "Scale"), "Noise": ("Gain", "Scale")}.items():
        page.get_by_text(view, exact=True).click()
        page.get_by_role("img", name=re.compile(f"^{view} map")).wait_for()
        new_map(page, seen)
        for name in names:
            page.get_by_role("slider", name=name).press("ArrowRight")
            new_map(page, seen)
    page.get_by_role("slider", name="Overlay").press("ArrowLeft")
    page.locator('img.layer[style*="opacity: 0.95"]').wait_for()


def test_a_second_picture_stands_beside_the_first(open_page, waiting):
    page = open_page("ivan")
    page.get_by_text("Compare with a second picture").click()
    upload(page, waiting["coffee-0.jpg"], "second.jpg")
    page.get_by_role("img", name=re.compile("^second.jpg")).wait_for()
    first, second = (picture.bounding_box() for picture in page.locator("img.picture").all())
    assert second["x"] > first["x"] + first["width"] / 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_have_names_and_contrast_for_everybody(open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    for path, landmark in (("", "Evidence"), ("judge", "A picture to judge")):
        page = open_page("judy", path, color_scheme=scheme, viewport={"width": 390, "height": 844})
        page.get_by_text(landmark).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing sticks out on a phone
        page.wait_for_timeout(500)
        found = axe.Axe().run(page).response["violations"]
        # Streamlit's own: its drop zone has both a role and a label, and its sidebar scrolls before it has content.
        own = {"presentation-role-conflict", "scrollable-region-focusable"}
        assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["id"] not in own] == []


def test_keys_decide_and_decisions_outlive_the_page(
    open_page, start_ui, state, triton, browser, tmp_path, monkeypatch, capsys
):
    store = ReviewStore(open_database(f"sqlite:///{state}/review/review.sqlite"))
    page = open_page("kim")
    first = heading(page)
    box = page.get_by_role("textbox", name="In your own words")
    box.click()
    page.keyboard.type("an odd use of zoom")  # holds every key that decides
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    assert not latest_decisions(store)
    assert heading(page) == first
    page.keyboard.press("o")
    page.get_by_text(f"Stored: overturned {first}").wait_for()
    second = heading(page)
    assert second != first
    page.keyboard.press("a")
    page.get_by_text(f"Stored: confirmed {second}").wait_for()
    decided = [(d.kind, d.reason, d.reviewer, i.name) for d, i in latest_decisions(store)]
    idle(page)
    assert decided == [("confirm", "", "kim", second), ("overturn", "an odd use of zoom", "kim", first)]
    page.keyboard.press("z")
    page.get_by_text(f"Undone: {second}").wait_for()
    assert heading(page) == second
    page.keyboard.press("a")
    page.get_by_text(f"Stored: confirmed {second}").wait_for()

    # Still there after a restart, and read by the product itself.
    page.close()
    with start_ui("--state", state, "--url", triton.url, "--no-worker") as again:
        page = browser.new_page()
        page.set_default_timeout(LONG)
        page.goto(f"{again.url}/results?reviewer=kim")
        page.get_by_text("Latest decisions").wait_for()
        page.get_by_role("cell", name="an odd use of zoom").wait_for()
        idle(page)
        page.evaluate(COUNT_RUNS)
        with page.expect_download() as download:
            page.get_by_role("button", name="Export as ZIP").click()
        assert download.value.path().stat().st_size > 10_000
        page.wait_for_timeout(500)
        assert page.evaluate("window.runs") == 0  # a run that starts then can lose the answer to the click
        page.close()
    out = tmp_path / "out"
    monkeypatch.delenv("VERIDICT_URL", raising=False)
    assert main(["ui", "--state", state, "--export", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--labelled", str(out / "manifest.csv"), "--url", triton.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiers"]["clean"]
