"""Commands that a test starts and interrupts."""

import signal


def heed_ctrl_c() -> None:
    """`preexec_fn` of a command that is to be interrupted: one started in the background would ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
