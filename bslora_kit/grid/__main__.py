"""python -m bslora_kit.grid: see `bslora_kit.grid.command`."""

import sys

from bslora_kit.grid.command import main

if __name__ == "__main__":
    sys.exit(main())
