"""Whether a fast tokenizer gives SentencePiece's ids.

Where two ways to cut a text have the same score, either library may take either: SentencePiece adds scores in float32,
`tokenizers` in float64. Such ties are counted and listed, and are no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import Tokenizer as FastTokenizer

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.errors import RetrievaError

_NORMAL, _USER_DEFINED = 1, 4
# Of the sum of a text's scores: what float32 loses over a text, and no two different scores come so near by design.
_ROUNDING = 1e-6

# What a conversion gets wrong first: special pieces written out, blanks, `▁`, control characters, emoji.
HOSTILE = (
    *("", " ", "  ", "a", " a", "a ", "  a  b  ", "▁", "a▁b", "▁▁ a", "\u3000全角 の 空白\u3000"),
    *(
        "<s>",
        "</s>",
        "<unk>",
        "<MASK>",
        "<PAD>",
        "<CLS>",
        "<SEP>",
        "<EOD>",
        "<mask>",
        "[MASK]",
        "<|endoftext|>",
    ),
    *(
        "<PAD|LLM-jp>",
        "a<CLS|LLM-jp>b",
        "<SEP|LLM-jp> <s>b</s>",
        "<<s>>",
        "</s",
        "<s >",
        "<0x0A>",
        "<0x3C>x<0x20>",
    ),
    *(
        "<",
        "<<",
        ">",
        "if a < b and c<d:",
        '<div class="x"><s>取り消し</s></div>',
        "\t\tfor\r\n\n",
        "\x00\x01\x7f\x1b[0m",
    ),
    *(
        "😀👨‍👩‍👧‍👦🇯🇵",
        "𠮷野家 髙﨑",
        "e\u0301 が",
        "\u200b\ufeff\u202e",
        "\U0010ffff\ue000",
        "ﾊﾝｶｸ ＡＢＣ １２３ ㍿",
    ),
)


@dataclass
class TokenizerReport:
    """What the comparison found."""

    texts: int = 0
    tokens: int = 0
    ties: list[str] = field(default_factory=list)
    """For each text with one, how the two libraries cut its first."""

    differences: list[str] = field(default_factory=list)


class TokenizerComparison:
    """Compares a SentencePiece model with the fast tokenizer made of it."""

    def __init__(self, tokenizer: Tokenizer, fast: FastTokenizer) -> None:
        self._tokenizer, self._fast = tokenizer, fast
        proto = model_pb2.ModelProto()
        proto.ParseFromString(tokenizer.path.read_bytes())
        self._proto = proto
        self._scores = [piece.score if piece.type == _NORMAL else None for piece in proto.pieces]

    def user_defined_in_texts(self) -> list[str]:
        """Return texts that hold the user-defined pieces, which both libraries must find before anything else."""
        pieces = [p.piece for p in self._proto.pieces if p.type == _USER_DEFINED]
        return [text for piece in pieces for text in (piece, f"a{piece}b", f"あ {piece}{piece} c")]

    def compare(self, texts: Iterable[str]) -> TokenizerReport:
        """Encode every text with both, without special pieces round it."""
        report = TokenizerReport()
        for text in texts:
            ours = self._tokenizer.encode([text])[0].tolist()
            theirs = self._fast.encode(text, add_special_tokens=False).ids
            report.texts += 1
            report.tokens += len(ours)
            if ours != theirs:
                found = report.ties if self._tie(ours, theirs) else report.differences
                found.append(self._shown(ours, theirs))
        return report

    def _tie(self, ours: list[int], theirs: list[int]) -> bool:
        sums, others = [], []
        for ids in (ours, theirs):
            scores = [self._scores[number] for number in ids]
            sums.append(sum(score for score in scores if score is not None))
            others.append(Counter(i for i, score in zip(ids, scores, strict=True) if score is None))
        return others[0] == others[1] and abs(sums[0] - sums[1]) <= _ROUNDING * abs(sums[0])

    def _shown(self, ours: list[int], theirs: list[int]) -> str:
        first = next(
            (n for n, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other),
            min(len(ours), len(theirs)),
        )
        cuts = (" ".join(map(self._piece, ids[first : first + 4])) for ids in (ours, theirs))
        return f"token {first}: {' / '.join(cuts)}"

    def _piece(self, number: int) -> str:
        inside = number < self._tokenizer.vocab_size
        return self._tokenizer.id_to_piece(number) if inside else f"id {number}"


class TokenizerParityError(RetrievaError):
    """The fast tokenizer gives other ids; nothing is published."""


def refuse_other_ids(tokenizer: Tokenizer, fast: FastTokenizer, texts: Iterable[str]) -> TokenizerReport:
    """Compare on hostile and on given texts, and raise TokenizerParityError at a difference that is no tie."""
    comparison = TokenizerComparison(tokenizer, fast)
    report = comparison.compare([*HOSTILE, *comparison.user_defined_in_texts(), *texts])
    if report.differences:
        raise TokenizerParityError(
            f"{tokenizer.path}: the fast tokenizer gives other ids than SentencePiece for"
            f" {len(report.differences)} of {report.texts} texts, such as {report.differences[0]}."
            " Nothing was published."
        )
    return report
