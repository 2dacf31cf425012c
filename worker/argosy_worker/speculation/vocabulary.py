"""Whether two models speak of the same tokens."""

from tokenizers import Tokenizer

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.core.facts import TokenizerFacts


def check_vocabulary(target: TokenizerFacts, draft: TokenizerFacts) -> None:
    """Refuse a draft model whose token ids mean something else: hardly any guess of it would be right.

    Raises:
        ModelUnsupportedError: naming `engine.speculative.model` and a token that differs.

    """
    ours, theirs = (Tokenizer.from_str(facts.tokenizer_json.decode()).get_vocab() for facts in (target, draft))
    if ours == theirs:
        return
    different = [text for text in ours.keys() | theirs.keys() if ours.get(text) != theirs.get(text)]
    example = min(different, key=lambda text: (ours.get(text, theirs.get(text, 0)), text))
    says = " and ".join(
        f"{'no id' if vocab.get(example) is None else f'id {vocab[example]}'} in {whose}"
        for vocab, whose in ((ours, "the model"), (theirs, "the draft model"))
    )
    raise ModelUnsupportedError(
        f"engine.speculative.model: its vocabulary is not the model's: {len(different)} tokens differ; "
        f"{example!r} has {says}"
    )
