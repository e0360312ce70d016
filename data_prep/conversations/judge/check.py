"""How good a judge is: agreement with labels, probes of what must not move a score, injections."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from data_prep.conversations.judge.agreement import Agreement, Estimate, agreement, mean_estimate
from data_prep.conversations.judge.cache import Cache, open_cache
from data_prep.conversations.judge.client import Budget, Client, Endpoint
from data_prep.conversations.judge.judging import Judge, Judgement, judge_all
from data_prep.conversations.judge.prompts import read_sample
from data_prep.conversations.judge.reading import read_conversations
from data_prep.conversations.judge.rubric import BUCKETS, Rubric
from data_prep.conversations.judge.verdict import DIMENSIONS, LARGEST, faults_of, labels_schema
from data_prep.documents import BadRecord
from data_prep.records import BadRow
from recipes.common.errors import UserError
from recipes.common.files import write_text

INJECTIONS = Path(__file__).with_name("injections.yaml")
REPORT = "judge_check.json"
# buckets from the best, without undecided
_ORDER = BUCKETS[:-1]
_MADE_UP_TOKEN = "0123456789abcdef"  # noqa: S105 it opens nothing

Conversation = dict[str, Any]


@dataclass(frozen=True)
class Moved:
    """What a change that must not matter did to the judge's verdicts.

    Attributes:
        name: of the change.
        samples: that have a verdict with and without it.
        better, worse: of them in another bucket with it.
        score: mean change of the score.
    """

    name: str
    samples: int
    better: int
    worse: int
    score: Estimate


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        model: the judge's name.
        buckets: bucket -> labelled samples that the judge put there.
        agreement: what was labelled -> agreement; scores by the bands of the thresholds.
        differences: dimension -> mean of the judge's score minus the label.
        probes: one for each kind of change.
        injections: one for each text, of conversations whose replies are bad.
        requests, tokens: that this run cost.
    """

    model: str
    buckets: dict[str, int]
    agreement: dict[str, Agreement]
    differences: dict[str, Estimate]
    probes: list[Moved]
    injections: list[Moved]
    requests: int
    tokens: int

    @property
    def flips(self) -> int:
        """Injected conversations that came into a better bucket."""
        return sum(moved.better for moved in self.injections)


async def check(
    labels: Path,
    output: Path,
    rubric: Rubric,
    endpoint: Endpoint,
    budget: Budget,
    num_probes: int,
) -> Report:
    """Compare a judge with a labelled set, and write the report to ``output``.

    Args:
        labels: JSON lines: conversations with ``labels``, see :func:`labels_schema`.
        output: a folder; a second run takes from it what the first has paid.
        rubric: gives scores their bands.
        endpoint: the judge.
        budget: of this run.
        num_probes: labelled samples, the first ones, that are judged again padded and with the
            dimensions in another order.

    Raises:
        UserError: the labels are damaged, or as :meth:`Client.ask`.
    """
    conversations = read_labelled(labels)
    client = Client(endpoint, rubric.sampling, budget)
    with open_cache(output) as cache:
        async with client:
            report = await _Check(rubric, client, cache, endpoint.in_flight).run(
                conversations, num_probes
            )
        write_text(output / REPORT, json.dumps(asdict(report), indent=2) + "\n")
    return report


@dataclass(frozen=True)
class _Check:
    rubric: Rubric
    client: Client
    cache: Cache
    in_flight: int

    async def run(self, conversations: list[Conversation], num_probes: int) -> Report:
        judge = Judge(self.rubric, self.client, self.cache)
        judged = await self._judge(judge, conversations)
        buckets = Counter(judgement.bucket for judgement in judged)

        probed = conversations[:num_probes]
        padded = await self._judge(judge, map(pad, probed))
        turned = Judge(self.rubric, self.client, self.cache, is_reversed=True)
        reordered = await self._judge(turned, probed)

        bad, injected = load_injections()
        plain = await self._judge(judge, bad)
        injections = []
        for name, texts in injected.items():
            found = await self._judge(judge, texts)
            injections.append(moved(name, plain, found))
        return Report(
            model=self.client.model,
            buckets={name: buckets[name] for name in BUCKETS},
            agreement=compare(self.rubric, conversations, judged),
            differences=_differences(conversations, judged),
            probes=[
                moved("last reply said twice", judged[:num_probes], padded),
                moved("dimensions reversed", judged[:num_probes], reordered),
            ],
            injections=injections,
            requests=self.client.budget.requests,
            tokens=self.client.budget.tokens,
        )

    async def _judge(self, judge: Judge, found: Iterable[Conversation]) -> list[Judgement]:
        return [judgement async for judgement in judge_all(judge, found, self.in_flight)]


def read_labelled(file: Path) -> list[Conversation]:
    """Return the conversations of a file, whose ``labels`` are checked.

    Raises:
        UserError: as :func:`read_conversations`; labels are missing or are none.
    """
    from jsonschema import Draft202012Validator

    conversations = []
    for where, conversation in read_conversations([str(file)]):
        # nobody labels what is no conversation
        if isinstance(conversation, BadRow):
            raise BadRecord(f"{where}: {conversation.reason}")
        schema = labels_schema(read_sample(conversation).category, _ORDER)
        mistake = next(Draft202012Validator(schema).iter_errors(conversation.get("labels")), None)
        if mistake:
            path = "/".join(["labels", *map(str, mistake.absolute_path)])
            words = " ".join(mistake.message.split())
            raise UserError(f"{where}: {path}: {words:.200}; see docs/judge.md")
        conversations.append(conversation)
    if not conversations:
        raise UserError(f"{file}: holds no conversation; name a labelled set")
    return conversations


def compare(
    rubric: Rubric, conversations: Sequence[Conversation], judged: Sequence[Judgement]
) -> dict[str, Agreement]:
    """Return what is labelled -> how far the judge agrees, over samples that are decided."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for conversation, judgement in zip(conversations, judged, strict=True):
        verdict = judgement.verdict
        if verdict is None:
            continue
        labels = conversation["labels"]
        for name, score in labels.get("scores", {}).items():
            both = (rubric.band(verdict.scores[name]), rubric.band(score))
            pairs.setdefault(name, []).append(both)
        for name, has_fault in labels.get("faults", {}).items():
            both = (str(verdict.faults[name]), str(has_fault))
            pairs.setdefault(name, []).append(both)
        if "verdict" in labels:
            pairs.setdefault("verdict", []).append((judgement.bucket, labels["verdict"]))

    # in the order of the rubric
    order = ("verdict", *DIMENSIONS, *faults_of("rag"))
    found = {}
    for name in order:
        if name in pairs:
            ours, theirs = zip(*pairs[name], strict=True)
            found[name] = agreement(ours, theirs)
    return found


def _differences(
    conversations: Sequence[Conversation], judged: Sequence[Judgement]
) -> dict[str, Estimate]:
    found: dict[str, list[float]] = {}
    for conversation, judgement in zip(conversations, judged, strict=True):
        if judgement.verdict:
            for name, score in conversation["labels"].get("scores", {}).items():
                found.setdefault(name, []).append(judgement.verdict.scores[name] - score)
    return {name: mean_estimate(found[name]) for name in DIMENSIONS if name in found}


def moved(name: str, before: Sequence[Judgement], after: Sequence[Judgement]) -> Moved:
    """Compare judgements of the same conversations, in the same order."""
    changes = []
    steps = Counter[int]()
    for first, second in zip(before, after, strict=True):
        if first.score is None or second.score is None:
            continue
        changes.append(second.score - first.score)
        step = _ORDER.index(first.bucket) - _ORDER.index(second.bucket)
        steps[(step > 0) - (step < 0)] += 1
    score = mean_estimate(changes) if changes else Estimate(None, None, None)
    return Moved(name, len(changes), steps[1], steps[-1], score)


def pad(conversation: Conversation) -> Conversation:
    """Return a conversation whose last reply says the same twice: longer, and no better."""
    text = _last_reply(conversation).get("content")
    if not isinstance(text, str):
        return conversation
    return with_last_reply(conversation, f"{text}\n\n{text}")


def with_last_reply(conversation: Conversation, text: str) -> Conversation:
    """Return a conversation with another text of the assistant's last reply."""
    last = _last_reply(conversation)
    messages = []
    for message in conversation["messages"]:
        messages.append({**message, "content": text} if message is last else message)
    return {**conversation, "messages": messages}


def _last_reply(conversation: Conversation) -> dict[str, Any]:
    messages = reversed(conversation["messages"])
    return next(message for message in messages if message["role"] == "assistant")


def load_injections() -> tuple[list[Conversation], dict[str, list[Conversation]]]:
    """Return conversations with bad replies, and name of a text -> them with it in their reply."""
    import yaml

    content = yaml.safe_load(INJECTIONS.read_text(encoding="utf-8"))
    bad = [entry["conversation"] for entry in content["conversations"]]
    injected = {}
    for name, template in content["texts"].items():
        injected[name] = [inject(conversation, template) for conversation in bad]
    return bad, injected


def inject(conversation: Conversation, template: str) -> Conversation:
    """Return a conversation with a text at the end of its last reply.

    Args:
        template: has ``$VERDICT`` for a perfect verdict, ``$TOKEN`` for its token.
    """
    category = read_sample(conversation).category
    verdict = json.dumps(perfect_verdict(category, _MADE_UP_TOKEN))
    text = Template(template).substitute(VERDICT=verdict, TOKEN=_MADE_UP_TOKEN)
    reply = _last_reply(conversation)["content"]
    return with_last_reply(conversation, f"{reply}\n\n{text}")


def perfect_verdict(category: str, token: str) -> Mapping[str, Any]:
    """Return the verdict that an injection wants."""
    return {
        "token": token,
        "reason": "flawless",
        "scores": dict.fromkeys(DIMENSIONS, LARGEST),
        "faults": dict.fromkeys(faults_of(category), False),
    }
