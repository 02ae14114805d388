"""The README's Python runs as it stands, against the real server."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.live
def test_python_blocks_run(triton, tmp_path, encode, cat, monkeypatch, capsys):
    (tmp_path / "photo.jpg").write_bytes(encode(cat))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block.replace("127.0.0.1:8001", triton.url), "README.md", "exec"), {})
    assert "Final Verdict" in capsys.readouterr().out


def test_every_local_link_and_layout_folder_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"^\| `([a-z_]+/)` \|", text, flags=re.MULTILINE):
        assert (ROOT / target).exists(), target


def test_bundled_weights_fit_and_are_no_pickles():
    weights = [p for p in (*ROOT.glob("export/weights_data/*"), *ROOT.glob("model_repository/*/1/*")) if p.is_file()]
    binaries = [p for p in weights if p.suffix not in {".py", ".md", ".json"} and "__pycache__" not in p.parts]
    assert {p.suffix or p.name for p in binaries} <= {".safetensors", ".onnx", ".npz", ".txt", ".gitkeep"}
    assert sum(os.path.getsize(p) for p in binaries) < 140e6
    assert max(os.path.getsize(p) for p in binaries) < 50e6
