"""COCO annotations or predictions, and COCO's list of results, as labels; both are streamed."""

from __future__ import annotations

from labeler import storage
from labeler.errors import Refused
from labeler.imports.digesting import digest_of_files, open_json
from labeler.imports.labels import ImportedLabels, Labels
from labeler.truth.ground_truth import elements_of

_OBJECT = "give a COCO json; results are read with --from coco-results, tasks of Label Studio with --from label-studio"


def read_coco(uri: str) -> Labels:
    """Images, categories and annotations of one file; `score` and `segmentation` where it has them.

    Raises:
        Refused: it is not such a file.
        StorageError: it cannot be read.
    """
    shown = storage.redact(uri)
    entries = ImportedLabels()
    digest = _add(uri, entries, ("images", "categories", "annotations"))
    return entries.labels(shown, digest)


def read_results(uri: str, annotations: str | None) -> Labels:
    """A list of [{image_id, category_id, bbox, score}, ...], and the file that says which images and categories.

    All images of that file count as seen: a list of results does not name images without boxes.

    Raises:
        Refused: it is not such a list, or there is no such file.
        StorageError: one of them cannot be read.
    """
    shown = storage.redact(uri)
    if annotations is None:
        raise Refused(
            f"results {shown} name images and categories by id alone; give --annotations, the COCO file with these ids"
        )
    entries = ImportedLabels()
    digest = _add(annotations, entries, ("images", "categories"))
    advice = "give a list of results; a COCO object is read with --from coco"
    with open_json(uri, is_list=True, advice=advice) as (document, digesting):
        for element in document.elements():
            entries.add("annotations", element)
    return entries.labels(shown, digest_of_files([("results", digesting.digest), ("annotations", digest)]))


def _add(uri: str, entries: ImportedLabels, keys: tuple[str, ...]) -> str:
    """Take these lists of a file; its digest."""
    with open_json(uri, is_list=False, advice=_OBJECT) as (document, digesting):
        for key, element in elements_of(document.members()):
            if key in keys:
                entries.add(key, element)
    return digesting.digest
