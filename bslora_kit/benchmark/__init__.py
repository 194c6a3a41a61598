"""What adapters cost in time and memory: `python -m bslora_kit.benchmark`, on a CPU or a CUDA device.

    rows         what is compared: the frozen base, stock PEFT LoRA, the naive reading, every method here
    workloads    what is run: one linear, one decoder layer, a training step of a whole model
    measurement  how: interleaved steps, bytes kept for backward, peak memory, counted operations
    serving      mixed batches, and the memory of many resident adapters
    report       all of it as one JSON file and as a table

Times are medians of interleaved repetitions in one process; ratios are medians of the ratios within each
repetition, so that a change of the machine's speed touches both sides.
"""
