#!/usr/bin/env bash
# tokenizers 0.23.3, sentencepiece 0.2.3
#
# Guess: a byte-fallback vocabulary (Llama 2, Mistral and Gemma style, tokens <0x00> to <0xFF>) is decoded as UTF-8 is everywhere else:
# what is broken becomes U+FFFD and its valid neighbours stay. sentencepiece does so (one U+FFFD for each broken byte).
# Seen: the ByteFallback decoder of tokenizers takes a run of neighbouring byte tokens as one: if any byte of the run is not valid, each
# byte of the run turns into U+FFFD. An emoji that is cut off takes the complete emoji before it and the newline token <0x0A> after it
# along. DecodeStream, fed the same ids one by one, had already given the complete emoji out.
# So: the text of a finished answer can differ from the text that was streamed, and a newline (a stop string, the end of a server-sent
# line) can vanish from it. Turn tokens into bytes and decode the bytes with errors="replace"; compare text with decode() only where
# all of it is valid UTF-8.
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

trained = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some words to learn pieces from"] * 50),
    model_writer=trained, model_type="bpe", vocab_size=300, byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
)
pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {ascii(got)} (guess: {ascii(guess)})")
    changed |= got != want


def ids(data):
    return [vocabulary[f"<0x{byte:02X}>"] for byte in data]


whole, cut = "\U0001f600".encode(), "\U0001f600".encode()[:2]
check("tokenizers, valid run", tokenizer.decode(ids(whole + b"\n")), "\U0001f600\n", "\U0001f600\n")
check("tokenizers, cut off + newline", tokenizer.decode(ids(cut + b"\n")), "\ufffd\n", "\ufffd" * 3)
check("tokenizers, whole + cut off", tokenizer.decode(ids(whole + cut)), "\U0001f600\ufffd", "\ufffd" * 6)
check("sentencepiece, cut off + newline", pieces.decode(ids(cut + b"\n")), "\ufffd\n", "\ufffd\ufffd\n")
check("sentencepiece, whole + cut off", pieces.decode(ids(whole + cut)), "\U0001f600\ufffd", "\U0001f600\ufffd\ufffd")
stream = decoders.DecodeStream()
streamed = "".join(stream.step(tokenizer, token) or "" for token in ids(whole + cut))
check("tokenizers, whole + cut off, streamed", streamed, "\U0001f600", "\U0001f600")
sys.exit(changed)
PY
echo "as described"
