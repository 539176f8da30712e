"""Files as other exporters write them: small networks of random weights with the same heads, names and metadata.

Source: ultralytics, `engine/exporter.py` and `nn/modules/head.py`; yolov5, `export.py` and `models/yolo.py`; optimum,
`exporters/onnx/model_configs.py`; torchvision, `models/detection` under `torch.onnx.export(dynamo=False)`.
"""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
import torchvision
from torch import Tensor, nn

Axes = Mapping[str, Mapping[int, str]]
ULTRALYTICS_AXES: Axes = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "output0": {0: "batch", 2: "anchors"},
}


def export(
    network: nn.Module,
    path: Path,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    axes: Axes | None = None,
    metadata: Mapping[str, object] | None = None,
    opset: int = 17,
) -> Path:
    """What the exporters do: TorchScript's way to ONNX, and what they know of the network as text beside it."""
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            content,
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
        )
    model = onnx.load_from_string(content.getvalue())
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, str(value)
    path.write_bytes(model.SerializeToString())
    return path


def _levels(width: int) -> nn.ModuleList:
    """Features at strides 8, 16 and 32."""
    first = nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Tanh())
    rest = [nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.Tanh()) for _ in range(2)]
    levels = nn.ModuleList([first, *rest])
    for parameter in levels.parameters():
        parameter.data *= 2.5
    return levels


def _centres(side: int) -> tuple[Tensor, Tensor]:
    """Of the cells of the three levels, in cells: [2,A], and the stride of each: [1,A]."""
    points, strides = [], []
    for stride in (8, 16, 32):
        cells = torch.arange(side // stride) + 0.5
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, x.numel()), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


class YoloV8(nn.Module):
    """Anchor-free: each side's distance is a distribution over 16 bins. [N,4+K,A], boxes as centre and size.

    With `corners` as x1,y1,x2,y2, as for exports with suppression.
    """

    def __init__(self, classes: int, side: int = 64, seed: int = 0, *, corners: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.levels = _levels(16)
        self.sides = nn.ModuleList(nn.Conv2d(16, 64, 1) for _ in range(3))
        self.kinds = nn.ModuleList(nn.Conv2d(16, classes, 1) for _ in range(3))
        for sides in self.sides:  # small boxes are likelier
            sides.bias.data -= 0.7 * torch.arange(16.0).repeat(4)
        for kind in self.kinds:
            kind.weight.data *= 6
            kind.bias.data -= 2
        self.classes, self.corners = classes, corners
        centres, strides = _centres(side)
        self.register_buffer("centres", centres)
        self.register_buffer("strides", strides)
        self.register_buffer("bins", torch.arange(16.0).view(1, 16, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        flat = []
        for level, sides, kinds in zip(self.levels, self.sides, self.kinds, strict=True):
            images = level(images)
            answer = torch.cat([sides(images), kinds(images)], 1)
            flat.append(answer.view(answer.shape[0], 64 + self.classes, -1))
        box, scores = torch.cat(flat, 2).split((64, self.classes), 1)
        batch, _, cells = box.shape
        likely = box.view(batch, 4, 16, cells).transpose(2, 1).softmax(1)
        left_top, right_bottom = (likely * self.bins).sum(1).chunk(2, 1)
        low, high = self.centres - left_top, self.centres + right_bottom
        boxes = torch.cat([low, high] if self.corners else [(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)


class YoloV5(nn.Module):
    """Three anchors a cell, and a score that there is an object at all: [N,A,5+K]."""

    def __init__(self, classes: int, side: int = 64, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.levels = _levels(16)
        self.heads = nn.ModuleList(nn.Conv2d(16, 3 * (5 + classes), 1) for _ in range(3))
        for head in self.heads:
            head.weight.data *= 4
        self.columns, self.side = 5 + classes, side

    def forward(self, images: Tensor) -> Tensor:
        answers = []
        for level, head, stride in zip(self.levels, self.heads, (8, 16, 32), strict=True):
            images = level(images)
            answer = head(images)
            batch, _, rows, columns = answer.shape
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            grid = torch.stack([x, y], 2).view(1, 1, rows, columns, 2) - 0.5
            anchors = torch.tensor([[1.0, 1.5], [2.0, 1.0], [3.0, 3.0]]).view(1, 3, 1, 1, 2) * stride
            answer = answer.view(batch, 3, self.columns, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
            middle, size, rest = answer.split((2, 2, self.columns - 4), 4)
            parts = [(middle * 2 + grid) * stride, (size * 2) ** 2 * anchors, rest]
            answers.append(torch.cat(parts, 4).view(batch, 3 * rows * columns, self.columns))
        return torch.cat(answers, 1)


class EndToEnd(nn.Module):
    """Without suppression, as YOLOv10: the best rows of YoloV8's own, [N,R,6]."""

    def __init__(self, classes: int, rows: int = 30) -> None:
        super().__init__()
        self.dense, self.rows, self.classes = YoloV8(classes, corners=True), rows, classes

    def forward(self, images: Tensor) -> Tensor:
        boxes, scores = self.dense(images).transpose(1, 2).split((4, self.classes), 2)
        best, places = scores.flatten(1).topk(self.rows, 1)
        cells = (places // self.classes).unsqueeze(2).expand(-1, -1, 4)
        kinds = (places % self.classes).unsqueeze(2).float()
        return torch.cat([boxes.gather(1, cells), best.unsqueeze(2), kinds], 2)


class Suppressed(nn.Module):
    """As exported with `nms=True`: suppression of one image after the other, unrolled."""

    def __init__(
        self, classes: int, rows: int = 30, score: float = 0.25, overlap: float = 0.45, batch: int = 1
    ) -> None:
        super().__init__()
        self.batch = batch
        self.dense, self.rows = YoloV8(classes, corners=True), rows
        self.classes, self.score, self.overlap = classes, score, overlap

    def forward(self, images: Tensor) -> Tensor:
        answer = self.dense(images).transpose(-1, -2)
        given = answer.shape[0]
        if self.batch > 1:  # loops are unrolled for as many
            missing = torch.max(torch.tensor(self.batch - given), torch.tensor(0))
            answer = torch.cat((answer, torch.zeros(missing, *answer.shape[1:])))
        boxes, scores = answer.split((4, self.classes), 2)
        scores, kinds = scores.max(dim=-1)
        out = torch.zeros(answer.shape[0], self.rows, 6)
        for number in range(given):
            above = scores[number] > self.score
            box, score, kind = boxes[number][above], scores[number][above], kinds[number][above]
            apart = box / images.shape[2] / self.classes + kind.view(-1, 1).float() / self.classes
            kept = torchvision.ops.nms(apart, score, self.overlap)[: self.rows]
            rows = torch.cat([box[kept], score[kept].view(-1, 1), kind[kept].view(-1, 1).float()], 1)
            out[number] = nn.functional.pad(rows, (0, 0, 0, self.rows - rows.shape[0]))
        return out[:given]


def ultralytics(
    network: nn.Module,
    path: Path,
    names: list[str],
    task: str | None = "detect",
    *,
    side: int = 64,
    dynamic: bool = False,
    **metadata: object,
) -> Path:
    """A file as Ultralytics writes it; without a task, as YOLOv5 does."""
    told: dict[str, object] = {"stride": 32, "names": dict(enumerate(names))}
    if task is not None:
        told |= {
            "description": "Ultralytics YOLO test model",
            "author": "Ultralytics",
            "version": "8.3.0",
            "license": "AGPL-3.0 License (https://ultralytics.com/license)",
            "task": task,
            "batch": 1,
            "imgsz": [side, side],
            "args": {"batch": 1, "dynamic": dynamic, "nms": False},
            "channels": 3,
            **metadata,
        }
    example = (torch.rand(1, 3, side, side),)
    axes = {name: dict(entry) for name, entry in ULTRALYTICS_AXES.items()} if dynamic else None
    return export(network, path, example, ["images"], ["output0"], axes, told)


class Classifier(nn.Module):
    """Convolution, pooling, logits [N,K]; with `probabilities` their softmax."""

    def __init__(
        self, classes: int, channels: int = 3, seed: int = 0, *, probabilities: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        self.layers[-1].weight.data *= 20
        self.probabilities = probabilities

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.softmax(1) if self.probabilities else logits


class Detr(nn.Module):
    """Each query looks at all features: logits [N,Q,columns] and boxes [N,Q,4] as parts of the input's."""

    def __init__(self, columns: int, queries: int = 12, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Conv2d(3, 16, 8, 8)
        self.queries = nn.Parameter(torch.randn(queries, 16) * 3)
        self.kinds, self.boxes = nn.Linear(16, columns), nn.Linear(16, 4)
        self.kinds.weight.data *= 4

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.features(images).tanh()
        shown = nn.functional.interpolate(mask[None].float(), size=seen.shape[-2:])[0]
        seen = (seen * 3 * shown.unsqueeze(1)).flatten(2)
        looked = torch.einsum("qc,ncp->nqp", self.queries, seen).softmax(2) @ seen.transpose(1, 2)
        return self.kinds(looked), self.boxes(looked).sigmoid()


class RtDetr(nn.Module):
    """As Ultralytics exports it: [N,Q,4+K], a box as parts of the input's, centre and size, and scores in [0, 1]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = Detr(classes)

    def forward(self, images: Tensor) -> Tensor:
        kinds, boxes = self.network(images, torch.ones(images.shape[0], *images.shape[2:]))
        return torch.cat([boxes, kinds.sigmoid()], 2)


class Segmenter(nn.Module):
    """Logits [N,K,h/4,w/4]."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Conv2d(8, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images * 3)
        return logits


def hugging_face(
    network: nn.Module,
    folder: Path,
    labels: list[str],
    preprocessor: Mapping[str, object] | None,
    outputs: tuple[str, ...] = ("logits",),
    side: int = 64,
) -> Path:
    """A folder as optimum writes it: every dimension of the images open, and two JSON files."""
    folder.mkdir(exist_ok=True)
    axes = {"pixel_values": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}}
    axes |= {output: {0: "batch_size"} for output in outputs}
    inputs, example = ["pixel_values"], [torch.rand(2, 3, side, side)]
    if "pred_boxes" in outputs:
        inputs.append("pixel_mask")
        example.append(torch.ones(2, 64, 64, dtype=torch.int64))
        axes["pixel_mask"] = {0: "batch_size"}
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    return export(network, folder / "model.onnx", tuple(example), inputs, list(outputs), axes)
