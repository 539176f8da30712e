import itertools
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from retinue_client import _draw as draw
from retinue_client._palette import colour_of_class, heat_table, text_colour_on

GREY = (127, 127, 127)


def contrast(one, other):
    def luminance(colour):
        parts = [v / 255 for v in colour]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_first_classes_have_colours_far_apart():
    colours = [np.array(colour_of_class(class_id)) for class_id in range(24)]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colours, 2)) > 40


def test_text_is_legible_on_the_colour_of_every_class():
    for class_id in range(1200):
        colour = colour_of_class(class_id)
        assert contrast(colour, text_colour_on(colour)) >= 4.5


def test_a_box_is_painted_where_it_is_in_the_colour_of_its_class():
    image = Image.new("RGB", (640, 480), GREY)
    boxes = np.array([[100, 150, 300, 350]], dtype=np.float32)
    drawn = np.asarray(draw.draw_detections(image, boxes, np.array([5]), ["bag"], np.array([0.9])))
    colour = colour_of_class(5)
    for y, x in ((250, 100), (250, 299), (349, 200), (150, 250)):
        assert tuple(drawn[y, x]) == colour
    assert tuple(drawn[250, 200]) == GREY
    assert tuple(drawn[400, 320]) == GREY


@pytest.mark.parametrize(
    "box", [(0, 0, 640, 480), (600, 0, 640, 10), (0, 470, 5, 480), (-5, -5, 3, 3), (639, 479, 640, 480)]
)
def test_labels_stay_inside_the_picture(box):
    style = draw._Style.of(Image.new("RGB", (640, 480)))
    left, top, right, bottom = draw._place_label(box, 150, style.row, (640, 480), [])
    assert left >= 0
    assert right <= 640
    assert top >= 0
    assert bottom <= 480


def test_labels_of_neighbours_do_not_cover_each_other():
    taken = []
    for shift in range(4):
        taken.append(draw._place_label((100, 100, 300, 300), 120, 20, (640, 480), taken))
        assert len({*taken}) == shift + 1
    for one, other in itertools.combinations(taken, 2):
        assert not draw._overlap(one, other)


def test_small_images_are_enlarged_by_a_whole_number_and_boxes_with_them():
    image = Image.new("RGB", (28, 20), GREY)
    boxes = np.array([[7, 5, 21, 15]], dtype=np.float32)
    drawn = draw.draw_detections(image, boxes, np.array([0]), ["x"], np.array([0.5]))
    factor = drawn.width // 28
    assert drawn.size == (28 * factor, 20 * factor)
    assert drawn.width >= 480
    assert drawn.getpixel((7 * factor, 10 * factor)) == colour_of_class(0)


def test_classes_are_tinted_outlined_and_named_below_the_image():
    image = Image.new("RGB", (600, 400), GREY)
    class_map = np.zeros((400, 600), np.uint8)
    class_map[100:300, 200:400] = 3
    drawn = draw.draw_segmentation(image, class_map, [(3, "bag", 1 / 6)])
    assert drawn.width == 600
    assert drawn.height > 400
    tint = tuple(round((a + b) / 2) for a, b in zip(GREY, colour_of_class(3), strict=True))
    assert drawn.getpixel((300, 200)) == pytest.approx(tint, abs=1)
    assert drawn.getpixel((200, 200)) == colour_of_class(3)
    assert drawn.getpixel((50, 50)) == GREY


def test_colours_are_counted_from_the_first_class_that_has_one():
    image = Image.new("RGB", (600, 400), GREY)
    class_map = np.zeros((400, 600), np.uint8)
    class_map[100:300, 200:400] = 3
    drawn = draw.draw_segmentation(image, class_map, [(3, "bag", 1 / 6)], first_coloured=1)
    assert drawn.getpixel((200, 200)) == colour_of_class(2)
    legend = np.asarray(drawn)[400:]
    assert (legend == colour_of_class(2)).all(axis=2).any()
    assert not (legend == colour_of_class(3)).all(axis=2).any()
    draw.draw_segmentation(image, class_map, [], first_coloured=1)


def test_the_surest_mask_lies_on_top():
    image = Image.new("RGB", (600, 400), GREY)
    left, both = np.array([[True, False]]), np.ones((400, 600), bool)
    drawn = draw.draw_masks(image, iter([left, both]), np.array([700, 3]))
    for x, class_id in ((150, 700), (450, 3)):
        tint = tuple(round((a + b) / 2) for a, b in zip(GREY, colour_of_class(class_id), strict=True))
        assert drawn.getpixel((x, 200)) == pytest.approx(tint, abs=1)
    assert image.getcolors() == [(600 * 400, GREY)]


def test_what_no_mask_shows_is_not_tinted():
    image = Image.new("RGB", (600, 400), GREY)
    nowhere = np.zeros((400, 600), bool)
    for masks in ([], [nowhere, nowhere]):
        drawn = draw.draw_masks(image, masks, np.arange(len(masks)))
        assert drawn.getcolors() == [(600 * 400, GREY)]


def test_masks_are_blended_with_the_image_once(monkeypatch):
    blended = []
    blend = Image.blend

    def count(*args):
        blended.append(args)
        return blend(*args)

    monkeypatch.setattr(Image, "blend", count)
    masks = [np.eye(50, dtype=bool)] * 20
    draw.draw_masks(Image.new("RGB", (50, 50), GREY), masks, np.arange(20))
    assert len(blended) == 1


def test_a_class_map_of_another_size_is_scaled_to_the_image():
    image = Image.new("RGB", (600, 400), GREY)
    class_map = np.array([[-1, 700]], dtype=np.int32)
    drawn = draw.draw_segmentation(image, class_map, [(700, "right half", 0.5)])
    assert drawn.getpixel((150, 200)) == GREY
    assert drawn.getpixel((450, 200)) != GREY


def test_a_panel_shows_the_length_of_each_score():
    image = Image.new("RGB", (600, 100), GREY)
    drawn = np.asarray(draw.draw_classification(image, [(0, "half", 0.5), (1, "none", 0.0), (2, "all", 1.0)]))
    lengths = [(drawn[100:] == colour_of_class(i)).all(axis=2).any(axis=0).sum() for i in range(3)]
    assert lengths[1] == 0
    assert lengths[0] / lengths[2] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (5000, 40)])
def test_odd_sizes_and_long_names_are_drawn(size):
    image = Image.new("RGB", size, GREY)
    name = "a name that is much longer than any picture of this width has room for"
    classes = [(index, name, 0.1) for index in range(30)]
    class_map = np.zeros(size[::-1], np.uint8)
    boxes = np.array([[0, 0, *size]], dtype=np.float32)
    draw.draw_classification(image, classes)
    draw.draw_classification(image, [])
    draw.draw_segmentation(image, class_map, [(0, name, 1.0)])
    draw.draw_segmentation(image, class_map, [])
    draw.draw_detections(image, boxes, np.array([3]), [name], np.array([0.5]))
    draw.draw_detections(image, boxes[:0], np.array([], int), [], np.array([]))


def test_the_colours_of_heat_grow_lighter_all_the_way():
    table = heat_table()
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    lightness = table @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness[::16]) > 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (640, 480)])
def test_a_heatmap_is_drawn_on_any_picture(size):
    drawn = draw.draw_heatmap(Image.new("RGB", size), np.full((2, 3), 200, np.uint8), "a name " * 40)
    assert drawn.width >= size[0]
    assert drawn.height > size[1]


def test_a_label_of_several_lines_or_without_end_is_drawn_on_one():
    picture = Image.new("RGB", (640, 480))
    boxes, one = np.array([[10, 10, 300, 200]], np.float32), np.array([0])
    for name in ("two\n\nlines", "y" * 5_000_000):
        assert draw.draw_detections(picture, boxes, one, [name], np.array([0.5])).size == picture.size
        row = draw.draw_classification(picture, [(0, name, 0.5)]).height
        assert row == draw.draw_classification(picture, [(0, "cat", 0.5)]).height
        draw.draw_heatmap(picture, np.zeros((4, 6), np.uint8), name)
        draw.draw_segmentation(picture, np.ones((4, 6), np.uint8), [(1, name, 1.0)])


def test_a_class_map_takes_no_more_memory_than_its_picture_when_it_is_drawn():
    class_map = np.ones((4000, 4000), np.uint8)
    tracemalloc.start()
    draw.draw_segmentation(Image.new("RGB", (480, 480)), class_map, [(1, "bag", 1.0)])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < class_map.nbytes


def test_the_highest_class_of_a_class_map_is_painted():
    picture = Image.new("RGB", (480, 480))
    drawn = draw.draw_segmentation(picture, np.full((4, 6), 65535, np.uint16), [(65535, "last", 1.0)])
    assert drawn.getpixel((100, 100)) != (0, 0, 0)


def test_a_legend_has_room_for_the_largest_classes_only():
    picture = Image.new("RGB", (480, 480))
    heights = [
        draw.draw_segmentation(
            picture, np.zeros((4, 6), np.uint8), [(class_id, "bag", 0.0) for class_id in range(count)]
        ).height
        for count in (256, 5000)
    ]
    assert heights[0] == heights[1]
