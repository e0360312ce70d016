"""Leakage: texts of evaluation suites, and prompts that hold their own answer."""

from data_prep.conversations.conversation import ASSISTANT, SYSTEM, USER, Conversation
from data_prep.quality import ngrams
from data_prep.quality.contamination import NGRAM_WORDS

# words before a short answer at the end of a prompt
_LABELS = ((b"answer",), (b"answer", b"is"), (b"solution",), (b"solution", b"is"))


def all_text(conversation: Conversation) -> str:
    """Return what is said in a conversation, and the texts of its documents."""
    texts = [message["content"] for message in conversation.messages]
    for document in conversation.documents:
        for value in document.values():
            if isinstance(value, str):
                texts.append(value)
    return "\n".join(texts)


def find_own_answer(conversation: Conversation) -> str | None:
    """Return where a prompt holds the reply to it, a part of a sentence, or None.

    It does if the whole reply, of at least 13 words, is in what the user or the system prompt said
    before it, or if the user's message ends with ``answer:`` and the reply. Documents and answers
    of tools are there to be quoted.
    """
    prompts: list[str] = []
    for number, message in enumerate(conversation.messages, 1):
        role = message["role"]
        content = message["content"]
        if role in (SYSTEM, USER):
            prompts.append(content)
        elif role == ASSISTANT and _is_given(content, prompts):
            return f"message {number} stands in what comes before it"
    return None


def _is_given(content: str, prompts: list[str]) -> bool:
    # a longer text cannot be in a shorter one
    characters = sum(map(len, prompts))
    if len(content) > characters:
        return False
    reply = ngrams.words(content)
    if not reply:
        return False
    if len(reply) >= NGRAM_WORDS:
        said = ngrams.words("\n".join(prompts))
        return _spaced(reply) in _spaced(said)

    # a short one is only given where it is called the answer
    last = ngrams.words(prompts[-1])
    for label in _LABELS:
        ending = [*label, *reply]
        if last[-len(ending) :] == ending:
            return True
    return False


def _spaced(words: list[bytes]) -> bytes:
    return b" %b " % b" ".join(words)
