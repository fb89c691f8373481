"""(a) The obvious loop: for each shard open, read, run the windows through the model, blend, write; one after another.

``python -m benchmarks.peers.obvious_loop WORK``

Tuned: GDAL's options for far COGs with wide caches, batches as large as the product's, whole shards written. Nothing
overlaps, which is what makes it obvious. It makes no coarser levels, no coordinates, no ledger and no
checksums of its own, retries nothing, and cannot go on where it was stopped.
"""

from __future__ import annotations

import time

from benchmarks.peers.plain import frame_of, make_mosaic, mask_of, read_frame, score_of
from benchmarks.peers.work import Work


def main() -> None:
    """Map the work."""
    loop(Work.asked())


def loop(work: Work) -> None:
    """Make the mosaic and hand in the report."""
    arrays = make_mosaic(work)
    scenes = work.scenes()
    net = work.load()
    text = net.encode_text(work.prompts)
    ready, windows = time.monotonic(), 0
    for core in work.cores():
        frame = frame_of(core, net.window_px, work.overlap_px)
        pixels, source = read_frame(scenes, frame)
        score, count = score_of(pixels, frame, core, net, text, work)
        windows += count
        rows, columns = core.within(work.box)
        arrays["score"][:, 0, rows, columns] = score
        arrays["mask"][:, 0, rows, columns] = mask_of(score)
        arrays["source"][0, rows, columns] = source[core.within(frame)]
    work.hand_in(work_s=time.monotonic() - ready, windows=windows)


if __name__ == "__main__":
    main()
