"""The errors a user is meant to read: one message, the place at fault, the way out."""


class RetrievaError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with 1."""

    was_told = False
    """Whether the message has been printed already, by this process or by another of its run."""


class RecipeError(RetrievaError):
    """A recipe (or another YAML file) that cannot be used; the message names file and line."""


class CorpusError(RetrievaError):
    """A corpus on disk that does not fit the recipe, its manifest or its tokenizer."""


class CheckpointError(RetrievaError):
    """A checkpoint that is damaged or belongs to another recipe."""


class RunIsHeldError(CheckpointError):
    """Another training is at work on the run; it may be a lost node's, whose lock the file system has yet to free."""


class EvaluationError(RetrievaError):
    """A model or data that cannot be evaluated."""


class LaunchError(RetrievaError):
    """Jobs that cannot be submitted, or a scheduler that refuses them."""


class PreflightError(RetrievaError):
    """A measurement that cannot go on."""


class SkippedStepsError(RetrievaError):
    """Too many steps in a row had to be skipped; all processes of a run find it alike."""
