"""The loss of overlaps against its definition."""

import pytest
import torch

from retinue_export.segmentation_loss import lovasz_softmax

CLASSES = 4


def one_minus_mean_iou(predicted: torch.Tensor, class_ids: torch.Tensor) -> float:
    values = []
    for class_id in class_ids.unique():
        both = ((predicted == class_id) & (class_ids == class_id)).sum()
        either = ((predicted == class_id) | (class_ids == class_id)).sum()
        values.append(1 - float(both / either))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(5))
def test_of_certain_answers_it_is_one_minus_the_mean_iou(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    class_ids = torch.randint(3, (200,), generator=generator)  # class 3 is absent, and does not count
    predicted = torch.randint(CLASSES, (200,), generator=generator)
    certain = torch.nn.functional.one_hot(predicted, CLASSES).float()
    assert lovasz_softmax(certain, class_ids).item() == pytest.approx(
        one_minus_mean_iou(predicted, class_ids)
    )


def test_right_and_certain_answers_cost_nothing() -> None:
    class_ids = torch.tensor([0, 1, 1, 2])
    assert lovasz_softmax(torch.nn.functional.one_hot(class_ids, CLASSES).float(), class_ids) == 0


def test_learning_from_it_raises_the_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    class_ids = torch.randint(CLASSES, (60,), generator=generator)
    logits = torch.randn(60, CLASSES, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    before = one_minus_mean_iou(logits.argmax(dim=1), class_ids)
    for _ in range(50):
        optimizer.zero_grad()
        lovasz_softmax(logits.softmax(dim=1), class_ids).backward()
        optimizer.step()
    assert before > 0.5
    assert one_minus_mean_iou(logits.argmax(dim=1), class_ids) < 0.02
