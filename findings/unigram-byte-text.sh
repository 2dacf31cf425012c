#!/usr/bin/env bash
# tokenizers 0.23.3, sentencepiece 0.2.3
#
# Guess: the byte tokens <0x00> to <0xFF> of a SentencePiece vocabulary come from bytes that have no piece, never from what somebody types:
# sentencepiece spells the six characters "<0x0A>" in a text with the byte tokens of these characters.
# Seen: the Unigram model of tokenizers has no types of pieces, so the six typed characters "<0x0A>" are the one token 10, and decoding
# gives a newline that nobody typed. Its BPE model, with the same vocabulary, does as sentencepiece does.
# So: with a Unigram tokenizer.json, text that mentions byte tokens (documentation of tokenizers, dumps, code) comes back as other text.
# Compare decode(encode(x)) with x where a text must come back as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tokenizers==0.23.3 sentencepiece==0.2.3
venv/bin/python - <<'PY'
import io
import sys

import sentencepiece
from tokenizers import Tokenizer, decoders, models

changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {ascii(got)} (guess: {ascii(guess)})")
    changed |= got != want


typed = "words <0x0A> from"
for kind, size, seen in (("unigram", 290, "words \n from"), ("bpe", 300, typed)):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn pieces from"] * 50), model_writer=trained, model_type=kind, vocab_size=size,
        byte_fallback=True, hard_vocab_limit=False, add_dummy_prefix=False, normalization_rule_name="identity", minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    if kind == "unigram":
        model = models.Unigram(scored, unk_id=pieces.unk_id(), byte_fallback=True)
    else:
        model = models.BPE({piece: i for i, (piece, _) in enumerate(scored)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    check(f"sentencepiece, {kind}", pieces.decode(pieces.encode(typed)), typed, typed)
    check(f"tokenizers, {kind}", tokenizer.decode(tokenizer.encode(typed.replace(" ", "\u2581")).ids), typed, seen)
sys.exit(changed)
PY
echo "as described"
