"""The plan: the same in every run on a folder, and refused for another request."""

from dataclasses import replace

import pytest

from veridict.deploy.backfill.plan import ImageList, Request, open_plan
from veridict.deploy.backfill.storage import BackfillError, Folder

from .conftest import MODELS


def test_chunks_cover_every_image_once(archive, output, plan):
    images = ImageList(Folder(output), plan)
    assert [plan.size(chunk) for chunk in range(plan.chunks)] == [4, 4, 2]
    assert [plan.first(chunk) for chunk in range(plan.chunks)] == [0, 4, 8]
    sources = [source for chunk in range(plan.chunks) for source in images.sources(chunk)]
    assert sources == [str(archive / f"{number:02d}.jpg") for number in range(10)]


def test_a_resumed_run_has_the_plan_of_the_first_though_the_archive_has_grown(archive, output, plan):
    (archive / "000.jpg").write_bytes(b"came later")
    again, resumed = open_plan(Folder(output), Request((str(archive),)), MODELS)
    assert (again, again.id, resumed) == (plan, plan.id, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("/elsewhere",)}, "other inputs: .*archive, not /elsewhere"),
        ({"limit": 5}, "other limit: None, not 5"),
        ({"chunk": 5}, "other chunk: 4, not 5"),
        ({"column": "url"}, "other column: path, not url"),
    ],
)
def test_another_request_is_refused(archive, output, plan, change, message):
    with pytest.raises(BackfillError, match=message):
        open_plan(Folder(output), replace(Request((str(archive),), chunk=4), **change), MODELS)


def test_other_models_are_refused(archive, output, plan):
    with pytest.raises(BackfillError, match=r"other models: clip clip, .*, not clip new, "):
        open_plan(Folder(output), Request((str(archive),), chunk=4), replace(MODELS, clip="new"))


def test_a_plan_without_its_last_file_is_made_anew(archive, output, plan):
    folder = Folder(output)
    (archive / "000.jpg").write_bytes(b"came later")
    folder.write("plan.json", b"")
    with pytest.raises(BackfillError, match=r"plan.json is damaged"):
        open_plan(folder, Request((str(archive),)), MODELS)
    (archive.parent / "output" / "plan.json").unlink()
    again, resumed = open_plan(folder, Request((str(archive),), chunk=4), MODELS)
    assert (again.images, resumed) == (11, False)


def test_a_list_of_another_plan_is_refused(output, plan):
    with pytest.raises(BackfillError, match="does not belong to its plan"):
        ImageList(Folder(output), replace(plan, images=9))
