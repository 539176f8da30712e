"""What there is in the zoo."""

from collections.abc import Callable
from dataclasses import dataclass

from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export.zoo import deconvnet, fcn, lenet, zfnet


@dataclass(frozen=True, slots=True)
class Entry:
    """A network.

    Attributes:
        name: what it is called, in lower case.
        task: what it answers.
        build: makes it with random weights.
        side: rows and columns of the images it takes, or, where it takes any, few.
        grey: whether these have one channel instead of three.
    """

    name: str
    task: pb.Task.ValueType
    build: Callable[[], nn.Module]
    side: int
    grey: bool = False


ENTRIES = (
    Entry("lenet_5", pb.TASK_CLASSIFY, lenet.LeNet5, lenet.SIDE, grey=True),
    Entry("zfnet", pb.TASK_CLASSIFY, zfnet.ZFNet, zfnet.SIDE),
    Entry("fcn_32s", pb.TASK_SEGMENT, fcn.fcn_32s, 64),
    Entry("fcn_16s", pb.TASK_SEGMENT, fcn.fcn_16s, 64),
    Entry("fcn_8s", pb.TASK_SEGMENT, fcn.fcn_8s, 64),
    Entry("deconvnet", pb.TASK_SEGMENT, deconvnet.DeconvNet, deconvnet.SIDE),
)
