"""The small text tower, its word pieces and its training, on a tiny encoder and vectors made here."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from veridict.deploy.command import main
from veridict.export.models import text_tower
from veridict.export.models.text_tower import TextConfig, TextTower, WordPieces
from veridict.export.models.weights import save_half
from veridict.export.prompts import read_prompts
from veridict.export.train import text as train_text
from veridict.export.train import text_data
from veridict.forensics.signature import CONTEXT
from veridict.forensics.word_pieces import MARKS, split_words

pytestmark = pytest.mark.export

WORDS = ["a", "photo", "of", "cat", "dog", "car", "tree", "house", "real", "image", "deepfake", "painting"]
WIDTH = 16


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A sentence encoder of two layers in BERT's layout, at random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = [chr(c) for c in range(97, 123)]
    pieces = [*MARKS, "[unused0]", *letters, *(f"##{c}" for c in letters), *(w for w in WORDS if len(w) > 1), "été"]
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    state = {
        "embeddings.word_embeddings.weight": drawn(len(pieces), WIDTH),
        "embeddings.position_embeddings.weight": drawn(CONTEXT + 4, WIDTH),
        "embeddings.token_type_embeddings.weight": drawn(2, WIDTH),
    }
    shapes = {f"attention.self.{n}": (WIDTH, WIDTH) for n in ("query", "key", "value")}
    shapes |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (32, WIDTH), "output.dense": (WIDTH, 32)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        for name, shape in shapes.items():
            state[f"encoder.layer.{layer}.{name}.weight"] = drawn(*shape)
            state[f"encoder.layer.{layer}.{name}.bias"] = drawn(shape[0])
        norms += [f"encoder.layer.{layer}.{name}.LayerNorm" for name in ("attention.output", "output")]
    for name in norms:
        state |= {f"{name}.weight": torch.ones(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}
    save_file(state, folder / "model.safetensors")
    vocabulary = {piece: row for row, piece in enumerate(pieces)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    return folder


@pytest.fixture(scope="module")
def pieces():
    return WordPieces([*MARKS, "a", "photo", "of", "cat", "##s", "café", ",", "cafe"])


@pytest.fixture(scope="module")
def tower(pieces):
    torch.manual_seed(0)
    return TextTower(TextConfig(len(pieces), layers=2, width=WIDTH, hidden=32, heads=4, embedding=8)).eval()


def test_words_become_pieces(pieces):
    named = [pieces.pieces[row] for row in pieces("A PHOTO, of\tcats!")[0] if row]
    assert named == ["[CLS]", "a", "photo", ",", "of", "cat", "##s", "[UNK]", "[SEP]"]
    assert pieces.cut("cats") == ["cat", "##s"]
    assert pieces.cut("zebra") == ["[UNK]"]
    assert pieces.cut("a" * 101) == ["[UNK]"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café — Über", ["cafe", "—", "uber"]),
        ("a\u200bb\x00c", ["abc"]),
        ("$5+x", ["$", "5", "+", "x"]),
        ("猫と犬", ["猫", "と", "犬"]),
        (" \n ", []),
    ],
)
def test_words_are_split_as_bert_splits_them(text, words):
    assert split_words(text) == words


def test_empty_and_long_texts_fit_the_context(pieces):
    tokens = pieces(["", "cat " * 100])
    assert tokens.shape == (2, CONTEXT)
    assert tokens.dtype == torch.int64
    assert (tokens[0] != 0).sum() == 2
    assert (tokens[1] != 0).all()
    assert tokens[1, -1] == pieces("")[0, 1]  # the closing mark stays
    assert pieces([]).shape == (0, CONTEXT)
    assert torch.equal(pieces("cat"), pieces(["cat"]))


def test_a_vocabulary_is_checked(tmp_path):
    with pytest.raises(ValueError, match="starts with"):
        WordPieces(["cat", *MARKS])
    with pytest.raises(ValueError, match="once"):
        WordPieces([*MARKS, "cat", "cat"])


def test_features_have_their_shape_and_padding_does_not_count(tower, pieces):
    tokens = pieces(["a photo of a cat", "", "cats"])
    with torch.inference_mode():
        features = tower(tokens)
        assert features.shape == (3, 8)
        assert torch.equal(features, tower(tokens.to(torch.int32)))
        assert torch.allclose(features, tower(tokens[:, :12]), atol=1e-5)
        assert torch.allclose(features[2:], tower(tokens[2:]), atol=1e-5)
        unit = tower.encode_text(tokens, normalize=True)
    assert torch.allclose(unit.norm(dim=1), torch.ones(3), atol=1e-5)


def test_half_precision_stays_close(tower, pieces):
    import copy

    tokens = pieces(["a photo of a cat", "", "cats"])
    with torch.inference_mode():
        half = copy.deepcopy(tower).half()(tokens)
        assert half.dtype == torch.float16
        assert (torch.cosine_similarity(half.float(), tower(tokens)) > 0.999).all()


def test_weights_are_read_back(tower, tmp_path):
    path = tmp_path / "t.safetensors"
    save_half(tower, path, {"heads": "4"})
    again = text_tower.load_text_tower(path)
    assert again.config == tower.config
    assert not again.training
    save_half(torch.nn.Linear(2, 2), path, {})
    with pytest.raises(ValueError, match="no text tower"):
        text_tower.load_text_tower(path)


@pytest.mark.slow
def test_the_graph_takes_any_batch(tower, pieces, tmp_path):
    import onnxruntime

    tokens = pieces(["a photo of a cat", "cats"]).to(torch.int32)
    program = torch.onnx.export(
        tower, (tokens,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), verbose=False
    )
    program.save(tmp_path / "t.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "t.onnx", providers=["CPUExecutionProvider"])
    tokens = pieces(["", "cat", "of a photo"]).to(torch.int32)
    (rows,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    with torch.inference_mode():
        assert np.allclose(rows, tower(tokens).numpy(), atol=1e-4)


def test_the_start_keeps_what_texts_need(encoder_folder):
    encoder = text_tower.read_sentence_encoder(encoder_folder)
    chosen = text_tower.choose_pieces(encoder.vocabulary, ["a photo of a house"], 0)
    assert tuple(chosen[: len(MARKS)]) == MARKS
    assert "house" in chosen
    assert "deepfake" not in chosen
    more = text_tower.choose_pieces(encoder.vocabulary, [], len(chosen))
    assert len(more) == len(chosen)
    assert not {"été", "[unused0]"} & set(text_tower.choose_pieces(encoder.vocabulary, [], 10**6))
    started = text_tower.start_tower(encoder, chosen, [1], 8)
    key = encoder.state["encoder.layer.1.attention.self.key.weight"]
    assert torch.equal(started.blocks[0].attend.weight[WIDTH : 2 * WIDTH], key)


@pytest.fixture(scope="module")
def data(tmp_path_factory, encoder_folder):
    """Images around the anchors of their names; real and fake images along one direction."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "car", "tree", "house", "road", "house-other"]
    photo = rng.normal(size=(len(names), 24)) + 1
    photo /= np.linalg.norm(photo, axis=1, keepdims=True)
    templates = np.array(["a {} in the scene."])
    np.savez(
        folder / "anchors.npz",
        names=np.array(names),
        photo=photo.astype(np.float16),
        several_names=np.array(names[:3]),
        several=photo[:3].astype(np.float16),
        templates=templates,
    )
    rows, vectors = [], []
    kinds = {"cat": "animal", "dog": "animal", "car": "vehicle", "tree": "plant", "house": "building"}
    for i in range(60):
        name = list(kinds)[i % 5]
        source = "scenes/other" if i >= 50 else "scenes/made"
        rows.append([f"s{i}.jpg", f"photo__{name}", "train", source, kinds[name], "one | two" if i == 7 else ""])
        vectors.append(photo[names.index(name)] + rng.normal(size=24) * 0.05)
    for i in range(60):
        label = ("real", "fake")[i % 2]
        rows.append([f"w{i}.avif", label, ("train", "val")[i >= 40], f"wild/{label}{i % 4}", "painting by hand", ""])
        vectors.append(photo[i % 5] + (i % 2 - 0.5) * photo[5] + rng.normal(size=24) * 0.05)
    vectors = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    files = np.array([row[0] for row in rows])
    np.savez(folder / "features.npz", files=files, embedding=vectors.astype(np.float16))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split", "source", "kind", "caption"])
        writer.writerows([*rows, ["none.jpg", "nothing", "train", "scenes/made", "unknown kind", ""]])
    return folder


def settings(data, encoder_folder, output, **more):
    given = {"start": encoder_folder, "held_out": ("scenes/other",), "held_back": 2, "layers": (0, 1), "vocabulary": 0}
    return train_text.TextTraining(
        data / "manifest.csv",
        data / "anchors.npz",
        (data / "features.npz",),
        output,
        **(given | {"steps": 30, "batch": 16, "learning_rate": 3e-3} | more),
    )


def test_training_measures_what_it_did_not_see_and_repeats_itself(data, encoder_folder, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    report = train_text.train_text(settings(data, encoder_folder, first))
    assert report == train_text.train_text(settings(data, encoder_folder, second))
    states = [load_file(path) for path in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert report["anchors"]["names"] == 2
    assert report["categories"]["count"] == 10
    assert report["authenticity"]["wild"]["count"] == 20
    assert report["authenticity"]["wild"]["auc"] > 0.8
    pieces = text_tower.load_word_pieces(first.with_suffix(".vocab.txt"))
    loaded = text_tower.load_text_tower(first)
    assert loaded.config.vocabulary == len(pieces)
    with torch.inference_mode():
        assert loaded(pieces(["a photo of a dog"])).shape == (1, 24)


def test_names_are_kept_back_by_spelling_and_only_where_no_prompt_says_them(data):
    prompts = read_prompts()
    anchors = text_data.read_anchors(data / "anchors.npz", 10, prompts, 0)
    held = {name for name, kept in zip(anchors.names, anchors.held, strict=True) if kept}
    assert "car" not in held  # "a car, a plane, a ship or a motorbike"
    assert "house" not in held or "house-other" in held
    assert "dog" in held
    assert not text_data.read_anchors(data / "anchors.npz", 0, prompts, 0).held.any()


def test_images_missing_from_the_cache_are_embedded(data):
    seen = []

    def embed(paths):
        seen.extend(paths)
        return np.ones((len(paths), 24), dtype=np.float32)

    names = list(read_prompts().categories)
    images = text_data.read_embedded_images(data / "manifest.csv", [], names, embed)
    assert len(seen) == 120
    assert torch.allclose(images.embedding.norm(dim=1), torch.ones(120))
    assert images.texts[7] == ("one", "two")
    assert images.texts[-1] == ()
    assert names[images.category[60]] == "artwork"  # its kind says "painting"
    assert images.category[-2] == -1  # which is not good enough to measure by
    with pytest.raises(ValueError, match="no image"):
        text_data.read_embedded_images(data / "manifest.csv", [], names)


def test_the_command_prints_the_reason(data, encoder_folder, tmp_path, capsys):
    given = ["train", "text", "--manifest", str(data / "manifest.csv"), "--anchors", str(data / "anchors.npz")]
    given += ["--start", str(encoder_folder), "--output", str(tmp_path / "t.safetensors"), "--steps", "2"]
    given += ["--features", str(data / "features.npz")]
    assert main([*given, "--held-out", "scenes/nowhere"]) == 1
    assert "veridict train text: no source" in capsys.readouterr().err
