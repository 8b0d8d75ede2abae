"""Training of the base's tokenizer: CLIP's byte-level BPE on captions of the drawn world."""

import json
from pathlib import Path

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from sdlora.runtime.files import write_json, write_text
from sdlora.world.portraits import TRAIN_SEEDS, caption, random_scene

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
NUM_CAPTIONS = 10_000
NUM_TOKENS = 1_400

EVERYDAY = """
a an the of in on at with and or not no by to from for over under behind near beside between into
is are was be being has have his her their its this that these those one two three some many few
photo photograph picture portrait painting drawing sketch image close up view front side back
person people man woman men women boy girl child baby lady gentleman guy friend couple family
face head hair eyes eye nose mouth lips ears ear cheeks chin brow eyebrows skin neck shoulders hand
hands arm arms leg legs body freckles mole smile smiling laughing serious sad happy angry calm
looking standing sitting walking running holding wearing posing talking
young old tall short long small big large little round square thin thick bright dark light pale deep
red orange yellow green blue purple pink white black grey gray brown blonde blond ginger golden
silver navy beige turquoise violet colour color coloured
shirt t-shirt blouse sweater hoodie jacket coat suit tie bow scarf dress skirt jeans trousers pants
shorts socks shoes boots hat cap beanie bowler top helmet crown glasses sunglasses earrings necklace
watch ring bag belt gloves button collar sleeve
beard moustache bald bun ponytail bob curly straight wavy spiky parted braids fringe bangs
background wall room street city park garden beach sea sky mountain forest tree trees grass flower
flowers house building window door table chair car bike bus train road bridge water sun moon snow
rain cloud clouds night day evening morning summer winter spring autumn
dog cat horse bird cow sheep fish animal food bread apple coffee tea cup glass plate book phone
computer camera light shadow style art modern simple plain soft sharp clear blurry high quality
detailed realistic cartoon colourful beautiful pretty handsome nice good best very
indoors outdoors studio natural warm cold
"""


def _byte_symbols() -> list[str]:
    """The 256 characters that stand for bytes, in one fixed order."""
    return sorted(ByteLevel.alphabet())


def training_texts(num_captions: int) -> list[str]:
    """Captions of the drawn world, and everyday words."""
    seeds = TRAIN_SEEDS[:num_captions]
    captions = [caption(random_scene(seed), seed) for seed in seeds]
    return captions + EVERYDAY.split() * 20


def build_tokenizer(folder: Path, num_captions: int = NUM_CAPTIONS) -> CLIPTokenizer:
    """Train the tokenizer and write it to ``folder`` in the layout of Stable Diffusion 1.5.

    Every byte is a token, alone and at a word's end, so that no text has unknown parts. Ties
    between equally frequent pairs are not deterministic: a new tokenizer numbers some tokens
    differently, and needs a newly trained text encoder.

    Args:
        folder: Gets ``vocab.json``, ``merges.txt``, ``tokenizer_config.json`` and
            ``special_tokens_map.json``.
        num_captions: Number of captions it is trained on.
    """
    symbols = _byte_symbols()
    blank = CLIPTokenizer().backend_tokenizer
    blank.model = BPE(end_of_word_suffix=END_OF_WORD, continuing_subword_prefix="")
    trainer = BpeTrainer(
        vocab_size=NUM_TOKENS - 256,
        min_frequency=10,
        initial_alphabet=symbols,
        end_of_word_suffix=END_OF_WORD,
        continuing_subword_prefix="",
        show_progress=False,
    )
    blank.train_from_iterator(training_texts(num_captions), trainer)
    merges = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]
    tokens = symbols + [symbol + END_OF_WORD for symbol in symbols]
    tokens += list(dict.fromkeys(left + right for left, right in merges))
    tokens = list(dict.fromkeys(tokens)) + [START, END]

    write_text(folder / "vocab.json", json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "add_prefix_space": False,
        "do_lower_case": True,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return CLIPTokenizer.from_pretrained(folder)
