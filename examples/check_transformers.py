#!/usr/bin/env python3
"""Loads an exported model folder with Hugging Face transformers and compares its logits with ours.

    pip install torch transformers
    potluck model logits FOLDER --text "It was" --all --json > LOGITS.json
    python check_transformers.py FOLDER LOGITS.json

LOGITS.json: {"tokens": [...], "logits": [[...], ...]}, a row of logits for each of the last tokens; "text", if it is
there, must give these tokens. Ends with status 1 if anything differs.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    folder, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        ours = json.load(file)

    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, local_files_only=True
    )
    # The head is the token embedding: transformers may count it as missing.
    left = {kind: [key for key in keys if key != "lm_head.weight"] for kind, keys in loading.items() if keys}
    left = {kind: keys for kind, keys in left.items() if keys}
    if left:
        print(f"the folder does not load cleanly: {left}")
        return 1

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) != model.config.vocab_size:
        print(f"the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}")
        return 1
    if "text" in ours:
        tokens = tokenizer.encode(ours["text"], add_special_tokens=False)
        if tokens != ours["tokens"]:
            print(f"the text gives other tokens: {tokens}")
            return 1
        if tokenizer.decode(tokens) != ours["text"]:
            print(f"the tokens give another text: {tokenizer.decode(tokens)!r}")
            return 1

    expected = torch.tensor(ours["logits"], dtype=torch.float32)
    with torch.no_grad():
        found = model.eval()(torch.tensor([ours["tokens"]])).logits[0][-len(ours["logits"]) :]
    if found.shape != expected.shape:
        print(f"logits of {tuple(found.shape)} instead of {tuple(expected.shape)}")
        return 1
    worst = (found - expected).abs().max().item()
    agrees = worst <= TOLERANCE
    print(f"{found.shape[0]} tokens: greatest difference {worst:.2e}, {'agrees' if agrees else 'DIFFERS'} (tolerance {TOLERANCE})")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
