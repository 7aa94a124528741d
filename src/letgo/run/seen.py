"""What the model sees of a run's data, checked before anything is trained."""

import unicodedata
from array import array
from collections.abc import Sequence
from typing import Any

from letgo.data.conversations import pieces
from letgo.data.records import Record
from letgo.data.tokens import all_example_ids, all_prompt_ids, example_ids
from letgo.errors import InputError, first_line
from letgo.models.loading import embeddings, load_config, stop_ids
from letgo.progress import log, track
from letgo.run.base import load_base_tokenizer
from letgo.run.config import Config
from letgo.run.first_examples import shorten

CHUNK = 1000  # records that are tokenized at once
MOST_EXAMPLES = 1000  # of each set: so many answers are checked, evenly spread over the set
MOST_LIKE_ANOTHER = 0.01  # of the prompts of a set
TEMPLATE = "give another template by --chat_template_path"


class Prompts:
    """The prompts of a run as the model sees them: prompts with the same token ids are one prompt.

    Each text is tokenized once.

    Args:
        tokenizer: of the base model.
        embeddings: for how many tokens the model has embeddings.
        stops: ids of the tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, embeddings: int, stops: set[int]):
        self.tokenizer, self.stops = tokenizer, stops
        highest = max(tokenizer.get_vocab().values(), default=0)
        # Only then can a text have a token that the model does not know.
        self.embeddings = embeddings if highest >= embeddings else None
        self._first: dict[bytes, Record] = {}  # by token ids
        self._ids: dict[str, bytes] = {}  # token ids by prompt

    def unified(self, flag: str, records: list[Record]) -> list[Record]:
        """The records; a prompt with the token ids of an earlier one is replaced by that one.

        Args:
            flag: where the records came from.
            records: of a set; those without a prompt are returned as they are.

        Raises:
            InputError: a prompt whose text is not in its tokens, or that has the tokens of quite
                another prompt, or a token that the model has no embedding for.
        """
        new: dict[str, Record] = {}
        for record in records:
            if record.prompt and record.prompt not in self._ids:
                new.setdefault(record.prompt, record)
        pending = list(new.values())
        lost: list[Record] = []
        alike: list[tuple[Record, Record]] = []
        starts = range(0, len(pending), CHUNK)
        for start in track(starts, "tokenize prompts", len(starts)):
            chunk = pending[start : start + CHUNK]
            ids = self._tokenize(flag, chunk)
            texts = self.tokenizer.batch_decode(ids)
            for record, row, text in zip(chunk, ids, texts, strict=True):
                self._require_embeddings(flag, record, row)
                if missing := [p for p in pieces(record.prompt) if not contains(text, p)]:
                    self._require_kept(flag, record, text, missing)
                    lost.append(record)
                self._ids[record.prompt] = array("I", row).tobytes()
                first = self._first.setdefault(self._ids[record.prompt], record)
                if first is not record and _letters(first.prompt) != _letters(record.prompt):
                    alike.append((first, record))
        if lost:
            message = "%s: the tokenizer cannot write all of %d of %d prompts (first: %s)"
            log.warning(message, flag, len(lost), len(pending), lost[0].where)
        if alike:
            self._report_alike(flag, alike, len(pending))
        return [self._like_first(record) if record.prompt else record for record in records]

    def _like_first(self, record: Record) -> Record:
        first = self._first[self._ids[record.prompt]].prompt
        return record if first == record.prompt else record._replace(prompt=first)

    def check_answers(self, flag: str, records: list[Record]) -> None:
        """Check what is learned of labelled examples; of a large set, of some spread over it.

        Args:
            flag: where the records came from.
            records: with completions, and prompts of `unified`.

        Raises:
            InputError: the answer is not what is learned, or not the end of an answer after it.
        """
        step = 1 if self.embeddings else -(-len(records) // MOST_EXAMPLES) or 1
        stops = [t for t in self.tokenizer.convert_ids_to_tokens(sorted(self.stops)) if t]
        suspects = [r for r in records if any(stop in (r.completion or "") for stop in stops)]
        checked, lost = [*records[::step], *suspects], []
        for start in range(0, len(checked), CHUNK):
            chunk = checked[start : start + CHUNK]
            pairs = [(record.prompt, record.completion or "") for record in chunk]
            prompts = [list(array("I", self._ids.get(prompt, b""))) for prompt, _ in pairs]
            try:
                examples = all_example_ids(self.tokenizer, pairs, prompts)
            except Exception as error:  # a template may raise anything
                raise _rendering_error(self.tokenizer, flag, chunk, error) from error
            for record, (before, learned) in zip(chunk, examples, strict=True):
                self._require_embeddings(flag, record, learned)
                self._require_masked(flag, record, before, learned)
                _require_stop(self.tokenizer, flag, record, learned, self.stops)
                if not self._is_answer(flag, record, learned):
                    lost.append(record)
        if lost:
            message = "%s: the tokenizer cannot write all of %d of %d completions (first: %s)"
            log.warning(message, flag, len(lost), len(checked), lost[0].where)

    def check_texts(self, flag: str, records: list[Record]) -> None:
        """Refuse texts without a prompt that have a token which the model does not know."""
        if self.embeddings:
            for record in records:
                if not record.prompt:
                    ids = self.tokenizer(record.completion or "")["input_ids"]
                    self._require_embeddings(flag, record, ids)

    def _tokenize(self, flag: str, records: list[Record]) -> list[list[int]]:
        try:
            return all_prompt_ids(self.tokenizer, [record.prompt for record in records])
        except Exception as error:  # a template may raise anything
            raise _rendering_error(self.tokenizer, flag, records, error) from error

    def _require_embeddings(self, flag: str, record: Record, ids: Sequence[int]) -> None:
        if self.embeddings is None or max(ids, default=0) < self.embeddings:
            return
        token = self.tokenizer.convert_ids_to_tokens(max(ids))
        raise InputError(
            f"{flag}: {record.where}: its token {token!r} has the id {max(ids)}, but the model has "
            f"embeddings for {self.embeddings} tokens; use the tokenizer that belongs to the "
            f"model, or resize the model's embeddings (resize_token_embeddings) and save it"
        )

    def _require_kept(self, flag: str, record: Record, text: str, missing: Sequence[str]) -> None:
        """Refuse a prompt whose text the chat template drops; the tokenizer may not have it all."""
        if self._can_write(missing):
            raise InputError(
                f"{flag}: {record.where}: the chat template drops text of the prompt, of which the "
                f"model sees {shorten(text)!r}; {TEMPLATE}"
            )

    def _can_write(self, texts: Sequence[str]) -> bool:
        """Whether the tokenizer has all that one of the texts is made of."""
        return any(
            contains(self.tokenizer.decode(self.tokenizer(text)["input_ids"]), text)
            for text in texts
        )

    def _report_alike(self, flag: str, alike: list[tuple[Record, Record]], count: int) -> None:
        """Refuse different prompts with the same tokens if it is the template, or if many are."""
        first, second = alike[0]
        ids = self.tokenizer([first.prompt, second.prompt])["input_ids"]
        message = (
            f"{flag}: {second.where} and {first.where} are different prompts, but the model sees "
            f"the same tokens"
        )
        if ids[0] != ids[1]:
            raise InputError(f"{message}: the chat template drops what differs; {TEMPLATE}")
        message += f" ({len(alike)} of {count} prompts are like another)"
        if len(alike) > MOST_LIKE_ANOTHER * count:
            raise InputError(f"{message}; use a model whose tokenizer has these characters")
        log.warning("%s", message)

    def _require_masked(
        self, flag: str, record: Record, before: list[int], learned: list[int]
    ) -> None:
        """Refuse an example whose prompt would be learned too."""
        decode, prompt = self.tokenizer.decode, pieces(record.prompt)[-1]
        # One token may hold the end of the prompt and the beginning of the answer.
        if not prompt or len(array("I", self._ids[record.prompt])) - len(before) < 2:
            return
        shown = contains(decode(before), prompt) or contains(record.completion or "", prompt)
        if not shown and contains(decode(learned), prompt):
            raise InputError(
                f"{flag}: {record.where}: the chat template renders the prompt otherwise when an "
                f"answer follows, so that the prompt would be learned too; {TEMPLATE}"
            )

    def _is_answer(self, flag: str, record: Record, learned: list[int]) -> bool:
        """Whether the completion is what is learned; False if the tokenizer cannot write it."""
        decode, completion = self.tokenizer.decode, record.completion or ""
        end = next(i for i, token in enumerate(learned) if token in self.stops)
        text = decode(learned[:end])
        missing = [piece for piece in pieces(completion) if not contains(text, piece)]
        if not missing:
            return True
        if self._can_write(missing):
            raise InputError(
                f"{flag}: {record.where}: the chat template drops text of the completion, of which "
                f"{shorten(text)!r} would be learned; {TEMPLATE}"
            )
        return False


def load_prompts(config: Config) -> Prompts:
    """No prompts yet, of a run with these settings.

    Raises:
        InputError: there is no such model, or its tokenizer cannot be used.
    """
    name, flags = config.settings.model, config.adapter
    trust = config.training.trust_remote_code
    hub = {"revision": flags.model_revision, "trust_remote_code": trust}
    tokenizer, known = load_base_tokenizer(config), embeddings(load_config(name, **hub))
    if tokenizer.pad_token_id >= known:  # `load_tokenizer` has chosen one that is not
        raise InputError(
            f"--pad_token: {tokenizer.pad_token!r} has the id {tokenizer.pad_token_id}, but the "
            f"model has embeddings for {known} tokens; leave the flag out"
        )
    return Prompts(tokenizer, known, stop_ids(name, tokenizer, **hub))


def _require_stop(
    tokenizer: Any, flag: str, record: Record, learned: list[int], stops: set[int]
) -> None:
    """Refuse an example that does not teach to end the answer, or to end it too early."""
    completion, tokens = record.completion or "", tokenizer.convert_ids_to_tokens(sorted(stops))
    inside = [token for token in tokens if token and token in completion]
    if inside and stops & {*tokenizer(completion, add_special_tokens=False)["input_ids"]}:
        raise InputError(
            f"{flag}: {record.where}: the completion contains the stop token {inside[0]!r}, which "
            f"letgo adds where the answer ends; take it out of the data"
        )
    ends = [token for token in learned if token in stops]
    if not ends:
        special = [i for i in learned if i in tokenizer.added_tokens_decoder]
        last = tokenizer.convert_ids_to_tokens(special[-1]) if special else None
        remedy = f"--eos_token '{last}'" if last else f"--eos_token, or {TEMPLATE}"
        raise InputError(
            f"{flag}: {record.where}: the model would not learn to end its answer: what is "
            f"learned, {shorten(tokenizer.decode(learned))!r}, has none of its stop tokens "
            f"({', '.join(map(str, tokens)) or 'there is none'}); set {remedy}"
        )
    if len(ends) > len(set(ends)):
        raise InputError(
            f"{flag}: {record.where}: the stop token is learned {len(ends)} times: "
            f"{shorten(tokenizer.decode(learned))!r}; {TEMPLATE}"
        )


def _rendering_error(
    tokenizer: Any, flag: str, records: list[Record], error: Exception
) -> InputError:
    """The error of the first record that cannot be rendered; `error` is that of them all."""
    for record in records:
        try:
            example_ids(tokenizer, record.prompt, record.completion or "x")
        except Exception as own:
            where, error = f"{record.where}: ", own
            break
    else:
        where = ""
    return InputError(
        f"{flag}: {where}the chat template cannot render it ({first_line(error)}); {TEMPLATE}"
    )


def contains(text: str, part: str) -> bool:
    """Whether all words and numbers of `part` are in `text`, in this order and nothing between.

    White space, case, accents and signs may differ: tokenizers and templates change them.
    """
    if part.strip() in text:
        return True
    words = "".join(filter(str.isalnum, _letters(part)))
    return words in "".join(filter(str.isalnum, _letters(text))) if words else False


def _letters(text: str) -> str:
    """The text without white space, and without differences of case and accents."""
    if text.isascii():
        return "".join(text.split()).casefold()
    plain = unicodedata.normalize("NFKD", text).casefold()
    dropped = ("Mn", "Cc", "Cf", "Zs", "Zl", "Zp")
    return "".join(c for c in plain if unicodedata.category(c) not in dropped)
