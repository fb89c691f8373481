"""Stands in for ``resmap run JOB``: what it does is the job's name. It says when it begins, and how it was ended.

ends 4      ends with this status
waits       until it is interrupted; then ends with 130, or with 99 where it is interrupted twice
speaks 9    so many kilobytes, then ends
starts      says that it begins before it can hear anything, and waits a second later
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path


def main() -> int:
    text = Path(sys.argv[2]).read_text()
    act, _, number = (
        next(line for line in text.splitlines() if line.startswith("name: ")).removeprefix("name: ").partition(" ")
    )
    begun = Path(next(line for line in text.splitlines() if "mosaic: " in line).split("mosaic: ")[1] + ".begun")
    heard: list[int] = []
    with begun.open("a") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
    if act == "starts":
        time.sleep(1.0)
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # as ``resmap`` does once it can hear
    print("begun", flush=True)
    if act == "speaks":
        for line in range(int(number)):
            print(f"{line:07d} {'ä' * 507}", flush=True)  # 1,024 bytes with its end
    while act in ("waits", "starts") and not heard:
        time.sleep(0.02)
    if heard:
        time.sleep(0.3)  # a second one comes now, or never
        print("interrupted", flush=True)
        return 99 if len(heard) > 1 else 130
    return int(number) if act == "ends" else 0


if __name__ == "__main__":
    sys.exit(main())
