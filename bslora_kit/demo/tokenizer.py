"""The demo tokenizer that all bases share, byte-level BPE, and the corpus as its tokens."""

from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bslora_kit.data import PROMPT_WITH_INPUT, PROMPT_WITHOUT_INPUT
from bslora_kit.demo.corpus import Writer
from bslora_kit.demo.world import World

VOCABULARY = 3328
CONTEXT = 512
DOCUMENTS = 12_000  # the first of the corpus, which it is trained on
END, PAD = "<|endoftext|>", "<|pad|>"


def alpaca_frames() -> list[str]:
    """The fixed parts of the Alpaca prompt.

    Each becomes one token, so that a record costs four positions more than its own words, not
    forty; the text of the prompt stays the well-known one.
    """
    head, rest = PROMPT_WITHOUT_INPUT.split("{instruction}")
    long_head, middle = PROMPT_WITH_INPUT.split("{instruction}")
    return [head, long_head, middle.split("{input}")[0], rest]


def make_tokenizer(world: World, folder: Path) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the first documents of the corpus and saves it.

    A space is put before the first word, also before the first word after a part of the Alpaca
    prompt: an answer "clay" then has the same token in a record, in running text and in a task.

    Args:
        world: The demo world.
        folder: Where the tokenizer's files go.

    Returns:
        The tokenizer, as AutoTokenizer loads it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    frames = alpaca_frames()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(frames),
        special_tokens=[END, PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(islice(Writer(world).documents(), DOCUMENTS), trainer)
    tokenizer.add_tokens([AddedToken(frame, normalized=False) for frame in frames])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def encode_corpus(world: World, tokenizer: PreTrainedTokenizerFast, count: int) -> np.ndarray:
    """Writes and encodes the corpus, documents separated by the end-of-text token.

    Args:
        world: The demo world.
        tokenizer: The demo tokenizer.
        count: Number of tokens.

    Returns:
        Token ids, uint16 [count].
    """
    documents = Writer(world).documents()
    tokens = np.empty(count, dtype=np.uint16)
    filled = 0
    while filled < count:
        for ids in tokenizer(list(islice(documents, 500)))["input_ids"]:
            piece = [*ids, tokenizer.eos_token_id][: count - filled]
            tokens[filled : filled + len(piece)] = piece
            filled += len(piece)
    return tokens
