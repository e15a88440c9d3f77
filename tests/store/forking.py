"""Children that do one thing and end."""

import os
import traceback
from collections.abc import Callable


def forked(run: Callable[[], object]) -> int:
    """The process id of a child that runs this and ends."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        # Nobody else will tell: the child ends here.
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def waited(child: int) -> int:
    """How a child has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
