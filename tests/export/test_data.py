"""Reading labelled images, and augmentation as a pure function of its generator."""

import numpy as np
import pytest

from veridict.export.datasets import find_folders, read_categorised, read_image, read_labelled
from veridict.export.prompts import read_kinds, read_prompts
from veridict.export.train import augment


def test_folders_name_source_split_and_label(tmp_path, encode, cat):
    for part in ("faces/a/train/real", "faces/a/val/fake", "b/fake", "c/other"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "x.jpg").write_bytes(encode(cat))
    (tmp_path / "b" / "fake" / "notes.txt").write_text("no image")
    found = [(s.source, s.split, s.label) for s in find_folders(tmp_path)]
    assert found == [("b", "", "fake"), ("faces/a", "train", "real"), ("faces/a", "val", "fake")]
    assert [s.split for s in find_folders(tmp_path, "val")] == ["val"]
    with pytest.raises(FileNotFoundError, match="no images"):
        find_folders(tmp_path / "c")


def test_manifest_rows_map_to_categories(tmp_path):
    (tmp_path / "m.csv").write_text(
        "file,label,split,source,kind,caption\n"
        "a.jpg,cartoon__giraffe,train,s,cartoon,\n"
        "b.jpg,people_photo,train,s,person,a man runs | a runner\n"
        "c.jpg,x,train,s,unknown_kind,\n"
    )
    rows = read_categorised(tmp_path / "m.csv", read_kinds())
    assert [(r.category, r.caption) for r in rows] == [("artwork", "giraffe"), ("person", "a man runs")]


def test_labelled_rows_name_their_family(tmp_path):
    (tmp_path / "m.csv").write_text(
        "file,label,split,source,kind,caption,group\n"
        "a.avif,real,train,wild/a,photograph,,\n"
        "b.avif,fake,val,wild/b,FLUX.1,,family\n"
        "c.jpg,cartoon,train,scenes/c,cartoon,,\n"
    )
    rows = read_labelled(tmp_path / "m.csv")
    assert [(r.label, r.family, r.kind, r.split) for r in rows] == [
        ("real", "wild/a", "photograph", "train"),
        ("fake", "family", "FLUX.1", "val"),
    ]
    assert [r.source for r in read_labelled(tmp_path / "m.csv", ["wild/b"])] == ["wild/b"]
    assert [r.source for r in read_labelled(tmp_path / "m.csv", splits=["train"])] == ["wild/a"]
    with pytest.raises(ValueError, match="begins with 'scenes'"):
        read_labelled(tmp_path / "m.csv", ["scenes"])
    with pytest.raises(ValueError, match="no labelled image"):
        read_labelled(tmp_path / "m.csv", splits=["test"])


def test_avif_is_read_though_the_service_refuses_it(tmp_path, cat):
    from PIL import Image

    from veridict.export.tiers import apply_tier
    from veridict.forensics.decode import decode_image

    path = tmp_path / "x.avif"
    Image.fromarray(cat).save(path, quality=90)
    assert np.abs(read_image(path).astype(int) - cat).mean() < 6
    data = apply_tier(path.read_bytes(), "clean")
    assert decode_image(data).format == "PNG"
    assert np.array_equal(decode_image(data).pixels, read_image(path))


def test_kinds_are_categories_of_the_prompt_bank():
    assert set(read_kinds().values()) <= set(read_prompts().categories)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"schema": "veridict-prompts/1"}',
        '{"schema": "veridict-prompts/1", "authenticity": {"real": [], "deepfake": ["x"]}, "categories": {"a": ["b"]}}',
        '{"schema": "veridict-prompts/1", "authenticity": {"real": ["x"], "deepfake": ["x"]},'
        ' "categories": {"a": ["b"]}, "offsets": {"c": 1}}',
    ],
)
def test_malformed_prompts_are_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=r"p\.json"):
        read_prompts(tmp_path / "p.json")


def test_unreadable_images_are_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        read_image(tmp_path / "x.jpg")


def test_augmentation_is_a_function_of_its_generator(cat):
    for change in (
        augment.self_blend,
        augment.degrade,
        augment.colour_jitter,
        lambda image, rng: augment.augment_face(image, rng, 224, 160),
    ):
        a, b, c = (change(cat, np.random.default_rng(s)) for s in (1, 1, 2))
        assert np.array_equal(a, b)
        assert a.dtype == np.uint8
        assert a.shape != c.shape or not np.array_equal(a, c)


def test_self_blending_changes_the_middle_and_keeps_the_corners(cat):
    blended = augment.self_blend(cat, np.random.default_rng(5))
    for rows in (slice(0, 4), slice(-4, None)):
        for columns in (slice(0, 4), slice(-4, None)):
            assert np.array_equal(blended[rows, columns], cat[rows, columns])
    assert not np.array_equal(blended[cat.shape[0] // 2], cat[cat.shape[0] // 2])
