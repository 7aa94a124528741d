"""Which columns of a source are read, and of which form its records are."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from letgo.data.alternatives import answers_of, choices_of
from letgo.data.forms import FORMS, MEDIA, NAMES, WEIGHT, Form, Pair, Row
from letgo.data.weights import weight_of
from letgo.errors import InputError


def read_columns(words: Sequence[str]) -> dict[str, str]:
    """The columns of `--columns prompt=question completion=answer`, by letgo's names.

    Raises:
        InputError: names the word that cannot be used.
    """
    columns: dict[str, str] = {}
    for word in words:
        name, equals, column = word.partition("=")
        if not equals or name not in NAMES or not column:
            names = ", ".join(sorted(NAMES))
            raise InputError(
                f"--columns: {word!r} is not NAME=COLUMN; give for example prompt=question "
                f"completion=answer (names: {names})"
            )
        if name in columns or column in columns.values():
            raise InputError(f"--columns: {word!r} gives {name!r} or {column!r} twice; keep one")
        columns[name] = column
    return columns


def form_of(columns: Collection[str], named: Collection[str] = ()) -> Form:
    """The only form whose columns these are.

    Args:
        columns: of a record, by letgo's names.
        named: those that `--columns` names; another form's columns do not count then.

    Raises:
        InputError: there is none, or there are several.
    """
    found = [form for form in FORMS if {*form.asked} <= {*columns}]
    found = [form for form in found if {*named} <= {*form.used(columns)}]
    uses = {form.name: {*form.used(columns)} for form in found}
    forms = [
        form
        for form in found
        if not any(uses[form.name] < uses[other.name] for other in found if other is not form)
    ]
    listed = ", ".join(map(str, columns))[:200] or "nothing"
    if not forms:
        asked = ", ".join(" and ".join(map(repr, form.asked)) for form in FORMS)
        raise InputError(
            f"none of {asked} (found: {listed}); name the columns, for example --columns "
            f"prompt=question completion=answer"
        )
    if len(forms) > 1:
        both = " and ".join(f"{f.name} ({', '.join(f.used(columns))})" for f in forms)
        first = " ".join(f"{name}={name}" for name in forms[0].used(columns))
        raise InputError(f"the columns of several forms: {both}; choose, e.g. --columns {first}")
    return forms[0]


class Found(NamedTuple):
    """What the columns of a record are: its form, its columns by letgo's names, its pictures."""

    form: Form
    columns: Mapping[str, str]
    media: tuple[str, ...]


class FormReader:
    """Reads the records of one source, which have all the same form.

    Args:
        named: columns by letgo's names (`read_columns`); a record that has none of them is read
            by its own columns.
    """

    def __init__(self, named: Mapping[str, str] | None = None):
        self.named = named or {}
        self.first: Form | None = None
        self.names: Sequence[str] = ()  # of a table
        self.seen: set[str] = set()  # columns that were read
        self._found: dict[tuple[str, ...], Found] = {}

    def columns(self, names: Sequence[str]) -> list[str]:
        """Those of a table's columns that are read.

        Raises:
            InputError: two columns have one of these names; none or several forms have them.
        """
        self.names, found = names, self._find(tuple(dict.fromkeys(names)))
        used = [*found.columns.values(), *(name for name in names if name in MEDIA)]
        for name in used:
            if names.count(name) > 1:
                raise InputError(f"has {names.count(name)} columns {name!r}; keep one")
        return used

    def read(self, row: Row) -> Pair:
        """The prompt and the answer of a record.

        Raises:
            InputError: what is wrong with it.
        """
        found = self._found.get(tuple(row)) or self._find(tuple(row))
        for name in found.media:
            if row[name]:
                raise InputError(f"it has {name!r}; letgo trains on text only")
        row = self._by_name(row)
        for name in found.form.asked:
            if row[name] is None:
                raise InputError(f"no {name!r} (found: null)")
        return found.form.read(row)

    def alternatives(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The further right answers of a record that was read, and its choices.

        Raises:
            InputError: what is wrong with them.
        """
        if self._found[tuple(row)].columns.keys().isdisjoint(("answers", "choices")):
            return (), ()
        row = self._by_name(row)
        return answers_of(row), choices_of(row)

    def weight(self, row: Row) -> float:
        """The weight of a record that was read; 1 if it has none.

        Raises:
            InputError: it is not a number from -1 to 1.
        """
        return weight_of(self._by_name(row).get(WEIGHT))

    def _by_name(self, row: Row) -> Row:
        columns = self._found[tuple(row)].columns
        return {name: row[column] for name, column in columns.items()} if self.named else row

    def _find(self, names: tuple[str, ...]) -> Found:
        own = {name: column for name, column in self.named.items() if column in names}
        columns = {name: name for name in names if name not in own.values()} | own
        try:
            form = form_of(columns, own)
        except InputError as error:
            missing = [n for n in self.first.asked if n not in columns] if self.first else []
            if missing and "found:" in str(error):
                listed = ", ".join(map(str, names))[:200] or "nothing"
                raise InputError(f"no {missing[0]!r} (found: {listed})") from error
            raise
        if self.first not in (None, form):
            raise InputError(
                f"two forms in one source: {form.name} (found: {', '.join(names)[:200]}), after "
                f"records of {self.first.name}; give them as two files"
            )
        self.first = form
        used = {name: columns[name] for name in form.used(columns)}
        self._found[names] = Found(form, used, tuple(name for name in names if name in MEDIA))
        self.seen |= {*used.values()}
        return self._found[names]

    def no_answer(self, row: Row) -> InputError:
        """The error of a record without the answer that is to be learned."""
        asked, answer = self._found[tuple(row)].form[1:3]
        if answer in asked:
            return InputError(f"the conversation in {answer!r} does not end with an answer")
        found = ", ".join(map(str, self.names or row))
        if self._found[tuple(row)].columns.get(answer) in row:
            found = "null"
        return InputError(f"no {answer!r} (found: {found[:200]})")
