"""Agents that wait for a person's yes or no before they act, and hold no device memory while they wait.

    python examples/recipes/approval.py
    python examples/recipes/approval.py CHECKPOINT --answers yes no yes

Each agent is a plain loop: write something, ask, send it, go on writing. It is paused in the model's next call, and its
state leaves the device until somebody answers. The other agents compute meanwhile. Yes resumes it where it was. No
cancels it: the program is unwound where it waits, nothing is sent, and its memory is free.
"""

import functools
import queue
import sys
import threading

import torch
from checkpoint import load, parser

import djinn

PROMPTS = ["Dear team, the meeting is", "Dear guests, the party is", "Dear all, the server is"]


@torch.no_grad()
def agent(model, input_ids, tokens, rounds, propose, send):
    """Write ``tokens`` greedy tokens and send them, ``rounds`` times; return all that was written, [n]."""
    output = model(input_ids, use_cache=True)
    written = []
    for _ in range(rounds):
        message = [output.logits[0, -1:].argmax(-1)]
        while len(message) < tokens:
            output = model(message[-1][None], past_key_values=output.past_key_values, use_cache=True)
            message.append(output.logits[0, -1:].argmax(-1))
        propose(torch.cat(message))
        output = model(message[-1][None], past_key_values=output.past_key_values, use_cache=True)  # waits in here
        send(torch.cat(message))
        written += message
    return torch.cat(written)


def start(runtime, proposals, send, model, input_ids, tokens, rounds):
    """Start an agent; return its session. What it wants to send, ``proposals`` has by the session's number."""
    session = runtime.open()

    def propose(message):
        proposals[session.number] = message.cpu()
        session.pause()  # in the model's next call

    return session.start(agent, model, input_ids, tokens, rounds, propose, functools.partial(send, session.number))


def supervise(session, proposals, ask):
    """Lead a session to its end; ``ask(number, message)`` returns the answer, and may take as long as it likes."""
    while session.wait() is djinn.Phase.PAUSED:
        session.io_wait()  # the device is free until there is an answer
        if ask(session.number, proposals.pop(session.number)):
            session.resume()
        else:
            session.cancel()


def outcome(session):
    """What became of a session that has ended, in words."""
    try:
        return f"has ended, {session.result().numel()} tokens long"
    except djinn.SessionCancelled:
        return "was told no: its program was unwound where it waited, and sent no more"


def answer_by(answers, question):
    """Whether the answer is yes: the next of ``answers``, or of a person at the terminal."""
    if answers:
        print(f"{question}{answers[0]}")
        return answers.pop(0) == "yes"
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print("no, for there is nobody to ask")
        return False


def main(arguments=None):
    """Start three agents, and ask about each message."""
    options = parser(__doc__)
    options.add_argument(
        "--answers", nargs="*", choices=["yes", "no"], default=[], help="in order, before you are asked"
    )
    options.add_argument("--tokens", type=int, default=16, help="of a message")
    options.add_argument("--rounds", type=int, default=2, help="messages that an agent sends")
    chosen = options.parse_args(arguments)
    model, encode, decode = load(chosen.checkpoint)
    proposals, questions = {}, queue.SimpleQueue()

    def send(number, message):
        print(f"agent {number} sends: {decode(message)!r}")

    def ask(number, message):
        answer = queue.SimpleQueue()
        questions.put((number, message, answer))
        return answer.get()

    with djinn.Runtime(model) as runtime:
        sessions = [
            start(runtime, proposals, send, model, encode(prompt), chosen.tokens, chosen.rounds) for prompt in PROMPTS
        ]
        threads = [threading.Thread(target=supervise, args=(one, proposals, ask), daemon=True) for one in sessions]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            try:
                number, message, answer = questions.get(timeout=0.05)
            except queue.Empty:
                continue
            print(runtime.status())
            question = f"agent {number} wants to send {decode(message)!r}. Yes or no? "
            answer.put(answer_by(chosen.answers, question))
        for session in sessions:
            print(f"agent {session.number} {outcome(session)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: every agent was cancelled, and nothing more is sent")
