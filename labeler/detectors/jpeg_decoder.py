"""JPEGs decoded by nvImageCodec, where it is installed: on a GPU, resized there too; or on a CPU, faster than Pillow.

On a CPU its pixels are Pillow's to the bit, and a file that it refuses goes to Pillow, which has the last word on what
is wrong with it. On a GPU they are not: its inverse cosine transform rounds otherwise, and where colour is stored at
half the resolution it may be enlarged otherwise.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.dlpack import from_dlpack

from labeler.errors import Refused
from labeler.images import LeastShape

log = logging.getLogger(__name__)
_END = b"\xff\xd9"


class NvImageCodec:
    """Decodes on one device; each thread has a decoder, and on a GPU a stream, of its own."""

    def __init__(self, device: torch.device, target_shape: LeastShape | None = None) -> None:
        """
        Args:
            target_shape: what an upright image of a (height, width) is resized to on the device; None for no resizing.

        Raises:
            Refused: nvImageCodec is not installed, or finds nothing to decode with.
        """
        try:
            from nvidia import nvimgcodec
        except ImportError as error:
            raise Refused(
                f"detect.jpeg_decoder=nvimgcodec needs the package nvidia-nvimgcodec-cu12 or -cu13 ({error})"
            ) from None
        self._codec: Any = nvimgcodec
        self._device, self._target_shape = device, target_shape
        self._own = threading.local()
        try:
            self._params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
            self._of_this_thread()
        except Exception as error:  # no driver, no library of the right CUDA version
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise Refused(f"detect.jpeg_decoder=nvimgcodec does not work on {device}: {reason}") from None

    def __call__(self, data: bytes, sideways: bool) -> npt.NDArray[np.uint8] | None:
        """(h, w, 3) RGB of a grey or YCbCr JPEG, as it is stored; None if another decoder has to say what it is.

        Args:
            sideways: whether it is stored on its side.
        """
        if not data.rstrip(b"\0").endswith(_END):  # cut off, or something is glued to it
            return None
        decoder, stream = self._of_this_thread()
        try:
            with torch.inference_mode(), torch.cuda.stream(stream):
                options = {} if stream is None else {"cuda_stream": stream.cuda_stream}
                decoded = decoder.decode(self._codec.CodeStream(data), params=self._params, **options)
                if decoded is None:
                    return None
                pixels: Tensor = torch.from_numpy(np.asarray(decoded)) if stream is None else from_dlpack(decoded)
                if pixels.dtype != torch.uint8 or pixels.dim() != 3 or pixels.shape[2] != 3:
                    return None
                if self._target_shape is not None:
                    height, width, _ = pixels.shape
                    pixels = resized(pixels, self._target(height, width, sideways))
                return np.ascontiguousarray(pixels.cpu().numpy())
        except RuntimeError as error:  # torch.OutOfMemoryError, too: an image of 178 MP takes 3 GB to resize
            log.warning("nvImageCodec fails, Pillow decodes instead: %s", (str(error) or "?").splitlines()[0])
            return None

    def _target(self, height: int, width: int, sideways: bool) -> tuple[int, int]:
        assert self._target_shape is not None
        if not sideways:
            return self._target_shape(height, width)
        upright_height, upright_width = self._target_shape(width, height)
        return upright_width, upright_height

    def _of_this_thread(self) -> tuple[Any, torch.cuda.Stream | None]:
        if not hasattr(self._own, "decoder"):
            on_gpu, codec = self._device.type == "cuda", self._codec
            # Colour at half the resolution is enlarged smoothly, as Pillow's decoder does it.
            options: dict[str, Any] = {"max_num_cpu_threads": 1, "options": ":fancy_upsampling=1"}
            if on_gpu:
                index = self._device.index
                options["device_id"] = torch.cuda.current_device() if index is None else index
            else:
                options["device_id"] = codec.NVIMGCODEC_DEVICE_CPU_ONLY
                options["backends"] = [codec.Backend(codec.BackendKind.CPU_ONLY)]
            self._own.stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
            self._own.decoder = codec.Decoder(**options)
        return self._own.decoder, self._own.stream


def resized(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """(height, width, 3) uint8 of (h, w, 3) uint8, bilinearly with antialiasing: at most one level from Pillow's."""
    if tuple(pixels.shape[:2]) == shape:
        return pixels
    planes = pixels.permute(2, 0, 1)[None].float()
    found = functional.interpolate(planes, size=shape, mode="bilinear", antialias=True)
    return found[0].permute(1, 2, 0).round_().clamp_(0, 255).to(torch.uint8)
