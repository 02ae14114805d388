"""Another backbone's dimensions in Triton's configurations: every place is changed, or the export stops."""

import shutil

import pytest

from veridict.deploy.manifest import default_repository
from veridict.deploy.model_config import read_model_config
from veridict.export.convert.retarget import retarget
from veridict.export.convert.settings import ExportError

pytestmark = pytest.mark.export


@pytest.fixture
def repository(tmp_path):
    for path in default_repository().rglob("*.pbtxt"):
        target = tmp_path / path.relative_to(default_repository())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


def test_inputs_outputs_and_warm_up_get_the_dimensions_and_comments_stay(repository):
    before = (repository / "clip_text" / "config.pbtxt").read_text()
    retarget(repository, "TOKENS", (77,))
    retarget(repository, "INTERMEDIATES", (5, 1024))
    for name in ("config.pbtxt", "configs/cpu.pbtxt"):
        text = read_model_config(repository / "clip_text" / name)
        assert [list(t.dims) for t in text.input] == [[77]]
        assert [list(t.dims) for t in text.output] == [[512]], "other tensors keep theirs"
        assert list(text.model_warmup[0].inputs["TOKENS"].dims) == [77]
        image = read_model_config(repository / "clip_image" / name)
        assert {t.name: list(t.dims) for t in image.output} == {"EMBEDDING": [512], "INTERMEDIATES": [5, 1024]}
    assert (repository / "clip_text" / "config.pbtxt").read_text() == before.replace("[ 32 ]", "[ 77 ]")


def test_a_change_that_takes_no_effect_is_an_error_and_writes_nothing(repository):
    with pytest.raises(ExportError, match="has a tensor NOWHERE"):
        retarget(repository, "NOWHERE", (1,))
    odd = repository / "clip_text" / "config.pbtxt"  # the same configuration, laid out in another way
    odd.write_text(odd.read_text().replace('name: "TOKENS"\n    data_type', 'name: "TOKENS" data_type'))
    before = {path: path.read_text() for path in repository.rglob("*.pbtxt")}
    with pytest.raises(ExportError, match=r"clip_text/config\.pbtxt: the dimensions of TOKENS"):
        retarget(repository, "TOKENS", (77,))
    assert {path: path.read_text() for path in repository.rglob("*.pbtxt")} == before
    odd.write_text("name: nonsense")
    with pytest.raises(ValueError, match=r"config\.pbtxt is not a Triton model configuration: 1:"):
        retarget(repository, "TOKENS", (77,))
