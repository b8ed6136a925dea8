"""Summaries of variants, compared with published figures and the scaling rules."""

import json
import math
from collections.abc import Callable
from functools import cache

import pytest

from effnet_cli.models import summary
from effnet_cli.models.architectures import V2_B_FAMILY
from effnet_cli.models.variants import PUBLISHED, VARIANTS, Variant, find_variant
from training import CommandResult

summarize = cache(summary.summarize)  # a second each
ROWS = [*{row.architecture.name: row for row in VARIANTS.values()}.values(), *PUBLISHED]
ROWS = [row for row in ROWS if row.architecture.parameters < 150e6]  # larger ones take seconds
SCALED = [row for row in ROWS if isinstance(row.architecture.depth, float | int)]
SCALED = [row for row in SCALED if row.architecture.base is not None]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_counts_match_the_published_ones(row: Variant) -> None:
    result = summarize(row.name)
    assert result.cost.multiply_adds / 1e9 == pytest.approx(row.giga_multiply_adds, rel=0.01)
    assert result.cost.parameters == row.architecture.parameters
    assert sum(stage.parameters for stage in result.stages) == row.architecture.parameters
    assert sum(stage.multiply_adds for stage in result.stages) == result.cost.multiply_adds
    assert result.stages[0].input_px == row.preprocessing.crop_px
    for before, after in zip(result.stages, result.stages[1:-1], strict=False):
        assert after.input_px == math.ceil(before.input_px / before.stride)


def round_channels(channels: float, has_floor: bool) -> int:
    """Round to a multiple of 8, but with a floor at most 10 % down, as in the paper's code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if has_floor and rounded < 0.9 * channels else rounded


def test_b0_is_table_1_of_the_paper() -> None:
    rows = [
        (s.operator, s.expansion, s.kernel_px, s.input_px, s.channels, s.layers)
        for s in summarize("b0").stages
    ]
    assert rows[:-1] == [
        ("Conv", None, 3, 224, 32, 1),
        ("MBConv", 1, 3, 112, 16, 1),
        ("MBConv", 6, 3, 112, 24, 2),
        ("MBConv", 6, 5, 56, 40, 2),
        ("MBConv", 6, 3, 28, 80, 3),
        ("MBConv", 6, 5, 14, 112, 3),
        ("MBConv", 6, 5, 14, 192, 4),
        ("MBConv", 6, 3, 7, 320, 1),
        ("Conv", None, 1, 7, 1280, 1),
    ]


@pytest.mark.parametrize("row", SCALED, ids=lambda row: row.name)
def test_scaling_gives_the_built_module(row: Variant) -> None:
    result = summarize(row.name)
    is_lite = row.architecture.family.has_fixed_ends
    has_floor = row.architecture.family is not V2_B_FAMILY
    last = len(result.growth) - 2  # the head; the classifier follows
    for number, grown in enumerate(result.growth[:-1]):
        is_end = number in (0, last)
        expected = round_channels(grown.base_channels * row.architecture.width, has_floor)
        assert grown.channels == (grown.base_channels if is_lite and is_end else expected)
        if not is_end:
            is_fixed = is_lite and number in (1, last - 1)
            assert isinstance(row.architecture.depth, float)
            layers = math.ceil(grown.base_layers * row.architecture.depth)
            assert grown.layers == (grown.base_layers if is_fixed else layers)
    for factor in result.factors:
        assert factor.base**factor.phi == pytest.approx(factor.coefficient)


def test_v2_has_fused_blocks_and_no_scaling() -> None:
    result = summarize("v2_s")
    operators = [stage.operator for stage in result.stages]
    assert operators == ["Conv", *["FusedMBConv"] * 3, *["MBConv"] * 3, "Conv", "linear"]
    assert [stage.squeeze is None for stage in result.stages[1:7]] == [True] * 3 + [False] * 3
    assert not result.factors
    assert not result.growth


def test_command_shows_a_summary(effnet: Callable[..., CommandResult]) -> None:
    text = effnet("variants", "EfficientNet-B2").stdout.decode()
    assert "9,109,994 parameters" in text
    assert "112 -> 120" in text
    assert "depth      x 1.2   = 1.2^phi with phi 1.00" in text
    assert "paper's resolution is 260 px" in text
    content = json.loads(effnet("variants", "b2", "--format", "json").stdout)
    assert content["cost"]["parameters"] == find_variant("b2").architecture.parameters
    assert len(content["stages"]) == 10
    noisy = effnet("variants", "b0.ns").stdout.decode()
    assert "tf_efficientnet_b0.ns_jft_in1k, trained on ImageNet-1k and unlabelled" in noisy
    assert "ReaL 85.0, V2 67.7" in noisy
    assert "architecture search" in effnet("variants", "v2_s").stdout.decode()
    assert "The smallest of its family" in effnet("variants", "b0").stdout.decode()
    wrong = effnet("variants", "b9")
    assert wrong.status == 2
    assert "Unknown variant 'b9'" in wrong.stderr
