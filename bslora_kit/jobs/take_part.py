"""One of the processes that train a job together; started by `bslora_kit.jobs.processes`.

accelerate launch ... -m bslora_kit.jobs.take_part RUN_FOLDER
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch.distributed

from bslora_kit.jobs.job import Job
from bslora_kit.jobs.prctl import end_with_parent
from bslora_kit.jobs.processes import PROBLEM


def main(folder: str) -> int:
    """Trains with the others; the exit status is 1 where this process has failed."""
    end_with_parent()
    try:
        Job.beside(Path(folder)).train(processes=1)
    except Exception as error:
        traceback.print_exc()
        print(f"{PROBLEM}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
