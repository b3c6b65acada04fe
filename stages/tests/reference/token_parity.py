"""Token ids of Hugging Face's BertTokenizer for made-up texts, to hold `tokens` against.

    python stages/tests/reference/token_parity.py DIR [TEXTS]

Writes DIR/vocab.txt (a WordPiece vocabulary learned from the texts, laid out as bert-base-uncased's), DIR/texts.jsonl
and DIR/ids.jsonl: one text and one list of ids a line. The default of 20,000 texts is compared by

    REPRO_TOKEN_PARITY=DIR cargo test --release --workspace --test token_parity

tests/fixtures/tokens holds what `token_parity.py DIR 300` writes. Needs transformers and tokenizers.
"""

import json
import random
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast

out = Path(sys.argv[1])
count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
out.mkdir(parents=True, exist_ok=True)
rng = random.Random(5)

SYLLABLES = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ro", "si", "tu", "va", "zo", "qui", "the"]
ACCENTS = ["café", "naïve", "Ångström", "Übergröße", "e\u0301te\u0301", "İstanbul", "ﬁne", "Ǆungla", "ё", "ñandú", "ΑΣ", "ß"]
EMOJI = ["😂", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "❤️", "🤷‍♀️", "☠", "🫠", "1️⃣"]
CJK = ["中文", "日本語テキスト", "한국어", "漢字", "𠮷野家", "ｶﾀｶﾅ", "、。", "㐀", "豈"]
CONTROL = ["\x00", "\x07", "\x7f", "\u200b", "\u200e", "\ufeff", "\ufffd", "\x85", "\u2028", "\u00a0", "\t", "\r\n", "\u3000", "\u00ad", "\ue000"]
ENTITIES = ["&amp;", "&lt;3", "&quot;", "&#39;", "&nbsp;", "&#x1F602;"]
MARKS = ["!?", "...", "--", "@user_1", "#tag", "http://t.co/a1B2", "$5", "^_^", "`x`", "“quoted”", "’s", "—", "½", "٣", "…", "¿"]
SPECIAL = ["[SEP]", "[CLS]", "[MASK]", "[UNK]", "[PAD]", "[sep]", "[ SEP ]", "x[SEP]y"]
OTHER = ["עברית", "العربيّة", "ไทย", "हिन्दी", "Привет", "a" * 99, "b" * 101, "\U0001d4d0\U0001d4d1", "क्षि"]


def word():
    text = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))
    return rng.choice([text, text, text, text.upper(), text.capitalize()])


def piece():
    kind = rng.random()
    if kind < 0.6:
        return word()
    if kind < 0.98:
        return rng.choice(rng.choice([ACCENTS, EMOJI, CJK, CONTROL, ENTITIES, MARKS, OTHER]))
    if kind < 0.99:
        return rng.choice(SPECIAL)
    # Any character there is, but for surrogates.
    point = rng.choice([rng.randrange(0x300), rng.randrange(0x10000), rng.randrange(0x110000)])
    return chr(point) if not 0xD800 <= point < 0xE000 else "?"


def text():
    length = rng.choice([0, 1, 3, 8, 15, 30, 200]) if rng.random() < 0.2 else rng.randint(2, 25)
    return "".join(piece() + rng.choice([" ", " ", " ", "", "  "]) for _ in range(length))


texts = [text() for _ in range(count)]
trainer = BertWordPieceTokenizer()
trainer.train_from_iterator(texts[:3000], vocab_size=3000 if count > 1000 else 900, min_frequency=2, show_progress=False)
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
learned = [token for token, _ in sorted(trainer.get_vocab().items(), key=lambda item: item[1]) if token not in special]
# bert-base-uncased: [PAD] 0, 99 unused, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103.
vocab = ["[PAD]"] + [f"[unused{at}]" for at in range(99)] + special[1:] + learned
vocab = [token for token in vocab if token == token.rstrip() and token.strip() and len(token.splitlines()) == 1]
(out / "vocab.txt").write_text("".join(token + "\n" for token in vocab), encoding="utf-8", newline="\n")

tokenizer = BertTokenizerFast(
    vocab={token: at for at, token in enumerate(vocab)}, do_lower_case=True
) if int(transformers.__version__.split(".")[0]) >= 5 else BertTokenizerFast(str(out / "vocab.txt"), do_lower_case=True)
with open(out / "texts.jsonl", "w", encoding="utf-8", newline="\n") as file:
    file.writelines(json.dumps(text) + "\n" for text in texts)
with open(out / "ids.jsonl", "w", encoding="utf-8", newline="\n") as file:
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=128)["input_ids"]
        file.write(json.dumps(ids, separators=(",", ":")) + "\n")
print(f"{count} texts, {len(vocab)} entries; transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
