"""Pictures as a video."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np


def encode_video(frames: Iterator[np.ndarray], frames_per_second: int) -> bytes:
    """Encode BGR frames of one size (even width and height) as an MP4 that browsers play (H.264,
    yuv420p).

    One thread and no wall clock in the container: the same frames give the same bytes.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=frames_per_second)
                stream.width, stream.height = frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "23", "preset": "medium"}
                stream.codec_context.thread_count = 1
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="bgr24")))
        if stream is not None:
            container.mux(stream.encode(None))
    return buffer.getvalue()
