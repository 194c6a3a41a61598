"""Fine-tuning: the loop, its settings and its result, checkpoints and the files of a run.

    train(model, tokenizer_pad_id, examples, TrainingSettings(...), folder)   see `loop.train`
"""

from bslora_kit.training.loop import train
from bslora_kit.training.result import TrainingDiverged, TrainingResult
from bslora_kit.training.settings import TrainingSettings

__all__ = ["TrainingDiverged", "TrainingResult", "TrainingSettings", "train"]
