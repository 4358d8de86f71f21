from __future__ import annotations

import pytest
import torch

from splitrail.distill.anchors import anchor_queries, look_around_anchors, sine_of_points, spread_points
from splitrail.distill.denoising import Denoising
from splitrail.distill.dense import cell_centres, centre_matches
from splitrail.distill.detr_loss import detr_loss
from splitrail.distill.learner import Assistance, Batch, Learner
from splitrail.distill.matcher import match
from splitrail.distill.targets import Targets
from splitrail.models.cut import split
from splitrail.models.detr import Detr, DetrConfig

_CONFIG = DetrConfig(
    depth=18,
    dilation=True,
    width=4,
    num_classes=3,
    num_queries=6,
    d_model=64,
    heads=4,
    ffn=32,
    encoder_layers=1,
    decoder_layers=2,
    dropout=0.0,
    norm="batch",
)
_ALL = Assistance(query_groups=3, denoising_groups=2, dense=True, anchors=True)


def _batch(num_images: int = 2, size: tuple[int, int] = (64, 96)) -> Batch:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (num_images, *size, 3), dtype=torch.uint8, generator=generator)
    boxes = [[[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]]] + [[[0.5, 0.5, 0.4, 0.4]]] * (num_images - 1)
    labels = [[0, 2]] + [[1]] * (num_images - 1)
    targets = Targets.of(
        [torch.tensor(each).numpy() for each in boxes], [torch.tensor(each).numpy() for each in labels]
    )
    return Batch(pixels, torch.tensor([size] * num_images), targets)


def test_without_assistance_the_loss_is_that_of_every_decoder_layer() -> None:
    torch.manual_seed(0)
    learner = Learner(Detr(_CONFIG), Assistance()).train()
    batch = _batch()
    losses = learner(batch)
    images = learner.detr.normalise(batch.pixels, batch.valid_size)
    per_layer = [detr_loss(each, batch.targets, match(each, batch.targets)) for each in learner.detr(images)]
    assert float(losses.total.detach()) == pytest.approx(
        float(sum(each.total.detach() for each in per_layer)), rel=1e-4
    )
    assert float(losses.l1) == pytest.approx(float(per_layer[-1].l1.detach()), rel=1e-4)


@pytest.mark.parametrize("assistance", [_ALL, Assistance(dense=True), Assistance(denoising_groups=1)])
def test_every_parameter_learns_from_the_losses(assistance: Assistance) -> None:
    torch.manual_seed(0)
    learner = Learner(Detr(_CONFIG), assistance).train()
    learner(_batch()).total.backward()
    silent = [
        name for name, value in learner.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert silent == []


def test_what_assists_leaves_no_trace_in_the_detector() -> None:
    learner = Learner(Detr(_CONFIG), _ALL)
    assert learner.detr.state_dict().keys() == Detr(_CONFIG).state_dict().keys()
    assert [segment.name for segment in split(learner.detr, ("projection",), (64, 96))] == ["backbone", "transformer"]


def test_images_without_objects_train_too() -> None:
    batch = _batch()
    none = Targets.of([torch.zeros(0, 4).numpy()] * 2, [torch.zeros(0, dtype=torch.int64).numpy()] * 2)
    losses = Learner(Detr(_CONFIG), _ALL).train()(batch._replace(targets=none))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert float(losses.l1) == 0


def test_dense_only_leaves_the_transformer_alone() -> None:
    learner = Learner(Detr(_CONFIG), _ALL).train()
    learner(_batch(), dense_only=True).total.backward()
    assert learner.detr.backbone.conv1.weight.grad is not None
    assert all(parameter.grad is None for parameter in learner.detr.transformer.parameters())


def test_groups_of_queries_begin_at_different_places() -> None:
    learner = Learner(Detr(_CONFIG), _ALL)
    assert learner.more_queries is not None
    queries = torch.cat((learner.detr.query_embed.weight, learner.more_queries.weight)).detach()
    assert len(queries) == 18
    assert float(torch.pdist(queries).min()) > 0.3


def test_anchors_are_the_positions_of_the_cells_that_end_there() -> None:
    detr = Detr(_CONFIG)
    cells = detr.cells(torch.zeros(1, 64, 4, 6), torch.tensor([[64, 96]]), (64, 96))
    y, x = torch.meshgrid(torch.arange(1, 5) / 4, torch.arange(1, 7) / 6, indexing="ij")
    points = torch.stack((x.flatten(), y.flatten()), dim=1)
    assert torch.allclose(sine_of_points(points, 64), cells.positions[0], atol=1e-5)


def test_points_are_spread_over_the_whole_image() -> None:
    points = spread_points(24)
    quarters = {(bool(x > 0.5), bool(y > 0.5)) for x, y in points.tolist()}
    assert len(quarters) == 4
    assert float(torch.pdist(points).min()) > 0.08


def test_a_query_at_an_anchor_attends_to_its_surroundings() -> None:
    torch.manual_seed(0)
    detr = Detr(_CONFIG).eval()
    size = (12, 16)
    cells = detr.cells(torch.zeros(1, 64, *size), torch.tensor([[192, 256]]), (192, 256))
    memory = torch.zeros(1, 12 * 16, 64)

    def spread() -> float:
        """Mean distance, as a share of the image, between the query's point and where its first head looks."""
        attention = detr.transformer.decoder.layers[0].multihead_attn
        weight = attention.in_proj_weight
        queries = detr.query_embed.weight
        q, k = queries @ weight[:16].T, (memory + cells.positions)[0] @ weight[64:80].T
        share = torch.softmax(q @ k.T / 4, dim=1)
        points = spread_points(len(queries))
        centres = cell_centres(size, torch.ones(1, 2))[0] + torch.tensor((0.5 / 16, 0.5 / 12))
        return float((share * torch.cdist(points, centres)).sum(1).mean())

    with torch.no_grad():
        before = spread()
        look_around_anchors(detr)
        anchor_queries(detr.query_embed)
        assert spread() < 0.5 * before


def test_a_cell_near_two_objects_stands_for_the_smaller_and_every_object_has_a_cell() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.05, 0.05], [0.1, 0.9, 0.02, 0.02]])
    targets = Targets.of([boxes.numpy()], [torch.tensor([0, 1, 2]).numpy()])
    centres = cell_centres((8, 8), torch.ones(1, 2))
    matches = centre_matches(targets, centres, (8, 8))
    assert set(matches.target.tolist()) == {0, 1, 2}
    assert len(set(matches.query.tolist())) == len(matches.query)
    middle = centres[0, matches.query[matches.target == 1]]
    assert ((middle - 0.5).abs() <= 0.5 / 8 + 1e-6).all()


def test_centres_are_relative_to_what_is_not_padding() -> None:
    centres = cell_centres((2, 4), torch.tensor([[1.0, 0.5]]))[0]
    assert centres[:4].tolist() == [[0.25, 0.25], [0.75, 0.25], [1.25, 0.25], [1.75, 0.25]]


def test_denoising_begins_near_the_truth_and_follows_the_seed() -> None:
    denoising = Denoising(_CONFIG)
    targets = _batch().targets
    torch.manual_seed(3)
    queries, matches = denoising(targets)
    torch.manual_seed(3)
    again, _ = denoising(targets)
    assert torch.equal(queries, again)
    assert queries.shape == (2, 6, 64)
    assert list(zip(matches.image.tolist(), matches.query.tolist(), matches.target.tolist(), strict=True)) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 0),
    ]
