"""What can go wrong with a run, its configuration, or what it leaves behind."""


class ConfigError(Exception):
    """A configuration file that cannot be used as it is."""


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged, or of another kind or shape than expected."""


class RunInterruptedError(Exception):
    """Ctrl-C; what is done so far is kept and the run can go on."""
