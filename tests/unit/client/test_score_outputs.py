"""The forms that results are written in."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retinue_client import ImageError
from retinue_client._score.disk import Disk
from retinue_client._score.outputs.coco import CocoOutput
from retinue_client._score.outputs.masks import MasksOutput
from retinue_client._score.outputs.parquet import ParquetOutput
from retinue_client._score.parts import PartWriter
from retinue_client._score.rows import columns_of, row_of, schema_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "scoring.md"
FAILED = {"path": "bad.jpg", "error_reason": "BAD", "error_message": "No."}


def write(root, output, *parts):
    """Parts of the rows given, and what is made of them in the end."""
    disk, first_row, names = Disk(root), 0, []
    for number, rows in enumerate(parts):
        part = PartWriter(disk, output, number, first_row)
        part.write(rows)
        names.append(part.keep(None).file)
        first_row += len(rows)
    output.finish(disk, names, type("Model", (), {"name": "m", "version": 1, "labels": ("cat", "dog")}))
    return names


def found(score=0.5, class_id=1, x_max=30.0):
    box = {"x_min": 10.0, "y_min": 20.0, "x_max": x_max, "y_max": 40.5}
    return {**box, "score": score, "class_id": class_id, "label": "dog"}


def detected(path, *detections):
    return {
        "path": path,
        "width": 64,
        "height": 48,
        "detections": list(detections),
        "model": "m",
        "version": 1,
    }


class TestParquet:
    def test_many_rows_are_written_in_groups_so_that_memory_does_not_grow(self, tmp_path):
        rows = [row_of(f"{index:06}.jpg", ImageError("No.", reason="BAD"), None) for index in range(20_000)]
        (name,) = write(tmp_path, ParquetOutput("classify", {}), rows)
        file = pq.ParquetFile(tmp_path / name)
        assert (file.num_row_groups, file.metadata.num_rows) == (5, 20_000)

    def test_heavy_rows_are_written_early_and_the_same_rows_make_the_same_file(self, tmp_path):
        mask = {"class_id": 1, "label": "x", "counts": "0" * 1_000_000}
        rows = [{"path": f"b{index}", "masks": [mask]} for index in range(70)]
        output = ParquetOutput("segment", {"retinue.task": "segment"})
        (name,) = write(tmp_path / "1", output, rows)
        assert pq.ParquetFile(tmp_path / "1" / name).num_row_groups == 3
        part = PartWriter(Disk(tmp_path / "2"), output, 0, 0)
        for row in rows:
            part.write([row])
        part.keep(None)
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


class TestCoco:
    PARTS = (
        [detected("a.jpg", found(0.9), found(0.25, 0)), FAILED],
        [detected("é.jpg"), detected("c.jpg", found(x_max=11.0))],
    )

    # pycocotools has not caught up with NumPy 2.
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_pycocotools_reads_the_data_set_and_the_results_and_finds_them_equal(self, tmp_path):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        write(tmp_path, CocoOutput(), *self.PARTS)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / "dataset.json"))
            results = truth.loadRes(str(tmp_path / "results.json"))
            evaluation = COCOeval(truth, results, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)
        assert truth.imgs[4] == {"id": 4, "file_name": "c.jpg", "width": 64, "height": 48}
        assert [category["name"] for category in truth.loadCats([0, 1])] == ["cat", "dog"]
        expected = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 410.0, "score": 0.9}
        assert {**truth.loadAnns([1])[0], **expected, "bbox": [10.0, 20.0, 20.0, 20.5]} == truth.loadAnns(
            [1]
        )[0]

    def test_images_without_a_result_are_told_with_their_reason(self, tmp_path):
        write(tmp_path, CocoOutput(), *self.PARTS)
        dataset = json.loads((tmp_path / "dataset.json").read_bytes())
        assert [image["file_name"] for image in dataset["images"]] == ["a.jpg", "é.jpg", "c.jpg"]
        assert dataset["errors"] == [{"id": 2, "file_name": "bad.jpg", "reason": "BAD", "message": "No."}]

    def test_no_images_at_all_are_json_too(self, tmp_path):
        write(tmp_path, CocoOutput(), [FAILED])
        assert json.loads((tmp_path / "results.json").read_bytes()) == []
        assert json.loads((tmp_path / "dataset.json").read_bytes())["images"] == []


class TestMasks:
    def row(self, path, levels):
        Image.fromarray(levels).save(buffer := io.BytesIO(), "PNG")
        size = {"height": levels.shape[0], "width": levels.shape[1]}
        return {
            "path": path,
            **size,
            "areas": [],
            "class_map_png": buffer.getvalue(),
            "model": "m",
            "version": 1,
        }

    def index(self, root, name):
        return [json.loads(line) for line in (root / name).read_text().splitlines()]

    def test_each_image_has_an_indexed_png_of_its_class_ids(self, tmp_path):
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        (name,) = write(tmp_path, MasksOutput(), [self.row("a/cat.jpg", levels), FAILED])
        first, second = self.index(tmp_path, name)
        assert first["mask_file"] == "masks/part-000000/000000000-cat.png"
        assert tuple(first) == columns_of("masks")
        assert (second["mask_file"], second["error_reason"]) == (None, "BAD")
        with Image.open(tmp_path / first["mask_file"]) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.array(mask), levels)
            assert len(np.unique(np.array(mask.convert("RGB")).reshape(-1, 3), axis=0)) > 200

    def test_more_classes_than_an_index_has_stay_grey(self, tmp_path):
        levels = np.arange(1000, dtype=np.uint16).reshape(20, 50)
        (name,) = write(tmp_path, MasksOutput(), [self.row("x.jpg", levels)])
        with Image.open(tmp_path / self.index(tmp_path, name)[0]["mask_file"]) as mask:
            assert np.array_equal(np.array(mask), levels)

    @pytest.mark.parametrize(
        "path",
        [
            "../../../etc/passwd",
            "/etc/passwd.png",
            "..",
            ".",
            "",
            "C:\\CON",
            "a\0b\n.jpg",
            "x" * 5000,
            "写真.jpg",
            "masks/",
        ],
    )
    def test_no_name_leads_out_of_the_folder_or_takes_anothers(self, tmp_path, path):
        levels = np.zeros((2, 2), np.uint8)
        (name,) = write(tmp_path / "r", MasksOutput(), [self.row(path, levels), self.row(path, levels)])
        names = [row["mask_file"] for row in self.index(tmp_path / "r", name)]
        assert len(set(names)) == 2
        for mask in names:
            assert re.fullmatch(r"masks/part-000000/\d{9}-[A-Za-z0-9_-]{1,80}\.png", mask)
            assert (tmp_path / "r" / mask).is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["r"]

    def test_a_map_that_cannot_be_read_is_an_error_of_its_row(self, tmp_path):
        row = self.row("x.jpg", np.zeros((2, 2), np.uint8)) | {"class_map_png": b"no PNG"}
        part = PartWriter(Disk(tmp_path), MasksOutput(), 0, 0)
        part.write([row])
        assert part.keep(None).reasons == {"RESPONSE_INVALID": 1}
        (told,) = self.index(tmp_path, "part-000000.jsonl")
        assert (told["error_reason"], told["mask_file"], told["model"]) == ("RESPONSE_INVALID", None, None)


def _documented():
    text = DOCUMENT.read_text().partition("<!-- columns")[2].partition("<!-- end -->")[0]
    return [
        (match[1], match[2], match[3])
        for match in re.finditer(r"^\| `([\w.]+)` \| ([^|]+) \| (\w+) \|", text, re.MULTILINE)
    ]


def _type_in_words(field):
    if pa.types.is_list(field.type):
        return "list of struct"
    return f"{field.type}, never null" if field.name == "path" else str(field.type)


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_the_columns_are_those_that_the_page_describes(task):
    columns = []
    for field in schema_of(task, {}):
        columns.append((field.name, _type_in_words(field)))
        if pa.types.is_list(field.type):
            inner = field.type.value_type
            columns += [(f"{field.name}.{one.name}", _type_in_words(one)) for one in inner]
    assert columns == [(name, kind) for name, kind, whose in _documented() if whose in ("all", task)]
