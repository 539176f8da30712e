"""What a two-stage detector sees in boxes, of which each image has as many as it happens to have."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align


@dataclass(frozen=True, slots=True)
class Regions:
    """The boxes of all images in one row.

    Attributes:
        features: float32 [R,F,p,p], what is seen in each.
        images: int64 [R], whose box it is.
        rows: int64 [R], and which of that image's.
        boxes: float32 [R,4], x1,y1,x2,y2.
    """

    features: Tensor
    images: Tensor
    rows: Tensor
    boxes: Tensor

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Puts values, [R,...], back to where the boxes come from.

        Args:
            values: one a box.
            like: [N,M,...], as many images and rows as there are.

        Returns:
            [N,M,...], 0 in rows without a box.
        """
        empty = values.new_zeros(like.shape[0], like.shape[1], *values.shape[1:])
        return empty.index_put((self.images, self.rows), values)


def look(pool: MultiScaleRoIAlign, features: Mapping[str, Tensor], boxes: Tensor, scores: Tensor) -> Regions:
    """Looks at boxes, each at the level of the pyramid that is for boxes of its size.

    Args:
        pool: torchvision's, which has run once and so knows the scales of the levels.
        features: float32 [N,F,h,w] of each level, by name.
        boxes: float32 [N,M,4], x1,y1,x2,y2 in input pixels.
        scores: float32 [N,M], 0 in rows that hold no box.
    """
    maps = [level for name, level in features.items() if name in pool.featmap_names]
    levels = torch.zeros_like(scores, dtype=torch.int64)
    if len(maps) > 1:
        levels = pool.map_levels([boxes.flatten(0, 1)]).reshape(scores.shape)
    levels = torch.where(scores > 0, levels, -1)
    parts = []
    for number, (level, scale) in enumerate(zip(maps, pool.scales, strict=True)):
        images, rows = torch.nonzero(levels == number, as_tuple=True)
        inside = boxes[images, rows]
        places = torch.cat([images.unsqueeze(1).float(), inside], dim=1)
        seen = roi_align(level, places, pool.output_size, scale, pool.sampling_ratio)
        parts.append((seen, images, rows, inside))
    return Regions(*(torch.cat(column) for column in zip(*parts, strict=True)))
