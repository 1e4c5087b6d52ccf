"""What core raises for input that its caller can mend."""


class InvalidInputError(ValueError):
    """A setting, an array or a file that cannot be used as it is.

    Attributes:
        field: What is wrong: the setting's or the file's name, such as `batch_size` or `params.npz`.
        problem: What came, and what is allowed. `str()` of the error puts the field before it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem
