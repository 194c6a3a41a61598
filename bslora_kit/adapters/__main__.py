"""Saved adapters from the command line: `python -m bslora_kit.adapters export ADAPTER OUT`.

    ADAPTER    what save_pretrained wrote for an adapter of this kit
    OUT        receives the same update as a plain LoRA, for stock peft and what reads its files

Sizes come from the config of the base model, which the adapter names (or `--base`); its weights are not
read, so that an adapter of a 70B model is exported on any machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME

from bslora_kit.adapters.export import export_lora, load_without_base_weights
from bslora_kit.adapters.inspection import plan_of_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: as on the command line, without the program; by default the process's own.

    Returns:
        0, or 1 after a message on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bslora_kit.adapters", description="What can be done with a saved adapter."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser("export", help="write a saved adapter as a plain PEFT LoRA, exactly")
    export.add_argument("adapter", type=Path, help="folder of the saved adapter")
    export.add_argument("out", type=Path, help="folder for the plain LoRA")
    export.add_argument(
        "--base", help="base model, if it is not where the adapter says; only its config is read"
    )
    options = parser.parse_args(arguments)
    try:
        model = load_without_base_weights(options.adapter, options.base)
        export_lora(model, options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    own, plain = (_weight_bytes(folder) for folder in (options.adapter, options.out))
    print(
        f"{options.out}: a plain LoRA of rank {plan_of_model(model).rank}, {plain:,} bytes "
        f"({plain / own:.1f} times the {own:,} of {options.adapter})"
    )
    return 0


def _weight_bytes(folder: Path) -> int:
    """Size of the weights of a saved adapter."""
    return (folder / SAFETENSORS_WEIGHTS_NAME).stat().st_size


if __name__ == "__main__":
    sys.exit(main())
