"""Matching the classes of a dataset with those of a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.evaluate.label_map import match_labels
from effnet_cli.evaluate.records import MergedClass, UnknownClass
from effnet_cli.models.imagenet import imagenet_card, wordnet_ids
from effnet_cli.models.variants import find_variant
from effnet_cli.system.errors import UsageError

ROW = find_variant("lite0")
IMAGENET = imagenet_card(ROW).classes


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.randoms())
def test_class_order_does_not_matter(names: list[str], random) -> None:  # noqa: ANN001
    classes = random.sample(names, len(names))
    match = match_labels(names, classes)
    assert [classes[index] for index in match.indexes if index is not None] == names
    assert not match.unknown
    assert not match.unused
    assert match.matching == "names"


def test_unknown_and_unused_classes_are_reported() -> None:
    match = match_labels(["cat", "dgo", "tractor"], ["bird", "cat", "dog"])
    assert match.indexes == (1, None, None)
    assert match.unknown == (UnknownClass("dgo", ("dog",)), UnknownClass("tractor", ()))
    assert match.unused == ("bird", "dog")


def test_case_and_punctuation_are_ignored_without_an_exact_match() -> None:
    match = match_labels(["tiger_cat", "Egyptian-Cat"], ["Egyptian cat", "tiger cat"])
    assert (match.indexes, match.matching) == ((1, 0), "names without case and punctuation")
    assert match_labels(["cat", "?!"], ["cat", "..."]).indexes == (0, None)
    exact = match_labels(["A", "a"], ["a", "A"])
    assert (exact.indexes, exact.matching) == ((1, 0), "names")


def test_duplicated_class_does_not_match() -> None:
    assert match_labels(["crane", "tabby"], ["crane", "crane", "tabby"]).indexes == (None, 2)


def test_pretrained_classes_have_wordnet_ids_and_indexes() -> None:
    ids = wordnet_ids()
    assert list(ids) == sorted(set(ids))
    assert len(ids) == len(IMAGENET) == 1000
    for name, wordnet_id, index in (
        ("tench", "n01440764", 0), ("tabby", "n02123045", 281), ("toilet tissue", "n15075141", 999),
    ):  # fmt: skip
        assert IMAGENET[index] == name
        assert match_labels([wordnet_id], IMAGENET).indexes == (index,)
        assert match_labels([wordnet_id], IMAGENET).matching == "WordNet ids"
        assert match_labels([str(index)], IMAGENET).indexes == (index,)
        assert match_labels([f"{index:04}"], IMAGENET).indexes == (index,)
        assert match_labels([name], IMAGENET).indexes == (index,)
    assert match_labels(["0", "1"], ["1", "0"]).indexes == (1, 0)  # class names take precedence


def test_folders_are_matched_independently() -> None:
    folders = ["espresso", "tiger cat", "n02123045", "285", "Golden_Retriever", "expresso"]
    match = match_labels(folders, IMAGENET)
    assert match.indexes == (967, 282, 281, 285, 207, None)
    assert match.matching == "names, WordNet ids, indexes and names without case and punctuation"
    assert match.unknown == (UnknownClass("expresso", ("espresso", "espresso maker")),)
    assert not match.merged
    assert match_labels(["espresso", "n02123045"], IMAGENET).matching == "names and WordNet ids"


def test_identical_name_is_never_suggested() -> None:
    match = match_labels(["crane", "tabby"], ["crane", "crane", "cranes", "tabby"])
    assert match.unknown == (UnknownClass("crane", ("cranes",)),)


def test_folders_of_one_class_are_merged() -> None:
    match = match_labels(["tabby", "n02123045", "espresso", "Tabby"], IMAGENET)
    assert match.indexes == (281, 281, 967, 281)
    assert match.merged == (MergedClass("tabby", ("tabby", "n02123045", "Tabby")),)
    assert len(match.unused) == 998


def test_disjoint_classes_are_refused() -> None:
    with pytest.raises(
        UsageError,
        match="The dataset has none of the classes of the model: 'x', 'y' instead of 'a', 'b'",
    ):
        match_labels(["x", "y"], ["a", "b", "c"])
    with pytest.raises(
        UsageError,
        match=r"A has none of the classes of B: 'x\\ny' instead of 'a'",
    ):
        match_labels(["x\ny"], ["a"], ("A", "B"))
