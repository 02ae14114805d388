"""Face detection and the views."""

import numpy as np

from veridict.forensics.decode import decode_image
from veridict.forensics.faces import Box, crop_faces, crop_region, decode_map, face_finder_file, find_faces


def test_finds_the_face_and_crops_around_it(encode, astronaut):
    boxes = find_faces(astronaut)
    assert len(boxes) == 1
    x, y, width, height = boxes[0]
    assert x < 224 < x + width  # the nose
    assert y < 120 < y + height
    (crop,) = crop_faces(decode_image(encode(astronaut)), boxes)
    assert crop.shape == (224, 224, 3)


def test_three_faces_and_none(three_faces, coffee):
    assert len(find_faces(three_faces)) == 3
    assert find_faces(coffee) == []


def test_boxes_do_not_depend_on_resolution(astronaut):
    big = np.repeat(np.repeat(astronaut, 3, axis=0), 3, axis=1)
    (small,), (large,) = find_faces(astronaut), find_faces(big)
    assert np.allclose(np.array(large) / 3, np.array(small), atol=12)


def test_crops_stay_inside_the_image(encode, astronaut):
    boxes = [Box(0, 0, 40, 40), Box(480, 480, 32, 32), Box(-5, -5, 600, 600)]
    crops = crop_faces(decode_image(encode(astronaut)), boxes)
    assert [crop.shape for crop in crops] == [(224, 224, 3)] * 3


def test_a_crop_of_its_own_size_has_the_pixels_of_the_image(encode, astronaut):
    image = decode_image(encode(astronaut, "PNG"))
    box = Box(100, 100, 166, 150)
    x, y, side, _ = crop_region(image.width, image.height, box)
    (crop,) = crop_faces(image, [box])
    assert side == 224
    assert np.array_equal(crop, astronaut[y : y + side, x : x + side])


def test_tiny_and_elongated_images_have_no_faces():
    for shape in ((1, 1, 3), (8, 8, 3), (2, 4000, 3)):
        pixels = np.zeros(shape, np.uint8)
        assert find_faces(pixels) == []


def test_a_face_that_fills_the_image_is_found_and_its_box_lies_inside(astronaut):
    tight = np.ascontiguousarray(astronaut[64:176, 168:280])
    (box,) = find_faces(tight)
    assert box.x >= 0
    assert box.y >= 0
    assert box.x + box.width <= tight.shape[1]
    assert box.y + box.height <= tight.shape[0]


def test_outputs_decode_to_boxes_in_pixels():
    values = np.zeros((5, 2, 3), np.float32)
    values[:, 1, 2] = [0.9, 0.5, 0.25, np.log(4), np.log(2)]
    rows = decode_map(values, 8)
    assert rows.shape == (6, 5)
    assert np.allclose(rows[5], [0.9, 20 - 16, 10 - 8, 32, 16])
    assert rows[0, 1:].tolist() == [-4, -4, 8, 8]


def test_a_face_too_small_to_judge_is_ignored(astronaut):
    import cv2

    face = cv2.resize(astronaut, (64, 64), interpolation=cv2.INTER_AREA)
    assert find_faces(face) == []


def test_the_graph_of_the_face_finder_is_a_file_of_the_package():
    assert face_finder_file().suffix == ".onnx"
    assert face_finder_file().is_file()


def test_threads_share_the_face_finder(astronaut, coffee):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find_faces, [astronaut, coffee] * 8))
    assert [len(boxes) for boxes in found] == [1, 0] * 8
