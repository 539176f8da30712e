"""What is asked of a server: one image, sent again and again, and the model that answers.

It is always the same image, since h2load sends one request again and again; the roofline gets it, too.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from benchmarks import bundles, photos

_ORDERS = {1: image_pb2.CHANNEL_ORDER_GRAY, 3: image_pb2.CHANNEL_ORDER_RGB}


@dataclass(frozen=True, eq=False)
class Workload:
    """An image and a model.

    Attributes:
        title: For tables.
        model: The bundle's name.
        image: An image file, or pixels uint8 [H,W,1 or 3].
    """

    title: str
    model: str
    image: bytes | npt.NDArray[np.uint8]

    @property
    def bundle(self) -> Path:
        """The model's folder."""
        return bundles.bundle(self.model)

    def request(self, images: int = 1) -> bytes:
        """A serialised ClassifyRequest for the five most probable classes of the image, `images` times."""
        message = pb.ClassifyRequest(model=self.model, images=[self._message()] * images)
        return message.SerializeToString()

    def _message(self) -> image_pb2.Image:
        if isinstance(self.image, bytes):
            return image_pb2.Image(encoded=self.image)
        height, width, channels = self.image.shape
        raw = image_pb2.RawImage(
            data=self.image.tobytes(), height=height, width=width, channel_order=_ORDERS[channels]
        )
        return image_pb2.Image(raw=raw)


@cache
def mobilenet() -> Workload:
    """A photo as people send it."""
    return Workload("MobileNetV2, 500x375 JPEG", bundles.MOBILENET_V2, photos.jpeg())


@cache
def mobilenet_raw() -> Workload:
    """Pixels that the model's rule only crops: the client has made the shorter side as long as it wants it."""
    return Workload("MobileNetV2, 256x256 raw", bundles.MOBILENET_V2, photos.pixels(256, grey=False))


@cache
def resnet() -> Workload:
    """The same photo for a network of ten times the work."""
    return Workload("ResNet-50, 500x375 JPEG", bundles.RESNET_50, photos.jpeg())


@cache
def fashion() -> Workload:
    """A small file for a small network."""
    return Workload("Fashion-MNIST CNN, 28x28 PNG", bundles.FASHION_CNN, photos.png(28))


@cache
def lenet() -> Workload:
    """Pixels as the network takes them, for a network that costs next to nothing."""
    return Workload("LeNet-5, 28x28 raw", bundles.LENET_5, photos.pixels(28, grey=True))


def all_of_them() -> list[Workload]:
    """Each of the above."""
    return [mobilenet(), mobilenet_raw(), resnet(), fashion(), lenet()]
