"""What `--help` says of each command beside its options: its group, a sentence, an example."""

from __future__ import annotations

from dataclasses import dataclass

LABEL, REVIEW, USE = "Label", "Review", "Use the labels"
GROUPS = (LABEL, REVIEW, USE)


@dataclass(frozen=True)
class About:
    """One command.

    Attributes:
        line: what it does, for the list of commands: an imperative phrase without a period.
        text: the same in one or two sentences, for its own help.
        examples: command lines that parse.
    """

    group: str
    line: str
    text: str
    examples: tuple[str, ...]


# In the order in which `labeler --help` lists them.
COMMANDS = {
    "vocabulary": About(
        LABEL,
        "list, show, check, try or make vocabularies",
        "List, show or check vocabularies, try which phrases find their objects, or make one of captions.",
        (
            "labeler vocabulary check names.txt --model IDEA-Research/grounding-dino-tiny",
            "labeler vocabulary try names.txt --annotations gt.json --images s3://bucket/shards model.name=FOLDER",
        ),
    ),
    "models": About(
        LABEL,
        "list the checkpoints that labeler knows",
        "List checkpoints with their family, license, published AP and passes per image.",
        ("labeler models",),
    ),
    "preview": About(
        LABEL,
        "label a small sample and draw it, without Ray",
        "Label a random sample on this machine, without Ray, and draw it on one PNG.",
        ("labeler preview mine.yaml --images 50 --threshold 0.3",),
    ),
    "estimate": About(
        LABEL,
        "say how long a run takes and what it costs",
        "Label a few images here and say how long the whole input takes, and what it costs. Nothing is written.",
        ("labeler estimate mine.yaml --price-per-hour 2.5",),
    ),
    "label": About(
        LABEL,
        "label every image of the input, or resume an interrupted run",
        "Label every image of the input on Ray. Run the same command again to resume.",
        ("labeler label mine.yaml", "labeler label mine.yaml detect.score_floor=0.1 --extend"),
    ),
    "submit": About(
        LABEL,
        "send the job to a Ray cluster and follow it",
        "Send the job of a config to a Ray cluster, follow it, and submit it again until the run is complete.",
        ("labeler submit mine.yaml --address http://127.0.0.1:8265",),
    ),
    "status": About(
        LABEL,
        "show progress; --verify checks every row",
        "Show how far a run is. Exit code 0: complete, 1: incomplete, 2: not a run.",
        ("labeler status s3://bucket/run --verify",),
    ),
    "retry": About(
        LABEL,
        "relabel failed images of a complete run",
        "Relabel images with the given statuses into a derived run that overlays RUN.",
        ("labeler retry RUN --status too_large detect.max_pixels=1000000000",),
    ),
    "revise": About(
        LABEL,
        "change the vocabulary of a run; only new prompt chunks run",
        "Give a run another vocabulary in a derived run. Only prompt chunks with new names are run.",
        ("labeler revise RUN --vocabulary new.yaml --dry-run",),
    ),
    "mask": About(
        LABEL,
        "add SAM masks to the boxes of a complete run",
        "Add masks to the stored boxes in a derived run, without the detector. RUN itself is not changed.",
        ("labeler mask RUN masks.model=facebook/sam2.1-hiera-small",),
    ),
    "fuse": About(
        LABEL,
        "fuse the boxes of several detectors into one run",
        "Fuse the boxes of complete runs over the same images into a derived run of the first. No image is read.",
        ("labeler fuse RUN_A RUN_B --raw-scores",),
    ),
    "import": About(
        LABEL,
        "make a run of predictions or labels that were made elsewhere",
        "Make a run of COCO, YOLO, Label Studio or Parquet labels, so that all other commands take them.",
        ("labeler import labels.json --images s3://bucket/images/ --from coco",),
    ),
    "rescore": About(
        LABEL,
        "let CLIP or SigLIP score the boxes of a complete run",
        "Add a second score to the stored boxes in a derived run, without the detector. RUN itself is not changed.",
        ("labeler rescore RUN rescore.model=openai/clip-vit-base-patch16",),
    ),
    "report": About(
        REVIEW,
        "write one HTML page: sample boxes, histograms, threshold sliders",
        "Write a self-contained HTML page for reviewing boxes, marking them and choosing thresholds.",
        ("labeler report RUN --annotations gt.json",),
    ),
    "sample": About(
        REVIEW,
        "choose which boxes to review next",
        "Draw boxes for review: by a design that gives an estimate of the precision, or where errors are likely.",
        ("labeler sample RUN --for review --n 300",),
    ),
    "correct": About(
        REVIEW,
        "read labels that people corrected back into a derived run",
        "Read what people changed in their tools, or marked in a report, into a derived run. RUN stays as it is.",
        (
            "labeler correct RUN project.json --from label-studio --dry-run",
            "labeler correct RUN annotations.xml --from cvat --jobs jobs.json",
            "labeler correct NEW_RUN --from-run RUN-corrected",
        ),
    ),
    "evaluate": About(
        REVIEW,
        "compute COCO or LVIS AP, precision, recall and F1",
        "Compare stored boxes with ground truth by the rules of COCO or LVIS.",
        ("labeler evaluate RUN --annotations instances_val2017.json",),
    ),
    "calibrate": About(
        REVIEW,
        "choose a score threshold per category",
        "Fit score thresholds for a precision or recall from ground truth or review marks, and write thresholds.yaml.",
        ("labeler calibrate RUN --marks marks.json --target precision=0.9",),
    ),
    "compare": About(
        REVIEW,
        "compare the boxes of two runs over the same images",
        "Count boxes that are the same, moved, renamed, lost or added from run A to run B, and draw some.",
        ("labeler compare RUN_A RUN_B",),
    ),
    "reproduce": About(
        REVIEW,
        "measure a checkpoint by the protocol of a published AP",
        "Label a benchmark's images by the protocol of a published AP, and compare the AP.",
        ("labeler reproduce coco IDEA-Research/grounding-dino-tiny --images-folder val2017 --annotations gt.json",),
    ),
    "export": About(
        USE,
        "write a format of trainers or annotation tools",
        "Select boxes and images and write them in a format of trainers or annotation tools. Run it again to resume.",
        (
            "labeler export RUN --to coco --thresholds RUN/thresholds.yaml",
            "labeler export RUN --to yolo --threshold 0.4 --split train=0.9,val=0.1",
        ),
    ),
    "train": About(
        USE,
        "train or fine-tune a Grounding DINO detector",
        "Train on synthetic shapes, a COCO file or a run's labels. Run it again to resume.",
        ("labeler train mine.yaml train.steps=500",),
    ),
    "forget": About(
        USE,
        "remove images from a run and everything derived from it",
        "Remove images on request, from RUN and its derived runs, now and in future jobs.",
        ("labeler forget RUN --keys names.txt --dry-run",),
    ),
}

# The actions of `labeler vocabulary`.
ACTIONS = {
    "vocabulary list": About(
        LABEL, "list the built-in vocabularies", "List the built-in vocabularies.", ("labeler vocabulary list",)
    ),
    "vocabulary show": About(
        LABEL,
        "print the categories of a vocabulary",
        "Print the categories of a vocabulary with their IDs and phrases.",
        ("labeler vocabulary show lvis_v1",),
    ),
    "vocabulary check": About(
        LABEL,
        "report every problem of a vocabulary",
        "Report every problem in a vocabulary and how many prompt chunks it needs.",
        (
            "labeler vocabulary check names.txt --model IDEA-Research/grounding-dino-tiny",
            "labeler vocabulary check mine.yaml",
        ),
    ),
    "vocabulary from": About(
        LABEL,
        "count what captions name",
        "Count the phrases that captions or tags of an input name, and make a vocabulary of them.",
        ("labeler vocabulary from s3://bucket/shards --field json.caption --output names.txt",),
    ),
    "vocabulary try": About(
        LABEL,
        "evaluate each phrase alone",
        "Label a sample of annotated images once, and print AP and recall of each phrase alone and of all together.",
        ("labeler vocabulary try names.txt --annotations gt.json --images s3://bucket/shards model.name=FOLDER",),
    ),
}

_EXIT_CODES = "Exit codes: 0 success, 1 incomplete (run it again), 2 rejected."


def overview(usage: str) -> str:
    """The text of `labeler --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        usage,
        "Label millions of images with an open-vocabulary detector, on this machine or a Ray cluster.",
    ]
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [f"  {name:<{width}}{about.line}" for name, about in COMMANDS.items() if about.group == group]
    lines += [
        "",
        "Example:",
        "  labeler preview mine.yaml --images 50",
        "  labeler label mine.yaml",
        "  labeler export s3://bucket/run --to coco --threshold 0.4",
        "",
        f'RUN is the output folder of "labeler label". {_EXIT_CODES}',
        '"labeler COMMAND --help" shows options and examples.',
    ]
    return "\n".join(lines) + "\n"


def examples_of(command: str) -> str:
    """The end of a command's own help."""
    lines = [f"  {example}" for example in (COMMANDS | ACTIONS)[command].examples]
    return "\n".join([f"example{'s' if len(lines) > 1 else ''}:", *lines])
