"""Stands in for ``resmap run JOB``: what it does is the job's name. It says when it begins, and how it was ended.

ends 4      ends with this status
waits       until it is interrupted; then ends with 130, or with 99 where it is interrupted twice
speaks 9    so many kilobytes, then ends
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
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with begun.open("a") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
    print("begun", flush=True)
    if act == "speaks":
        for line in range(int(number)):
            print(f"{line:07d} {'ä' * 507}", flush=True)  # 1,024 bytes with its end
    while act == "waits" and not heard:
        time.sleep(0.02)
    if heard:
        time.sleep(0.3)  # a second one comes now, or never
        print("interrupted", flush=True)
        return 99 if len(heard) > 1 else 130
    return int(number) if act == "ends" else 0


if __name__ == "__main__":
    sys.exit(main())
