"""The ways that `benchmarks.forward` compares: what each pays for once, and that their results are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import forward
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from tests.detector_parts import WORDS, one_chunk, photo, tiny_model


@pytest.mark.parametrize("kind", ["original", "mm"])
def test_an_image_encoded_once_gives_every_chunk_what_it_gives_alone(tmp_path: Path, kind: str) -> None:
    model = tiny_model(tmp_path, kind)
    backbone: list[Any] = []
    model.model.backbone.conv_encoder.register_forward_hook(lambda *_: backbone.append(1))
    pixels = [torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    chunks = [one_chunk(model, "red cat", "dog"), one_chunk(model, "dog")]

    def results(image: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for ids in map(torch.tensor, chunks):
            out = model(pixel_values=image, input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
            found += [out.logits, out.pred_boxes]
        return found

    with torch.inference_mode():
        for image in pixels:
            expected = results(image)
            backbone.clear()
            with forward.encoded_once(model):
                got = results(image)
            assert len(backbone) == 1, "the backbone runs once for all chunks of an image"
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert "forward" not in vars(model.model.backbone), "the model is as it was"


def test_only_what_may_be_shared_is_paid_for_once(tmp_path: Path) -> None:
    """Over three chunks b encodes the image three times, b' once, and both the text of each chunk."""
    folder = create_checkpoint(tmp_path, words=WORDS, redraw=True)
    stock = forward.StockModels(folder, torch.device("cpu"))
    names = ["cat", "dog", "red fox", "house", "bird"]
    calls: dict[str, int] = {}
    for name, part in (("image", stock.exact.model.backbone.conv_encoder), ("text", stock.exact.model.text_backbone)):
        part.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    found = forward.ways(folder, names, (90, 120), stock, "bb'd", None, 2, names_per_chunk=2)
    assert list(found) == ["b", "b'", "d"]
    with torch.inference_mode():
        for way, images in (("b", 6), ("b'", 2)):
            calls.clear()
            found[way].run([photo(0), photo(1)])
            assert (calls["image"], calls["text"]) == (images, 6)
    assert found["b'"].passes == 3


def test_every_row_says_its_share_of_the_roof_of_its_own_precision(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"passes": 1, "seconds": [1.0], "median_s": 1.0, "flop": 50.0, "extrapolated": False}
    forward._print({"b'": {**row, "half": False}, "d": {**row, "half": True}}, {False: 100.0, True: 200.0})
    lines = capsys.readouterr().out.splitlines()
    assert "50.0%" in lines[1]
    assert "25.0%" in lines[2]
