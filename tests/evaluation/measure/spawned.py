"""A program for a process of its own, in a module that imports nothing: a fresh process has it soon."""


def program(connection, study, more):
    """Reports, waits for a word, and says what it was given."""
    connection.send(("report", "at work"))
    connection.send(("paused", None))
    return connection.recv(), study.device, more


def waits(connection, study):
    """Until the job hangs up."""
    connection.send(("paused", None))
    connection.recv()
