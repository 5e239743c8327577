"""Names at the ends of curves, and one colour for a decoder in every figure."""

from __future__ import annotations

import itertools

import pytest

from creditdecoding.plots.base import is_grey, line_styles, new_figure, spread
from creditdecoding.plots.label_places import CurveName, place_names
from creditdecoding.plots.rl import _labels as arm_labels
from creditdecoding.plots.search import method_label
from creditdecoding.viewer.colours import SERIES


def test_known_decoders_keep_their_colours_and_the_rest_is_grey() -> None:
    styles = line_styles(["margin", "credit:threshold=0.9", "fixed", "factor", "thrift", "wino"])
    assert styles["credit:threshold=0.9"]["color"] == SERIES["credit"]
    assert styles["fixed"]["color"] == SERIES["standard"]
    assert not is_grey(styles["margin"]) and not is_grey(styles["factor"])
    assert is_grey(styles["wino"])
    assert len({style["color"] for style in styles.values()}) == 6
    assert all(map(is_grey, line_styles(["margin", "wino"], only_known=True).values()))


def test_two_settings_of_a_decoder_share_a_colour_and_not_the_dashes() -> None:
    first, second = line_styles(["credit:threshold=0.9", "credit:threshold=0.99"]).values()
    assert first["color"] == second["color"]
    assert first["linestyle"] != second["linestyle"]


def test_names_are_spread_around_where_they_belong() -> None:
    assert spread([0, 50, 100], 10) == [0, 50, 100]
    assert spread([50, 52, 54], 10) == [42, 52, 62]
    moved = spread([0, 1, 2, 30, 31], 10)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(moved))


def test_a_grey_curve_among_others_has_no_name() -> None:
    axes = new_figure(6, 4).add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 10), ylim=(0, 10))
    apart = CurveName("apart", "grey", [(2, 2), (3, 3)], is_required=False)
    near = CurveName("near", "grey", [(7, 7), (8, 8)], is_required=False)
    over = CurveName("over", "blue", [(7, 7.1), (8, 8.1)], is_required=True)
    outside = CurveName("outside", "grey", [(20, 20)], is_required=False)
    assert place_names(axes, [over, apart, near, outside]) == ["near", "outside"]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["over", "apart"]
    assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("best_of_n", "best of N, outcome verifier"),
        ("best_of_n (--verifier)", "best of N, process verifier"),
        ("beam", "beam over steps"),
        ("a_new_one", "a new one"),
    ],
)
def test_methods_in_words(method: str, words: str) -> None:
    assert method_label(method) == words


def test_arms_in_words() -> None:
    assert arm_labels(["outcome:lr=3e-5", "effective:candidates=8"]) == [
        "outcome rewards",
        "process rewards",
    ]
    assert arm_labels(["effective:lr=1", "effective:lr=2"]) == [
        "process rewards lr 1",
        "process rewards lr 2",
    ]
