#!/usr/bin/env bash
# gguf 0.19.0
#
# Guess: a key that is given to GGUFWriter is in the file.
# Seen: `add_string(key, "")` and `add_array(key, [])` write nothing and say nothing; False, 0 and 0.0 are written. A reader that asks for
# the key finds it missing: "there is none" and "nobody said" are the same in a file of this writer.
# So: a converter cannot say "no merges", "no chat template" or "empty prefix" by an empty value, and a round trip through reader and
# writer loses such keys of files that other programs wrote. A loader should take a missing list for an empty one where that makes sense.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check gguf==0.19.0
venv/bin/python - <<'PY'
import sys

import gguf

writer = gguf.GGUFWriter("a.gguf", "llama")
writer.add_array("given.empty_array", [])
writer.add_string("given.empty_string", "")
writer.add_array("given.array", ["a"])
writer.add_bool("given.false", False)
writer.add_uint32("given.zero", 0)
writer.add_float32("given.zero_float", 0.0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()
found = [key for key in gguf.GGUFReader("a.gguf").fields if key.startswith("given.")]
print("six keys were given; the file has:", ", ".join(found))
sys.exit(found != ["given.array", "given.false", "given.zero", "given.zero_float"])
PY
echo "as described"
