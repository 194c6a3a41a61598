"""How the shipped default is made: world, texts, tokenizer, base; `python -m bslora_kit.demo`."""
