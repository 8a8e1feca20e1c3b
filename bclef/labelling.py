"""Puts one label and one name per species into listed rows, in their secondary labels too."""

import pandas as pd

from bclef.naming import SpeciesNames
from bclef.normal_forms import clean_text
from bclef.sieve import labels_of, other_labels


def backgrounds_of(listed: pd.DataFrame) -> pd.DataFrame:
    """Returns `row`, `source` and `text` of each secondary label that is more than white space."""
    texts = listed["secondary_labels"].explode().dropna()
    unique = texts.drop_duplicates()
    cleaned = dict(zip(unique, clean_text(unique), strict=True))
    backgrounds = pd.DataFrame(
        {"row": texts.index, "source": listed["source"].loc[texts.index].array}
    ).assign(text=texts.map(cleaned).astype("string").array)
    return backgrounds.dropna(subset="text")


def labelled(listed: pd.DataFrame, backgrounds: pd.DataFrame, names: SpeciesNames) -> pd.DataFrame:
    """Returns the rows with one label and one name per species, in secondary labels too."""
    is_focal = listed["role"] == "focal"
    focal_labels = names.labels(listed[is_focal]).reindex(listed.index)
    elsewhere = relabelled(listed["label"].mask(is_focal), names)
    labels = focal_labels.fillna(elsewhere)
    accepted = labels.map(names.scientific_names).astype("string")
    secondary: dict[int, list[str]] = {}
    for row, label in zip(backgrounds["row"], relabelled(backgrounds["text"], names), strict=True):
        secondary.setdefault(row, []).append(label)
    named = listed.assign(label=labels, scientific_name=accepted.fillna(listed["scientific_name"]))
    own_labels = (own for _, own, _ in labels_of(named))
    others = [
        other_labels(own, secondary.get(row, ()))
        for row, own in zip(named.index, own_labels, strict=True)
    ]
    return named.assign(secondary_labels=pd.Series(others, index=named.index, dtype="object"))


def relabelled(texts: pd.Series, names: SpeciesNames) -> pd.Series:
    """Returns the label that each of `texts` stands for; null stays null."""
    labels = {text: names.label(text) for text in texts.dropna().unique()}
    return texts.map(labels).astype("string")
