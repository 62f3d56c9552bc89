"""The ways in which a data directory can refuse: each one line for the operator, with an exit status of its
own."""


class StoreRefused(Exception):
    """This directory must not be used as asked: wrong owner, wrong member, newer format. `text` is one
    line."""

    exit_status = 3

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class CorruptRecord(StoreRefused):
    """A record that is not what was written. It is neither served nor removed (hazards 60, 75).

    `index` is the log index, or the key of a record in another table, or empty for the table as a whole.
    """

    def __init__(self, table: str, index: int | str, what: str) -> None:
        place = f"table {table}, record {index}" if index != "" else f"table {table}"
        super().__init__(f"corrupt data: {place}: {what}")
        self.table = table
        self.index = index
        self.what = what


class Fenced(Exception):
    """A storage error has ended this member's use of its disk until the next reboot (hazards 61-64)."""

    exit_status = 4

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
