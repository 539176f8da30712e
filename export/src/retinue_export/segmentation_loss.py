"""What segmenters learn from: whether each pixel is right, and how far classes overlap with the truth."""

from torch import Tensor, nn


def lovasz_softmax(probabilities: Tensor, class_ids: Tensor) -> Tensor:
    """The Lovász extension of one minus the intersection over union, averaged over the classes that are present.

    Unlike cross-entropy it counts a class of few pixels as much as one of many, as mean IoU does.

    Args:
        probabilities: float32 [P,C], one row a pixel.
        class_ids: int64 [P].

    Returns:
        A scalar in [0, 1].

    Source: M. Berman, A. Rannen Triki, M. Blaschko, The Lovász-Softmax loss, arXiv:1705.08790, algorithm 1.
    """
    truth = nn.functional.one_hot(class_ids, probabilities.shape[1]).float()
    errors, order = (truth - probabilities).abs().sort(dim=0, descending=True)
    sorted_truth = truth.gather(0, order)
    pixels = truth.sum(dim=0)
    intersection = pixels - sorted_truth.cumsum(dim=0)
    union = pixels + (1 - sorted_truth).cumsum(dim=0)
    jaccard = 1 - intersection / union
    gradient = jaccard.diff(dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
    return (errors * gradient).sum(dim=0)[pixels > 0].mean()
