import numpy as np

from pochade.data.sources.openmoji_groups import GROUPS, OpenMojiGroups
from pochade.recipes.sources import as_pictures, open_images
from pochade.recipes.stages import ImageData


def test_drawings_lie_in_their_groups():
    data = OpenMojiGroups(16, "all")
    names = {item.name: GROUPS[label] for item, label in zip(data.drawings.items, data.labels, strict=True)}
    assert names["red apple"] == "food and drink"
    assert names["cat face"] == "animals and nature"
    assert names["grinning face"] == "smileys and emotion"
    assert names["flag of Japan"] == "flags"
    assert names["man farmer dark skin tone"] == "people and body"
    assert names["men wrestling light skin tone dark skin tone"] == "people and body"
    assert set(names.values()) == set(GROUPS)
    # The list knows nearly all of them: what is left over is no group of its own.
    assert np.bincount(data.labels).min() > 50


def test_variants_of_a_concept_share_its_group_where_the_list_is_silent():
    data = OpenMojiGroups(16, "all")
    groups: dict[str, set[int]] = {}
    for item, label in zip(data.drawings.items, data.labels, strict=True):
        groups.setdefault(item.concept, set()).add(int(label))
    assert sum(len(found) > 1 for found in groups.values()) < 0.02 * len(groups)


def test_a_source_of_classes():
    data = open_images(ImageData("openmoji:groups", 16))
    assert tuple(data.class_names) == GROUPS
    sample = data.sample(3, np.random.default_rng(0))
    assert sorted(sample) == ["class_label", "image", "name"]
    assert sample["image"].shape == (3, 16, 16)
    pictures = as_pictures(data)
    assert len(pictures) == len(data.labels) > len(data)
    assert pictures.label(5) == data.labels[5]
    assert len({pictures.group(i) for i in range(len(pictures))}) == len(data)
    assert pictures.captions(0) == ()
