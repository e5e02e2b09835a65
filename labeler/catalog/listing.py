"""The catalog as people read it: lines of a terminal, and the generated part of docs/guides/models.md."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.catalog.entries import ENTRIES
from labeler.catalog.entry import Figure, KnownModel, ListedModel
from labeler.prompts.families import architecture_of, family_of

BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"  # around what is generated
# Family -> in what form it is told names; other families of labeler's own say it here, too.
PROMPTS = {"grounding-dino": "prompt chunks of up to 256 tokens", "sam3": "one phrase per pass, up to 32 tokens"}
_OF_MODEL_TYPE = {"owlv2": "a query for each phrase", "owlvit": "a query for each phrase"}
_CLOSED = "its own labels"


def listed() -> list[ListedModel]:
    """Return the entries of all families that are known here."""
    return [found for entry in ENTRIES if (found := _listed(entry)) is not None]


def find_entry(model: str) -> KnownModel | None:
    """Return the entry of a checkpoint by its name."""
    return next((entry for entry in ENTRIES if entry.model == model), None)


def _listed(entry: KnownModel) -> ListedModel | None:
    family = family_of(entry.model_type)
    if family is None:
        return None
    prompts = PROMPTS.get(family.name) or _OF_MODEL_TYPE.get(entry.model_type, _CLOSED)
    return ListedModel(entry, family.name, architecture_of(entry.model_type), prompts, family.score_floor)


def lines(shown: Sequence[ListedModel]) -> list[str]:
    """Return what `labeler models` prints: a few lines a checkpoint, family by family."""
    found, family = [], ""
    for one in shown:
        if one.family != family:
            family = one.family
            found.append(f"{family}: {one.prompts}; detect.score_floor is {one.score_floor} unless set")
        found += [f"  {line}" for line in _lines_of(one)]
    own = "A detector of your own: model.family (docs/guides/own-detector.md)"
    return [*found, "", f"? was not read at its source. {own}"]


def _lines_of(one: ListedModel) -> list[str]:
    entry = one.entry
    passes = f"passes {entry.passes[0]:,} for COCO, {entry.passes[1]:,} for LVIS"
    first = f"{entry.model} ({one.model_class}, {_licence(entry)}): {passes}, {_gflop(entry)}"
    figures = [f"  {_figure(figure)}, {_reproduced(entry, figure)}; {figure.source}" for figure in entry.figures]
    return [first, *figures, *([f"  {entry.note}"] if entry.note else [])]


def _licence(entry: KnownModel) -> str:
    return f"{entry.licence}?" if "licence" in entry.uncertain else entry.licence


def _gflop(entry: KnownModel) -> str:
    if entry.gflop is None:
        return "GFLOP not counted"
    coco, lvis = entry.gflop
    return f"{coco:,.0f} GFLOP an image" if coco == lvis else f"{coco:,.0f} and {lvis:,.0f} GFLOP an image"


def _figure(figure: Figure) -> str:
    return f"{figure.benchmark} AP {figure.ap}{'?' if figure.uncertain else ''} ({figure.protocol})"


def _reproduced(entry: KnownModel, figure: Figure) -> str:
    return f"reproduced: {entry.reproduced_as(figure.benchmark)}"


def markdown(shown: Sequence[ListedModel]) -> str:
    """Return the section "Models" of docs/guides/models.md, with the marks around it."""
    head = [
        "checkpoint",
        "family, class",
        "license",
        "prompts",
        "score floor",
        "passes COCO / LVIS",
        "GFLOP an image",
        "published AP",
    ]
    rows = [head, ["---"] * len(head), *(_cells(one) for one in shown)]
    table = [f"| {' | '.join(cells)} |" for cells in rows]
    about = [
        "`labeler models` prints this table (`--json`: for programs), `python -m benchmarks.models_page` writes it.",
        "GFLOP are counted with COCO's and LVIS's names, by torch's FlopCounter. Published figures are others' work;",
        "behind each stands whether `labeler reproduce` reproduced it. A `?` marks what was not read at its source.",
    ]
    return "\n".join([BEGIN, "## Models", "", *about, "", *table, END]) + "\n"


def _cells(one: ListedModel) -> list[str]:
    entry = one.entry
    figures = [
        f"{_figure(f)}, [source]({f.source}), {_reproduced(entry, f)}"
        if f.source.startswith("http")
        else f"{_figure(f)}, {f.source}, {_reproduced(entry, f)}"
        for f in entry.figures
    ]
    name = f"`{entry.model}`" + (f"; {entry.note}" if entry.note else "")
    passes = f"{entry.passes[0]:,} / {entry.passes[1]:,}"
    gflop = "" if entry.gflop is None else " / ".join(f"{value:,.0f}" for value in dict.fromkeys(entry.gflop))
    return [
        name,
        f"{one.family}, `{one.model_class}`",
        _licence(entry),
        one.prompts,
        f"{one.score_floor:g}",
        passes,
        gflop,
        "<br>".join(figures),
    ]


def replace_section(page: str, section: str) -> str:
    """Return a page with the generated section in the place of the one that it has. ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return before + section + after
