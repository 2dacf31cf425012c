#!/usr/bin/env bash
# tokenizers 0.23.3
#
# Guess: enable_truncation(max_length=n) never lets more than n tokens out; where n does not even hold the special tokens of the
# post-processor, it raises, as it does when a sequence is too short to be cut.
# Seen: with n below the number of special tokens nothing is cut at all: the whole text comes out, whatever its length, with its
# special tokens and without an overflowing part; encode and encode_batch alike, also for n = 0. Just n = their number leaves
# nothing but them. A pair has more special tokens than a single text, so the same n may cut one and not the other.
# So: a length limit computed as what other parts of a prompt have left over (limit - used) gives the whole text back
# exactly when nothing is left. Check n > num_special_tokens_to_add(pair) first, and the length of the result after.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tokenizers==0.23.3
venv/bin/python - <<'PY'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, processors

tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "word": 2}, unk_token="word"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
)
text = "word " * 1000
changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


for limit, single, pair in [(0, 1002, 2003), (1, 1002, 2003), (2, 2, 2003), (3, 3, 3), (10, 10, 10)]:
    tokenizer.enable_truncation(limit)
    check(f"max_length {limit}, one text", len(tokenizer.encode(text).ids), f"{limit} or an error", single)
    check(f"max_length {limit}, one text, batch", len(tokenizer.encode_batch([text])[0].ids), f"{limit} or an error", single)
    check(f"max_length {limit}, pair", len(tokenizer.encode(text, text).ids), f"{limit} or an error", pair)
    check(f"max_length {limit}, no special tokens", len(tokenizer.encode(text, add_special_tokens=False).ids), limit, limit)
tokenizer.enable_truncation(1)
check("overflowing parts at max_length 1", len(tokenizer.encode(text).overflowing), "some", 0)
check("num_special_tokens_to_add", (tokenizer.num_special_tokens_to_add(False), tokenizer.num_special_tokens_to_add(True)), (2, 3), (2, 3))
sys.exit(changed)
PY
echo "as described"
