"""``veridict ui`` starts what is missing: a detector, a worker of explanations, and the page; it feeds the queue."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from veridict.client import DetectorClient, ServerError
from veridict.explain import ExplainError
from veridict.explain.jobs.embedded_redis import is_running
from veridict.explain.jobs.store import Store

from ..launcher import LaunchError, ServerSettings, TritonServer
from ..local_http import open_url
from ..manifest import RepositoryError
from .database import open_database
from .images import ImageFolder, delete_expired
from .processes import child
from .settings import UiSettings
from .sources import MAX_BYTES, Feed
from .store import ReviewStore

#: Seconds between two looks at the sources, and between two deletions of images whose time is over.
FEED_SECONDS, RETENTION_SECONDS = 5.0, 600.0
_PAGE_SECONDS = 60.0
LOOPBACK = ("127.0.0.1", "localhost")
_APP = Path(__file__).parent / "app.py"
#: Blue that is readable as text, in the light and in the dark theme (WCAG 1.4.3). No button has it as its ground.
_BLUE = {"light": "#1d5fb4", "dark": "#5ba4f5"}


@contextlib.contextmanager
def detector(settings: UiSettings, own: bool) -> Iterator[UiSettings]:
    """Yield settings with the address of a detector: the given one, or a server of this command's own.

    ``own``: no address was given, so a server is started unless the default address has one. A given address is never
    replaced: its server may come later.

    Raises:
        LaunchError: there is no detector, and a server of its own cannot be started.
    """
    with DetectorClient(config=settings.client_config()) as client:
        ready = client.ready(timeout=2.0)
    if ready or not own:
        state = "uses the detector" if ready else "waits for the detector, which does not answer yet,"
        yield _noted(settings, f"{state} at {settings.url}")
        return
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(TritonServer(ServerSettings(grpc_port=0, http_port=0, metrics_port=0)))
        except (LaunchError, RepositoryError) as error:
            raise LaunchError(
                f"no detector answers at {settings.url}, and none can be started here ({error}); name a running one "
                "with --url or VERIDICT_URL"
            ) from None
        yield _noted(replace(settings, url=server.url, tls=None), f"started a detector at {server.url}")


@contextlib.contextmanager
def worker(settings: UiSettings, wanted: bool, log: Path) -> Iterator[UiSettings]:
    """Yield settings after starting a worker of explanations where there is none."""
    state = Path(settings.state)
    if settings.redis_url:
        yield _noted(settings, "uses the explanation queue of VERIDICT_REDIS_URL or --redis")
    elif is_running(state / "redis"):
        yield _noted(settings, "uses the explanation worker that runs already")
    elif not wanted:
        yield _noted(settings, "started no explanation worker: no heatmaps")
    elif importlib.util.find_spec("captum") is None:
        yield _noted(settings, "has no heatmaps: pip install 'veridict[explain]'")
    else:
        command = [sys.executable, "-m", "veridict.deploy.command", "worker", "--url", settings.url, "--port", "0"]
        # A person waits for these heatmaps: the worker does not pause for verdicts, and gets more than idle cores.
        command += ["--nice", "5", "--share", "1", "--state", settings.state]
        command += ["--store", settings.store_url] if settings.store_url else []
        command += ["--repository", settings.repository] if settings.repository else []
        for option, name in zip(("--tls-root", "--tls-certificate", "--tls-key"), settings.tls or (), strict=False):
            command += [option, name] if name else []
        command += ["--tls"] if settings.tls is not None else []
        with child(command, {}, log):
            yield _noted(settings, f"started an explanation worker; its log: {log}")


def _noted(settings: UiSettings, note: str) -> UiSettings:
    print(f"veridict ui {note}", flush=True)
    return replace(settings, notes=(*settings.notes, note[0].upper() + note[1:] + "."))


def page_command(host: str, port: int, names: Sequence[str] = ()) -> list[str]:
    """Return Streamlit's command line: no telemetry, no agent interface, XSRF protection, uploads up to the limit.

    ``names``: host names under which people open the page, besides those of this machine. On a loopback address no
    other name is accepted: else a web site whose name resolves to 127.0.0.1 (DNS rebinding) could read the page.
    """
    options: dict[str, object] = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.enableAgentApi": "false",
        "server.maxUploadSize": MAX_BYTES // (1024 * 1024),
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "theme.paddingTop": "1rem",
        "theme.paddingBottom": "2rem",
        "theme.light.primaryColor": _BLUE["light"],
        "theme.dark.primaryColor": _BLUE["dark"],
    }
    local = ["localhost", "127.0.0.1", host] if names or host in LOOPBACK else []
    command = [sys.executable, "-m", "streamlit", "run", str(_APP)]
    command += [f"--{name}={value}" for name, value in options.items()]
    return command + [f"--server.allowedHosts={name}" for name in dict.fromkeys([*local, *names])]


def wait_for_page(host: str, port: int) -> None:
    """Return when the page's server answers.

    Raises:
        LaunchError: it did not answer in a minute.
    """
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - where to ask, not where to listen
    ends = time.monotonic() + _PAGE_SECONDS
    while time.monotonic() < ends:
        try:
            open_url(f"http://{shown}:{port}/_stcore/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise LaunchError(f"the page did not answer after {_PAGE_SECONDS:.0f} s")


def make_feed(settings: UiSettings, roots: tuple[Path, ...] = ()) -> Feed:
    """Return what reads the sources into the database.

    Raises:
        DatabaseError: the database cannot be used.
    """
    store = ReviewStore(open_database(settings.database), settings.lease)

    def find_image(sha256: str) -> bytes | None:
        try:
            return Store(settings.queue().store).get_image(sha256)
        except ExplainError:
            return None

    sources = tuple(Path(source) for source in settings.sources)
    return Feed(store, ImageFolder(settings.folder), sources, roots, find_image)


def keep_feeding(feed: Feed, settings: UiSettings, stop: threading.Event) -> None:
    """Read the sources and delete old images, again and again, until ``stop`` is set; a failure is said once."""
    said = ""
    deleted_at = float("-inf")
    with DetectorClient(config=settings.client_config()) as client:
        while True:
            problem, began = "", time.monotonic()
            try:
                if time.monotonic() - deleted_at >= RETENTION_SECONDS:
                    delete_expired(feed.store, feed.images, settings.keep_days, settings.queue().store)
                    deleted_at = time.monotonic()
                feed.read(client)
            except ServerError as error:
                problem = f"the queue waits for the detector: [{error.code}] {error.message}"
            except Exception as error:  # the page goes on, and the next round tries again
                problem = f"the queue was not read: {type(error).__name__}: {error}"
            if problem and problem != said:
                print(f"veridict ui: {problem}", file=sys.stderr, flush=True)
            said = problem
            # A folder of very many files is looked through for a tenth of the time at most.
            if stop.wait(max(FEED_SECONDS, 10 * (time.monotonic() - began))):
                return
