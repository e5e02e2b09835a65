"""Published figures measured again: a benchmark's protocol, a run by it, and what came out beside what is expected."""

BENCHMARKS = ("coco", "lvis-minival", "shapes")
