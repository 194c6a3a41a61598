"""The PEFT tuner of the family; importing this package registers it with PEFT.

After the import, PEFT's own functions know the config: `peft.get_peft_model(model, bslora(2, 4, 16))`,
`model.save_pretrained(folder)`, `peft.PeftModel.from_pretrained(base, folder)`.
"""

import warnings

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from bslora_kit.adapters.checked_files import check_files
from bslora_kit.adapters.export import export_lora
from bslora_kit.adapters.inspection import parameter_scopes, plan_of_model
from bslora_kit.adapters.model import PREFIX, SharedLoraModel
from bslora_kit.methods import METHOD_NAME, PEFT_TYPE, SharedLoraConfig

if PEFT_TYPE not in PEFT_TYPE_TO_TUNER_MAPPING:  # a notebook's reload may run this twice
    register_peft_method(
        name=METHOD_NAME, config_cls=SharedLoraConfig, model_cls=SharedLoraModel, prefix=PREFIX
    )
check_files()

# PEFT asks a model for an attribute that transformers has renamed, for every adapter that is put on.
warnings.filterwarnings(
    "ignore", message=".*is_gradient_checkpointing. is deprecated", category=FutureWarning
)

__all__ = ["SharedLoraConfig", "SharedLoraModel", "export_lora", "parameter_scopes", "plan_of_model"]
